"""Every checkpoint that mmengine loads for the tools is read as data."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import torch
from mmengine.dist import barrier, get_local_rank
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from mmdet_mobileformer.checkpoints import load_checkpoint_as_data, trust_files
from mmdet_mobileformer.errors import UserError

Location = str | torch.device | Callable | None
_HTTP = ('http://', 'https://')
_REMOTE = ('pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://')


def load_checkpoints_as_data(trust: bool = False) -> None:
    """Make mmengine read checkpoints by :func:`load_checkpoint_as_data`, in this process.

    mmengine of the onedl family reads a file that holds more than data with a warning, and so runs
    what it asks for; the official one refuses its own checkpoints under torch 2.6 and later. Names
    of model zoos (``torchvision://`` and the like) lead to addresses, whose files are read in the
    same way. Storage services, which mmengine would read by itself, are refused.

    Args:
        trust: Read whatever the files hold: for one's own old files only.
    """

    def load_from_local(path: str, map_location: Location = None) -> dict[str, Any]:
        checkpoint = load_checkpoint_as_data(path)
        # When it resumes, mmengine would run this text as a config; what it writes itself is `cfg`.
        if isinstance(checkpoint.get('meta'), dict):
            checkpoint['meta'].pop('config', None)
        return _move(checkpoint, map_location)

    def load_from_http(
        path: str,
        map_location: Location = None,
        model_dir: str | None = None,
        progress: bool = False,
    ) -> dict[str, Any]:
        return load_from_local(_download(path, model_dir, progress), map_location)

    trust_files(trust)
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    CheckpointLoader.register_scheme(_HTTP, load_from_http, force=True)
    CheckpointLoader.register_scheme(_REMOTE, _refuse, force=True)
    # The loaders of model zoos call this function by its name.
    mmengine_checkpoint.load_from_http = load_from_http


def _refuse(path: str, map_location: Location = None) -> None:
    raise UserError(
        f'{path} is on a storage service, from which checkpoints are not read as data here; '
        'download it and name the file.'
    )


def _move(value: Any, map_location: Location) -> Any:  # noqa: ANN401 (of any type)
    """Bring all tensors of a checkpoint to a device; only names and devices are understood."""
    if map_location is None or callable(map_location) or str(map_location) == 'cpu':
        return value
    if isinstance(value, Tensor):
        return value.to(map_location)
    if isinstance(value, dict):
        moved = [(key, _move(item, map_location)) for key, item in value.items()]
        return type(value)(moved)
    if type(value) in (list, tuple):
        return type(value)(_move(item, map_location) for item in value)
    return value


def _download(address: str, folder: str | None, progress: bool) -> str:
    """Download a file once into torch's cache, as mmengine does; one process a machine does it."""
    folder = folder or os.path.join(torch.hub.get_dir(), 'checkpoints')
    path = os.path.join(folder, os.path.basename(urlsplit(address).path))
    if get_local_rank() == 0 and not os.path.isfile(path):
        os.makedirs(folder, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, path, progress=progress)
        except OSError as error:  # among them those of urllib
            raise UserError(
                f'{address} cannot be downloaded ({error}); put the file to {path}.'
            ) from None
    barrier()
    return path
