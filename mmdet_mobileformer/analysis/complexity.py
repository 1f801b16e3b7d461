"""Parameters and multiply-accumulates (MACs) of a detector, part by part."""

from collections.abc import Iterator
from contextlib import contextmanager
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
    """Count parameters and MACs of a detector for one image.

    MACs are those of convolutions and of matrix products, the products inside attention included,
    as torch's FlopCounterMode counts them (two FLOPs are one MAC). Norms and activations count
    nothing, nor do operators that mmcv brings along (deformable convolution, RoIAlign).

    Args:
        detector: The detector. Its mode and its parameters' ``requires_grad`` come back as they
            were. On the device 'meta' only shapes are computed, which is quick, but does not work
            where the amount of work depends on values, as in detectors of two stages.
        height: Height of the padded image in pixels.
        width: Its width.

    Returns:
        Cost of 'backbone', 'neck', 'head' (everything else) and 'total'; of a missing part it is 0.
    """
    device = next(detector.parameters()).device
    image = torch.zeros(1, 3, height, width, device=device)
    size = (height, width)
    sample = DetDataSample(
        metainfo=dict(
            img_shape=size,
            ori_shape=size,
            pad_shape=size,
            batch_input_shape=size,
            scale_factor=(1.0, 1.0),
        )
    )
    with _counting(detector) as counter:
        detector(image, [sample], mode='tensor')
    flops = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    root = type(detector).__name__
    costs = {
        part: Cost(
            sum(p.numel() for p in getattr(detector, part).parameters())
            if hasattr(detector, part)
            else 0,
            flops.get(f'{root}.{part}', 0) // 2,
        )
        for part in PARTS
    }
    total = Cost(sum(p.numel() for p in detector.parameters()), flops.get('Global', 0) // 2)
    costs['head'] = Cost(
        total.params - sum(cost.params for cost in costs.values()),
        total.macs - sum(cost.macs for cost in costs.values()),
    )
    return {**costs, 'total': total}


def count_macs(model: nn.Module, images: Tensor) -> int:
    """MACs of one forward pass of any model, counted as by :func:`count_cost`."""
    with _counting(model) as counter:
        model(images)
    return counter.get_total_flops() // 2


@contextmanager
def _counting(model: nn.Module) -> Iterator[FlopCounterMode]:
    """Run a model so that FlopCounterMode sees every product, and restore it afterwards.

    The counter knows neither the CPU's fused attention nor the fast path of nn.MultiheadAttention,
    and stumbles over views of parameters that want a gradient.
    """
    training = model.training
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    model.eval().requires_grad_(False)
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for parameter in wanted:
            parameter.requires_grad_(True)
        model.train(training)
