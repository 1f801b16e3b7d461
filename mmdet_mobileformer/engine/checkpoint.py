"""Reading what a checkpoint says about itself, as data: nothing in the file is executed."""

from __future__ import annotations

import os
from typing import Any

from mmdet_mobileformer.checkpoints import load_checkpoint_as_data
from mmdet_mobileformer.engine.errors import UserError


def check_checkpoint(path: str) -> None:
    """Check that a local checkpoint exists; addresses are left to mmengine.

    Raises:
        UserError: If there is no such file.
    """
    if '://' not in path and not os.path.isfile(path):
        raise UserError(f'the checkpoint {path} does not exist (looked from {os.getcwd()}).')


def checkpoint_classes(path: str) -> tuple[str, ...] | None:
    """Class names that a local checkpoint of mmengine was trained for, if it says so.

    Args:
        path: The file.

    Raises:
        UserError: If the file holds more than data, or cannot be read.
    """
    if not os.path.isfile(path):
        return None
    checkpoint = load_checkpoint_as_data(path)
    meta: dict[str, Any] = checkpoint.get('meta') or {}
    classes = (meta.get('dataset_meta') or {}).get('classes')
    return tuple(classes) if classes else None
