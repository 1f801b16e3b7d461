"""Layers that work pixel by pixel, computed for a few pixels at a time, which stay in the cache.

    after(dynamic_relu(before(x)))       before or after is a 1×1 convolution

The maps between such layers are the widest of the network; here they never exist. Where a channel
has one pair of slopes for all pixels, the larger one becomes part of the convolution's weights:

    max(a1 * x, a2 * x) = prelu(high * x, low / high)       high = max(a1, a2), low = min(a1, a2)

For inference on a CPU, with the channels of a pixel side by side (:mod:`.layout`). Our decision.
Training and exported files have forms of their own (:mod:`.pixelwise_training`, :mod:`.exported`).
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdet_mobileformer.models import exported
from mmdet_mobileformer.models.convolution import ConvNorm
from mmdet_mobileformer.models.layout import goes_by_pixel, pixels_at_once

SMALLEST = 1e-12  # stands in for a high of zero, by which nothing can be divided

Bend = Callable[..., Tensor]  # of pixels (P, C), their shares of the slopes (P, M), out=None


def applies(features: Tensor, before: ConvNorm | None, after: ConvNorm | None) -> bool:
    """Whether :func:`chained` can compute this, and faster than layer by layer."""
    if exported.applies(before, after):
        return True
    convs = [conv for conv in (before, after) if conv is not None]
    return (
        not torch.is_grad_enabled()
        and goes_by_pixel(features)
        and any(conv.is_pointwise for conv in convs)
        and all(conv.norms_pixels for conv in convs)
    )


def chained(
    features: Tensor,
    before: ConvNorm | None,
    after: ConvNorm | None,
    slopes: tuple[Tensor, Tensor] | None = None,
    assignment: Tensor | None = None,
) -> Tensor:
    """``after(two_slopes(before(features), *slopes, assignment))``.

    Args:
        features: (N, C, H, W).
        before: 1×1, or depthwise with any number of outputs a channel; None is no layer.
        after: 1×1; None is no layer, and ``before`` then is 1×1 without a norm of its pixels.
        slopes: a1 and a2 of dynamic ReLU (N, C', M); None is no activation, and needs ``after``.
        assignment: (N, M, H', W') as for :func:`dynamic_relu.two_slopes`.

    Returns:
        (N, C'', H', W').
    """
    if exported.applies(before, after):
        return exported.chained(features, before, after, slopes, assignment)
    maps = [features] if before is None or before.is_pointwise else before.outputs_apart(features)
    width = features.shape[1] if before is None else before.conv.out_channels
    result = torch.empty(
        (len(features), width if after is None else after.conv.out_channels, *maps[0].shape[2:]),
        dtype=features.dtype,
        memory_format=torch.channels_last,
    )
    shares = maps[0] if assignment is None else assignment
    for index, image in enumerate(zip(result, shares, *maps, strict=True)):
        layers = _Layers(before, after, len(maps))
        if slopes is not None:
            layers.bend_by(slopes[0][index], slopes[1][index], is_spatial=assignment is not None)
        parts = (one.flatten(1).t().split(pixels_at_once(width)) for one in image)
        for out, shares_of, *pixels in zip(*parts, strict=True):
            layers(pixels, shares_of, out)
    return result


class _Layers:
    """What the pixels of an image pass.

    The outputs of a depthwise convolution with several a channel are maps of their own; so are,
    here, their slopes and the rows of the matrix behind them, whose products are added up.

    Args:
        before: As above.
        after: As above.
        num_maps: Outputs a channel.
    """

    def __init__(self, before: ConvNorm | None, after: ConvNorm | None, num_maps: int) -> None:
        self.num_maps = num_maps
        self.bends: list[Bend] = [lambda x, _shares: x] * num_maps
        self.expand, self.finish = _linear(before, 1), _finish(before, num_maps)
        self.squeeze, self.finish_after = _linear(after, num_maps), _finish(after, 1)

    def bend_by(self, a1: Tensor, a2: Tensor, is_spatial: bool) -> None:
        """Put dynamic ReLU with these slopes (C', M) between the two."""
        if is_spatial:
            slopes = zip(_apart(a2, self.num_maps), _apart(a1 - a2, self.num_maps), strict=True)
            self.bends = [partial(_bend_each, base.t(), change.t()) for base, change in slopes]
            return
        high = torch.maximum(a1, a2).clamp(min=SMALLEST)  # (C', 1)
        ratio = torch.minimum(a1, a2) / high
        self.bends = [partial(_bend, one[:, 0]) for one in _apart(ratio, self.num_maps)]
        if self.squeeze is None:
            (matrix,), bias = self.expand
            self.expand = [matrix * high[:, 0]], bias * high[:, 0]
        else:
            matrices, bias = self.squeeze
            highs = _apart(high, self.num_maps)
            self.squeeze = [m * h for m, h in zip(matrices, highs, strict=True)], bias

    def __call__(self, pixels: list[Tensor], shares: Tensor, out: Tensor) -> None:
        """Write (P, C''), of pixels (P, C) of every map and their shares of the slopes (P, M)."""
        if self.expand is not None:
            (matrix,), bias = self.expand
            pixels = [torch.addmm(bias, pixels[0], matrix)]
        pixels = self.finish(pixels)
        if self.squeeze is None:
            self.bends[0](pixels[0], shares, out=out)
            return
        matrices, total = self.squeeze
        for x, bend, matrix in zip(pixels, self.bends, matrices, strict=True):
            total = torch.addmm(total, bend(x, shares), matrix, out=out)
        (finished,) = self.finish_after([out])
        if finished is not out:
            out.copy_(finished)


def _bend_each(
    base: Tensor, change: Tensor, x: Tensor, shares: Tensor, out: Tensor | None = None
) -> Tensor:
    """Dynamic ReLU of pixels (P, C) with shares (P, M) of slopes (M, C)."""
    bend = (shares @ change).mul_(x).relu_()
    return torch.addcmul(bend, x, shares @ base, out=bend if out is None else out)


def _bend(ratio: Tensor, x: Tensor, _shares: Tensor, out: Tensor | None = None) -> Tensor:
    """Dynamic ReLU of pixels (P, C), already multiplied by the larger slopes."""
    if out is None:
        return F.prelu(x, ratio)
    return torch.maximum(x, x * ratio, out=out)


def _apart(values: Tensor, num_maps: int) -> list[Tensor]:
    """Values of the channels (C', ...), those of each map for themselves."""
    return [values[index::num_maps].contiguous() for index in range(num_maps)]


def _linear(conv: ConvNorm | None, num_maps: int) -> tuple[list[Tensor], Tensor] | None:
    """Matrices (C / num_maps, C') and bias (C') of a 1×1 convolution, None if it is none."""
    if conv is None or not conv.is_pointwise:
        return None
    weight, bias, _ = conv.folded()
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return _apart(weight.flatten(1).t(), num_maps), bias


def _finish(conv: ConvNorm | None, num_maps: int) -> Callable[[list[Tensor]], list[Tensor]]:
    """What follows a convolution, of the pixels of each map."""
    norm = None if conv is None else conv.folded()[2]
    if isinstance(norm, nn.LayerNorm):
        weight, bias = (torch.cat(_apart(one, num_maps)) for one in (norm.weight, norm.bias))

    def finish(pixels: list[Tensor]) -> list[Tensor]:
        if isinstance(norm, nn.LayerNorm):
            whole = torch.cat(pixels, dim=1) if pixels[1:] else pixels[0]
            whole = F.layer_norm(whole, weight.shape, weight, bias, norm.eps)
            pixels = whole.chunk(num_maps, dim=1)
        if conv is not None and conv.with_activation:
            pixels = [conv.activate(x) for x in pixels]
        return pixels

    return finish
