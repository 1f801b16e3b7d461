"""Parameters and multiply-accumulates (MACs) of a detector, part by part."""

import copy
from dataclasses import dataclass

import torch
from mmdet.models.detectors.base import BaseDetector
from mmdet.structures import DetDataSample
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

PARTS = ('backbone', 'neck')


@dataclass(frozen=True)
class Cost:
    """Cost of one part of a detector: its parameters, and its MACs for one image."""

    params: int
    macs: int


def count_cost(detector: BaseDetector, height: int, width: int) -> dict[str, Cost]:
    """Count parameters and MACs of a detector for one image, as :func:`count_macs` does.

    Args:
        detector: The detector. On the device 'meta' only shapes are computed, which is quick, but
            does not work where the amount of work depends on values, as in detectors of two stages.
        height: Height of the padded image in pixels.
        width: Its width.

    Returns:
        Cost of 'backbone', 'neck', 'head' (everything else) and 'total'; of a missing part it is 0.
    """
    image = torch.zeros(1, 3, height, width, device=next(detector.parameters()).device)
    macs = count_macs(detector, image, samples_of(image), mode='tensor')
    costs = {
        part: Cost(_num_params(getattr(detector, part, nn.Identity())), macs.get(part, 0))
        for part in PARTS
    }
    total = Cost(_num_params(detector), macs[''])
    costs['head'] = Cost(
        total.params - sum(cost.params for cost in costs.values()),
        total.macs - sum(cost.macs for cost in costs.values()),
    )
    return {**costs, 'total': total}


def count_macs(model: nn.Module, *inputs: object, **settings: object) -> dict[str, int]:
    """Count the MACs of a forward pass in eval mode.

    MACs are those of convolutions and of matrix products, the products inside attention included,
    as torch's FlopCounterMode counts them (two FLOPs are one MAC). Norms and activations count
    nothing, nor do operators that mmcv brings along (deformable convolution, RoIAlign).

    The counter knows neither the CPU's fused attention nor the fast path of nn.MultiheadAttention,
    and stumbles over views of parameters that want a gradient.

    Returns:
        MACs by the names of the modules; the whole model's is ''.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
            model(*inputs, **settings)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    counts = {
        name.partition('.')[2]: sum(by_operator.values()) // 2
        for name, by_operator in flops.get_flop_counts().items()
    }
    return {**counts, '': flops.get_total_flops() // 2}


def samples_of(images: Tensor) -> list[DetDataSample]:
    """What mmdet's detectors take along with images (N, 3, H, W) that fill their batch."""
    size = tuple(images.shape[-2:])
    sizes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), size)
    return [DetDataSample(metainfo=dict(sizes, scale_factor=(1.0, 1.0))) for _ in images]


def _num_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
