"""Every checkpoint that mmengine loads for the tools is read as data."""

import pickle
from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader, load_from_http

from mmdet_mobileformer.checkpoints.reading import (
    Location,
    load_checkpoint_as_data,
    refusal,
    trust_files,
)
from mmdet_mobileformer.errors import UserError


def load_checkpoints_as_data(trust: bool = False) -> None:
    """Make mmengine read checkpoints by :func:`load_checkpoint_as_data`, in this process.

    mmengine of the onedl family reads a file that holds more than data with a warning, and so runs
    what it asks for. Whatever else calls ``torch.load`` (model zoos, storage services) is held to
    data by torch's own switch.

    Args:
        trust: Read whatever the files hold: for one's own old files only.
    """
    trust_files(trust)
    CheckpointLoader.register_scheme('', _load_local, force=True)
    CheckpointLoader.register_scheme(('http://', 'https://'), _load_address, force=True)


def _load_local(path: str, map_location: Location = None) -> dict[str, Any]:
    checkpoint = load_checkpoint_as_data(path, map_location)
    # When it resumes, mmengine would run this text as a config; what it writes itself is `cfg`.
    if isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return checkpoint


def _load_address(path: str, map_location: Location = None) -> dict[str, Any]:
    try:
        return load_from_http(path, map_location)
    except pickle.UnpicklingError as error:
        raise UserError(refusal(path, error)) from None
    except OSError as error:  # among them those of urllib
        raise UserError(
            f'{path} cannot be downloaded ({error}); download it by other means and name the file.'
        ) from None
