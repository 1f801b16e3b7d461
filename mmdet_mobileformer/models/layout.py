"""How maps lie in memory; no number depends on it.

Modules take and give (N, C, H, W) whatever the layout. On a CPU in eager mode the channels of a
pixel lie side by side (PyTorch's channels-last), which convolutions and norms compute faster.
Compilers, exported files, GPUs, autocast and backbones whose BatchNorm trains keep the order of the
shape.
"""

import torch
from torch import Tensor

# Numbers of the widest layer where a few pixels are computed at a time: half a megabyte. Threads
# share eight times as much, or starting them would take longer than the work.
CHUNK, SHARED_CHUNK = 2**17, 2**20


def channels_last(features: Tensor) -> Tensor:
    """Lay a map (N, C, H, W) out with its channels side by side, where that is of use."""
    keeps_order = torch.compiler.is_compiling() or torch.is_autocast_enabled('cpu')
    if keeps_order or not features.is_cpu:
        return features
    return features.contiguous(memory_format=torch.channels_last)


def laid_out_as(like: Tensor, features: Tensor) -> Tensor:
    """Lay a map (N, C, H, W) out as another one is."""
    if is_channels_last(like):
        return features.contiguous(memory_format=torch.channels_last)
    return features.contiguous()


def is_channels_last(features: Tensor) -> bool:
    """Whether a map's channels lie side by side."""
    return not torch.compiler.is_compiling() and features.stride(1) == 1 < features.shape[1]


def goes_by_pixel(features: Tensor) -> bool:
    """Whether a map (N, C, H, W) can be computed a few pixels at a time, in the cache of a CPU."""
    return (
        is_channels_last(features)
        and features.is_cpu
        and features.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled('cpu')
    )


def weighted_sum(weights: Tensor, maps: Tensor, like: Tensor) -> Tensor:
    """Sum of maps: ``weights @ maps``, laid out as another map is.

    Args:
        weights: (N, C, M).
        maps: (N, M, H, W).
        like: (N, C, H, W).

    Returns:
        (N, C, H, W).
    """
    size = maps.shape[-2:]
    if not is_channels_last(like):
        return (weights @ maps.flatten(2)).unflatten(2, size)
    pixels = maps.flatten(2).transpose(1, 2) @ weights.transpose(1, 2)  # (N, HW, C)
    return pixels.transpose(1, 2).unflatten(2, size)


def pixels_at_once(channels: int) -> int:
    """How many pixels of so many channels are computed at a time, see :data:`CHUNK`."""
    return max(1, (CHUNK if torch.get_num_threads() == 1 else SHARED_CHUNK) // channels)
