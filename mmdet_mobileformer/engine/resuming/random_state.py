"""The state of every random number generator of a process, as plain values and tensors."""

import random
from typing import Any

import numpy as np
import torch


def get_random_state() -> dict[str, Any]:
    """State of the generators of Python, NumPy, torch and its GPUs."""
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 (what mmdet draws from)
    return dict(
        python=random.getstate(),
        # As a tensor, so that the checkpoint stays readable as data; torch knows no uint32 here.
        numpy=(name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    )


def set_random_state(state: dict[str, Any]) -> None:
    """Put all generators into a state of :func:`get_random_state`.

    Generators of GPUs that this machine does not have are left out.
    """
    version, internal, gauss_next = state['python']
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, position, has_gauss, cached = state['numpy']
    keys = keys.cpu().numpy().astype(np.uint32)
    np.random.set_state((name, keys, position, has_gauss, cached))  # noqa: NPY002 (as above)
    # A checkpoint may have been loaded onto a GPU, and generators take their state from the CPU.
    torch.set_rng_state(state['torch'].cpu())
    if torch.cuda.is_available():
        for device, cuda_state in enumerate(state['cuda'][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(cuda_state.cpu(), device)
