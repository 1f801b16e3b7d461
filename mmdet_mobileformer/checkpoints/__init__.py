"""Checkpoint files: read as data only, compared with a model's weights, written whole.

It knows no network; of this package it may import the ground floor alone.
"""

from mmdet_mobileformer.checkpoints.reading import (
    load_checkpoint_as_data,
    select_state_dict,
    trust_files,
)

__all__ = ['load_checkpoint_as_data', 'select_state_dict', 'trust_files']
