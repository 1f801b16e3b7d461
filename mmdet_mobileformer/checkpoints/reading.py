"""Reading checkpoints as data: whatever a file asks for, nothing of it is executed."""

import argparse
import os
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from mmdet_mobileformer.errors import UserError

Location = str | torch.device | dict | Callable | None

# Names under which checkpoints keep the weights, and the averaged ones (EMA).
_WEIGHTS = ('state_dict', 'model')
_EMA_WEIGHTS = ('state_dict_ema', 'model_ema', 'ema_state_dict', 'ema')

# torch's own switches, for every `torch.load` of a process and of those that it starts.
_DATA_ONLY, _ANYTHING = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'


def trust_files(trust: bool) -> None:
    """Say whether to load any Python objects that a file holds (``--trust-checkpoint``).

    That may run code, and holds for every file that this process loads.
    """
    os.environ[_DATA_ONLY], os.environ[_ANYTHING] = ('0', '1') if trust else ('1', '0')


def load_checkpoint_as_data(
    path: str | os.PathLike, map_location: Location = 'cpu'
) -> dict[str, Any]:
    """Read a local checkpoint: PyTorch's format, or a file ``*.safetensors``.

    Beside tensors and plain values, the few types are allowed that the checkpoints of mmengine and
    timm hold: the buffers of mmengine's log, NumPy's arrays and numbers, ``argparse.Namespace``.

    Args:
        path: The file. Where :func:`trust_files` said so it may hold any Python objects.
        map_location: As for ``torch.load``; tensors of safetensors are loaded onto the CPU.

    Returns:
        The checkpoint; of safetensors only its ``state_dict``.

    Raises:
        UserError: If the file is missing, holds more than data, is damaged, or is no checkpoint.
    """
    path = os.path.expanduser(os.fspath(path))
    if not os.path.isfile(path):
        raise UserError(f'the checkpoint {path} does not exist (looked from {os.getcwd()}).')
    try:
        if path.endswith('.safetensors'):
            from safetensors.torch import load_file  # only these files need it

            return dict(state_dict=load_file(path))
        checkpoint = torch.load(path, map_location, weights_only=os.environ.get(_ANYTHING) != '1')
    except Exception as error:  # a damaged file makes torch raise almost anything
        raise UserError(refusal(path, error)) from None
    if not isinstance(checkpoint, Mapping):
        raise UserError(
            f'{path} holds a {type(checkpoint).__name__} instead of a checkpoint (a dict); name '
            'another file.'
        )
    return dict(checkpoint)


def refusal(path: str, error: Exception) -> str:
    """One sentence in the place of torch's page of advice."""
    wanted = re.search(r'GLOBAL (\S+\.\S+)', str(error))
    if wanted is not None:
        return (
            f'the checkpoint {path} asks for {wanted[1]}, which is code and not data, so it was '
            'refused and nothing of it was run; take another file, or, if this one is your own, '
            'give train.py, test.py or export_onnx.py --trust-checkpoint.'
        )
    reason = re.sub(r'(?s).*WeightsUnpickler error:|Check the documentation.*', '', str(error))
    reason = next(iter(reason.strip().splitlines()), 'no reason given')
    return (
        f'the checkpoint {path} cannot be read ({type(error).__name__}: {reason}); the file is '
        'damaged or no checkpoint, and no code of it was run: get or write it again.'
    )


def select_state_dict(
    checkpoint: Mapping[str, Any], path: str | os.PathLike, ema: bool = False
) -> tuple[str, dict[str, Tensor]]:
    """Find the weights in a checkpoint and drop the ``module.`` of parallel training.

    Args:
        checkpoint: What :func:`load_checkpoint_as_data` gave.
        path: Its file, for messages.
        ema: Take the averaged weights where there are both.

    Returns:
        The key that the weights were under ('' where the file holds nothing but weights), and the
        weights by name.

    Raises:
        UserError: If there are no weights, or no averaged ones and ``ema`` asks for them.
    """
    names = _EMA_WEIGHTS if ema else (*_WEIGHTS, *_EMA_WEIGHTS)
    source = next((name for name in names if isinstance(checkpoint.get(name), Mapping)), '')
    weights = checkpoint[source] if source else {} if ema else checkpoint
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(
            f'{path} has no weights under {", ".join(names)}; it holds '
            f'{", ".join(map(repr, list(checkpoint)[:5])) or "nothing"}; '
            f'{"leave --ema out" if ema else "name a checkpoint"}.'
        )
    while all(name.startswith('module.') for name in tensors):
        tensors = {name.removeprefix('module.'): value for name, value in tensors.items()}
    return source, tensors


def _buffer_method(owner: Any, name: str) -> Any:  # noqa: ANN401 (whatever the file asks for)
    """Stand in for `getattr`, by which a buffer names its statistics, and give nothing else."""
    if owner is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(f'the file asks for attribute {name!r} of {owner!r}')
    return getattr(owner, name)


# Types in checkpoints beside tensors and plain values. Two functions pickle NumPy's arrays and
# numbers; files written under NumPy 1 and 2 name them in different places.
_RECONSTRUCT, _SCALAR = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
_NUMBERS = ('bool', 'uint8', 'int16', 'int32', 'uint32', 'int64', 'float16', 'float32', 'float64')
_SAFE_TYPES = [
    HistoryBuffer,
    argparse.Namespace,
    (_buffer_method, 'builtins.getattr'),
    *((_RECONSTRUCT, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')),
    *((_SCALAR, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')),
    *(np.ndarray, np.dtype),
    *(type(np.dtype(kind)) for kind in _NUMBERS),
]

# For the whole process, so that mmengine's own reading takes mmengine's own files as data too: the
# official family's is else refused by torch 2.6 and later, in mmdet's `init_detector` as well.
torch.serialization.add_safe_globals(_SAFE_TYPES)
