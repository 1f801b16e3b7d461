"""Checkpoint files: read as data only, converted from and to the authors' format, written whole."""

from mmdet_mobileformer.checkpoints.reading import (
    load_checkpoint_as_data,
    select_state_dict,
    trust_files,
)

__all__ = ['load_checkpoint_as_data', 'select_state_dict', 'trust_files']
