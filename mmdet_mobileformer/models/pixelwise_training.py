"""The chains of :mod:`.pixelwise` in training: forward and backward for a few pixels at a time.

    after(dynamic_relu(norm(before(x))))       before and after are 1×1 convolutions

x is remembered, and what lies between is made again for backward while it stays in the cache: the
widest maps of the network never exist. For training on a CPU, with the channels of a pixel side by
side (:mod:`.layout`). Our decision.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmdet_mobileformer.models.convolution import ConvNorm
from mmdet_mobileformer.models.layout import is_channels_last, pixels_at_once


def applies(features: Tensor, before: ConvNorm | None, after: ConvNorm | None) -> bool:
    """Whether :func:`chained` can compute this, and with less to remember than layer by layer."""
    return (
        torch.is_grad_enabled()
        and is_channels_last(features)
        and features.is_cpu
        and features.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled('cpu')
        and (after is not None or before is None or before.norms_pixels)
    )


def chained(
    features: Tensor,
    before: ConvNorm | None,
    after: ConvNorm | None,
    slopes: tuple[Tensor, Tensor],
    assignment: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """``after(dropout(two_slopes(before(features), *slopes, assignment)))``.

    Args:
        features: (N, C, H, W).
        before: Any convolution; None is no layer.
        after: 1×1; None is no layer.
        slopes: a1 and a2 of dynamic ReLU (N, C', M).
        assignment: (N, M, H', W') as for :func:`dynamic_relu.two_slopes`.
        dropout: Dropped share of what is activated.

    Returns:
        (N, C'', H', W').
    """
    expand, norm = (None, None), None
    if before is not None:
        weight, bias, norm = before.folded()
        norms_pixels = before.norms_pixels and not before.with_activation and before.shuffle == 1
        if norms_pixels and before.is_pointwise:
            expand = weight.flatten(1), bias
        elif norms_pixels:
            features = before.conv._conv_forward(features, weight, bias)
        else:
            features, norm = before(features), None
    is_norm = isinstance(norm, nn.LayerNorm)
    scale = (norm.weight, norm.bias, norm.eps) if is_norm else (None, None, 0.0)
    squeeze = (None, None)
    if after is not None:
        weight, bias, norm_after = after.folded()
        squeeze = weight.flatten(1), bias
    a1, a2 = (one.transpose(1, 2) / (1 - dropout) for one in slopes)  # (N, M, C')
    kept = None
    if dropout:
        size = (len(features), *features.shape[2:], a1.shape[2])
        kept = torch.empty(size, dtype=torch.bool).bernoulli_(1 - dropout)
    update = Chain.apply(features, *expand, *scale, a2, a1 - a2, assignment, kept, *squeeze)
    return update if after is None else after.finish(update, norm_after)


class Chain(torch.autograd.Function):
    """See the file; without one of the tensors its step is left out."""

    @staticmethod
    def forward(
        ctx,  # noqa: ANN001 (torch's)
        features: Tensor,
        expand: Tensor | None,
        expand_bias: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        eps: float,
        base: Tensor,
        change: Tensor,
        assignment: Tensor | None,
        kept: Tensor | None,
        squeeze: Tensor | None,
        squeeze_bias: Tensor | None,
    ) -> Tensor:
        """Features (N, C, H, W), slopes (N, M, C'), assignment (N, M, H, W), kept (N, H, W, C')."""
        ctx.save_for_backward(
            features, expand, expand_bias, norm_weight, norm_bias, base, change, assignment, kept,
            squeeze,
        )  # fmt: skip
        ctx.eps, ctx.has_bias = eps, squeeze_bias is not None
        width = base.shape[2]
        result = _like(features, width if squeeze is None else len(squeeze))
        for index, (x, shares, keep, out) in _chunks(width, features, assignment, kept, result):
            step = _Step(x, expand, expand_bias, norm_weight, norm_bias, eps)
            active = step.activate(base[index], change[index], shares, keep)
            if squeeze is None:
                out.copy_(active)
            elif squeeze_bias is None:
                torch.mm(active, squeeze.t(), out=out)
            else:
                torch.addmm(squeeze_bias, active, squeeze.t(), out=out)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN001 (torch's)
        """Gradients of the inputs, in their order."""
        (
            features, expand, expand_bias, norm_weight, norm_bias, base, change, assignment, kept,
            squeeze,
        ) = ctx.saved_tensors  # fmt: skip
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_features = _like(features, features.shape[1])
        grad_assignment = None if assignment is None else _like(features, assignment.shape[1])
        sums = [
            None if one is None else torch.zeros_like(one)
            for one in (expand, expand_bias, norm_weight, norm_bias, base, change, squeeze)
        ]
        grad_expand, grad_expand_bias, grad_weight, grad_bias, grad_base, grad_change, grad_out = (
            sums
        )
        maps = (features, assignment, kept, grad, grad_features, grad_assignment)
        for index, (x, shares, keep, g, out, out_shares) in _chunks(base.shape[2], *maps):
            step = _Step(x, expand, expand_bias, norm_weight, norm_bias, ctx.eps)
            slopes = base[index], change[index]
            active = step.activate(*slopes, shares, keep)
            if squeeze is not None:
                grad_out.addmm_(g.t(), active)
                g = g @ squeeze
            if keep is not None:
                g = g * keep
            positive = torch.ops.aten.threshold_backward(g, step.bend, 0)
            of_base, of_change = g * step.z, positive * step.z
            if shares is None:
                grad_base[index] += of_base.sum(0)
                grad_change[index] += of_change.sum(0)
            else:
                grad_base[index].addmm_(shares.t(), of_base)
                grad_change[index].addmm_(shares.t(), of_change)
                torch.mm(of_base, slopes[0].t(), out=out_shares)
                out_shares.addmm_(of_change, slopes[1].t())
            g = positive.mul_(step.change).addcmul_(g, step.base)
            if norm_weight is not None:
                g, *of_norm = torch.ops.aten.native_layer_norm_backward(
                    g, step.inputs, norm_weight.shape, step.mean, step.scale, norm_weight,
                    norm_bias, (True, True, True),
                )  # fmt: skip
                grad_weight += of_norm[0]
                grad_bias += of_norm[1]
            if expand is None:
                out.copy_(g)
                continue
            grad_expand.addmm_(g.t(), x)
            if expand_bias is not None:
                grad_expand_bias += g.sum(0)
            torch.mm(g, expand, out=out)
        grad_squeeze_bias = grad.sum((0, 2, 3)) if ctx.has_bias else None
        return (
            grad_features, grad_expand, grad_expand_bias, grad_weight, grad_bias, None, grad_base,
            grad_change, grad_assignment, None, grad_out, grad_squeeze_bias,
        )  # fmt: skip


class _Step:
    """A few pixels (P, C) on their way to what is activated."""

    def __init__(
        self,
        x: Tensor,
        expand: Tensor | None,
        expand_bias: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        eps: float,
    ) -> None:
        if expand is not None:
            x = x @ expand.t() if expand_bias is None else torch.addmm(expand_bias, x, expand.t())
        self.inputs = self.z = x
        if norm_weight is not None:
            self.z, self.mean, self.scale = torch.native_layer_norm(
                x, norm_weight.shape, norm_weight, norm_bias, eps
            )

    def activate(
        self, base: Tensor, change: Tensor, shares: Tensor | None, keep: Tensor | None
    ) -> Tensor:
        """``base * z + relu(change * z)`` (P, C'); slopes are (M, C'), shares (P, M)."""
        self.base, self.change = base[0], change[0]
        if shares is not None:
            self.base, self.change = shares @ base, shares @ change
        self.bend = self.change * self.z
        active = torch.relu(self.bend).addcmul_(self.z, self.base)
        return active if keep is None else active.mul_(keep)


def _chunks(width: int, *maps: Tensor | None) -> Iterator[tuple[int, list[Tensor | None]]]:
    """Pixels (P, C) of maps, a few at a time, and the index of their image; None stays None.

    Maps are (N, C, H, W) with the channels side by side, or bool (N, H, W, C).
    """
    count = pixels_at_once(width)
    for index in range(len(maps[0])):
        parts = [
            None
            if one is None
            else (one[index] if one.dtype == torch.bool else one[index].permute(1, 2, 0))
            .flatten(0, 1)
            .split(count)
            for one in maps
        ]
        for place in range(len(parts[0])):
            yield index, [None if one is None else one[place] for one in parts]


def _like(features: Tensor, channels: int) -> Tensor:
    """New map (N, channels, H, W), its channels side by side."""
    size = (len(features), channels, *features.shape[2:])
    return torch.empty(size, dtype=features.dtype, memory_format=torch.channels_last)
