"""The authors' checkpoints: fetched from where they put them, and converted, in both directions."""

import hashlib
import io
import os
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from mmdet_mobileformer.checkpoints.reading import load_checkpoint_as_data, select_state_dict
from mmdet_mobileformer.checkpoints.writing import write_durably
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.released.keys import from_official, recognise_variant, to_official

# Google Drive ids of the released checkpoints (released model).
FILE_IDS = {
    '26m': '15uWYzx2VWWUjacZQHB56vOHzKxQDlp5O',
    '52m': '1ekq_FPl57gjIlYX16Ll0nBuEyB0pjgGt',
    '96m': '1kMbRceswujtliCHKr-nxMFsrkvBrEfrW',
    '151m': '1w4QO-zhJ8QI1zGu7iOZ7lXxYJ5G1VXdF',
    '214m': '13MOjdIMMBJgqyq_ld-grRhBBHOFU5Ggd',
    '294m': '1JBSM7NJ60fN9TgT5sMnbhmbZwrzcBd0r',
    '508m': '1bqLIcpbCaxK-Eb4wcxk0iJpFJ1nXfGuF',
}


def download(variant: str, path: str) -> None:
    """Fetch a variant's published checkpoint with gdown, which shows its progress.

    Args:
        variant: A key of :data:`FILE_IDS`.
        path: File to write. One that is there already is kept, and nothing is fetched.

    Raises:
        UserError: If gdown is missing or the file cannot be fetched; the message says how to get it
            by hand.
    """
    if os.path.isfile(path):
        return
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    partial = f'{path}.partial'
    try:
        import gdown

        gdown.download(id=FILE_IDS[variant], output=partial, quiet=False)
        os.replace(partial, path)
    except Exception as error:  # gdown passes on whatever the network made fail
        with suppress(FileNotFoundError):
            os.remove(partial)
        raise UserError(
            f'the checkpoint of {variant} cannot be fetched ({error}); pip install gdown, or open '
            f'https://drive.google.com/uc?id={FILE_IDS[variant]} in a browser, save the file as '
            f'{path}, and run again.'
        ) from None


def convert_checkpoint(source: str, destination: str, ema: bool = False) -> dict[str, Any]:
    """Convert an ImageNet checkpoint in the authors' format to this project's.

    The result holds ``state_dict`` with the keys ``backbone.*`` and ``head.*`` of
    ``MobileFormerClassifier``, and ``meta``: the variant, the source's file name, its SHA-256, and
    the key its weights were under.

    Args:
        source: File in PyTorch's or safetensors' format: a state dict, or a dict that holds one.
        destination: File to write; it is not there, or not changed, before all of it is.
        ema: Take the averaged weights where there are both.

    Returns:
        The ``meta`` that was written.

    Raises:
        UserError: If the source is no data, no whole checkpoint of a variant, or the destination
            cannot be written.
    """
    under, weights = _read(source, destination, ema)
    variant = recognise_variant(weights, source)
    with open(os.path.expanduser(source), 'rb') as file:
        sha256 = hashlib.file_digest(file, 'sha256').hexdigest()
    meta = dict(
        variant=variant,
        source=os.path.basename(source),
        source_sha256=sha256,
        source_key=under,
    )
    _write(dict(meta=meta, state_dict=from_official(weights, variant)), destination)
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
    _, weights = _read(source, destination)
    variant = recognise_variant(weights, source, official=False)
    _write(dict(state_dict=to_official(weights, variant)), destination)
    return variant


def _read(source: str, destination: str, ema: bool = False) -> tuple[str, dict[str, Tensor]]:
    """The source's weights, and the key they were under."""
    if os.path.realpath(source) == os.path.realpath(destination):
        raise UserError(f'{destination} is the source itself; name another file to write.')
    return select_state_dict(load_checkpoint_as_data(source), source, ema=ema)


def _write(checkpoint: dict[str, Any], path: str) -> None:
    content = io.BytesIO()
    torch.save(checkpoint, content)
    write_durably(path, content.getvalue())
