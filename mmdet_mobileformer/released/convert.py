"""Conversion between the authors' checkpoints and this project's, strict in both directions."""

import hashlib
import io
import os
from typing import Any

import torch

from mmdet_mobileformer.checkpoints.reading import load_checkpoint_as_data, select_state_dict
from mmdet_mobileformer.checkpoints.writing import write_durably
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.released.keys import (
    PAPER_TOP1,
    from_official,
    recognise_variant,
    to_official,
)


def convert_checkpoint(
    source: str, destination: str, ema: bool = False, variant: str | None = None
) -> dict[str, Any]:
    """Convert an ImageNet checkpoint in the authors' format to this project's.

    The result holds ``state_dict`` with the keys ``backbone.*`` and ``head.*`` of
    ``MobileFormerClassifier``, and ``meta``: the variant, the source's file name, its SHA-256, the
    key its weights were under, and the top-1 accuracy that the paper reports for the variant.

    Args:
        source: File in PyTorch's or safetensors' format: a state dict, or a dict that holds one.
        destination: File to write; it is not there, or not changed, before all of it is.
        ema: Take the averaged weights where there are both.
        variant: What the source must be of; None takes any of the seven.

    Returns:
        The ``meta`` that was written.

    Raises:
        UserError: If the source is no data, no whole checkpoint of a variant, or the destination
            cannot be written.
    """
    _check_paths(source, destination)
    checkpoint = load_checkpoint_as_data(source)
    under, weights = select_state_dict(checkpoint, source, ema=ema)
    if any(key.startswith('backbone.') for key in weights):
        raise UserError(
            f"{source} is in this project's format already; name it as it is, or go back to the "
            "authors' by --to-official."
        )
    found = recognise_variant(weights, source)
    if variant not in (None, found):
        raise UserError(
            f'{source} is of variant {found} instead of {variant}; remove or rename it.'
        )
    meta = dict(
        variant=found,
        source=os.path.basename(source),
        source_sha256=_sha256(source),
        source_key=under,
        imagenet_top1_reported_by_paper=PAPER_TOP1[found],
    )
    write_checkpoint(dict(meta=meta, state_dict=from_official(weights, found)), destination)
    return meta


def convert_to_official(source: str, destination: str) -> str:
    """Convert a checkpoint of this project, or of ImageNet training, to the authors' format.

    The result is ``{'state_dict': ...}`` with the authors' keys in their order; of a converted
    checkpoint it holds exactly the weights that were converted.

    Args:
        source: The classifier's checkpoint, with keys ``backbone.*`` and ``head.*``.
        destination: File to write, whole or not at all.

    Returns:
        The variant.

    Raises:
        UserError: As :func:`convert_checkpoint`.
    """
    _check_paths(source, destination)
    _, weights = select_state_dict(load_checkpoint_as_data(source), source)
    variant = recognise_variant(weights, source, official=False)
    write_checkpoint(dict(state_dict=to_official(weights, variant)), destination)
    return variant


def write_checkpoint(checkpoint: dict[str, Any], path: str) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        UserError: If it cannot be written.
    """
    content = io.BytesIO()
    torch.save(checkpoint, content)
    write_durably(path, content.getvalue())


def _check_paths(source: str, destination: str) -> None:
    if os.path.isdir(destination):
        raise UserError(f'{destination} is a folder; name the file to write.')
    both = os.path.exists(source) and os.path.exists(destination)
    if both and os.path.samefile(source, destination):
        raise UserError(f'{destination} is the source itself; name another file to write.')


def _sha256(path: str) -> str:
    with open(os.path.expanduser(path), 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
