"""Layers in the forms that ONNX Runtime, which fuses few consecutive layers, computes fastest.

    after(dynamic_relu(before(x)))       a depthwise or 1×1 convolution before, a 1×1 one after

ONNX Runtime has fast forms of a depthwise convolution with one output a channel, of a norm and of a
softmax along the axis that lies side by side. So several outputs a channel are several maps, and
what is normed lies pixel by pixel. Our decision; no number changes beyond rounding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdet_mobileformer.models.convolution import ConvNorm, has_several_outputs
from mmdet_mobileformer.models.layout import weighted_sum


def applies(before: ConvNorm | None, after: ConvNorm | None) -> bool:
    """Whether :func:`chained` computes this, and faster than layer by layer."""
    if not torch.compiler.is_exporting() or before is None or after is None:
        return False
    has_faster_form = before.is_pointwise or has_several_outputs(before.conv)
    return has_faster_form and after.is_pointwise and before.norms_pixels and after.norms_pixels


def chained(
    features: Tensor,
    before: ConvNorm,
    after: ConvNorm,
    slopes: tuple[Tensor, Tensor] | None = None,
    assignment: Tensor | None = None,
) -> Tensor:
    """``after(two_slopes(before(features), *slopes, assignment))``.

    Args:
        features: (N, C, H, W).
        before: 1×1, or depthwise with several outputs a channel.
        after: 1×1.
        slopes: a1 and a2 of dynamic ReLU (N, C', M); None is no activation.
        assignment: (N, M, H', W') as for :func:`dynamic_relu.two_slopes`.

    Returns:
        (N, C'', H', W').
    """
    if before.is_pointwise or _layer_norm(before):
        return _by_pixel(features, before, after, slopes, assignment)
    weight, bias, norm = after.folded()
    update = None
    maps = before.outputs_apart(features)
    for index, part in enumerate(maps):
        rows = slice(index, None, len(maps))
        part = before.activate(part) if before.with_activation else part
        if slopes is not None:
            a1, a2 = (
                one[:, rows, :, None]
                if assignment is None
                else weighted_sum(one[:, rows], assignment, part)
                for one in slopes
            )
            part = torch.maximum(a1 * part, a2 * part)
        product = F.conv2d(part, weight[:, rows], bias if update is None else None)
        update = product if update is None else update + product
    return after.finish(update, norm)


def _by_pixel(
    features: Tensor,
    before: ConvNorm,
    after: ConvNorm,
    slopes: tuple[Tensor, Tensor] | None,
    assignment: Tensor | None,
) -> Tensor:
    """The same with the channels of a pixel side by side, in the order of the maps they are of."""
    maps = [features] if before.is_pointwise else before.outputs_apart(features)
    size = maps[0].shape[-2:]
    pixels = torch.cat([_pixels(one) for one in maps], dim=2)
    if before.is_pointwise:
        order = slice(None)
        weight, bias, _ = before.folded()
        pixels = F.linear(pixels, weight.flatten(1), bias)
    else:
        order = torch.arange(before.conv.out_channels).unflatten(0, (-1, len(maps))).t().flatten()
    pixels = _finish(pixels, before, order)
    if slopes is not None:
        a1, a2 = (one[:, order].transpose(1, 2) for one in slopes)  # (N, M, C')
        if assignment is not None:
            shares = _pixels(assignment)
            a1, a2 = shares @ a1, shares @ a2
        pixels = torch.maximum(a1 * pixels, a2 * pixels)
    weight, bias, _ = after.folded()
    pixels = F.linear(pixels, weight.flatten(1)[:, order], bias)
    return _map(_finish(pixels, after), size)


def _finish(pixels: Tensor, conv: ConvNorm, order: Tensor | slice = slice(None)) -> Tensor:
    """What follows a convolution, of pixels (N, HW, C) with channels in another order."""
    if norm := _layer_norm(conv):
        weight, bias = norm.weight[order], norm.bias[order]
        pixels = F.layer_norm(pixels, norm.normalized_shape, weight, bias, norm.eps)
    return conv.activate(pixels) if conv.with_activation else pixels


def _layer_norm(conv: ConvNorm) -> nn.LayerNorm | None:
    norm = conv.folded()[2]
    return norm if isinstance(norm, nn.LayerNorm) else None


def _pixels(features: Tensor) -> Tensor:
    """(N, C, H, W) to (N, HW, C)."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)


def _map(pixels: Tensor, size: torch.Size) -> Tensor:
    """(N, HW, C) to (N, C, H, W)."""
    return pixels.unflatten(1, size).permute(0, 3, 1, 2)


def softmax_over_tokens(logits: Tensor) -> Tensor:
    """``logits.softmax(dim=1)`` of (N, M, H, W)."""
    if not torch.compiler.is_exporting():
        return logits.softmax(dim=1)
    return _map(_pixels(logits).softmax(dim=2), logits.shape[-2:])
