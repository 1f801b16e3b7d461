"""The chains of :mod:`.pixelwise` in training: a few pixels at a time, and again for backward.

    after(dropout(dynamic_relu(norm(before(x)))))       before and after are 1×1 convolutions

x is remembered, and what lies between is made again for backward while it stays in the cache, so
that the widest maps of the network need not exist. Where the layer before is no 1×1 convolution, or
its norm reads the whole map, x is what that layer makes. For training on a CPU, with the channels
of a pixel side by side (:mod:`.layout`). Our decision.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmdet_mobileformer.models.convolution import ConvNorm
from mmdet_mobileformer.models.layout import goes_by_pixel, pixels_at_once


def applies(features: Tensor, before: ConvNorm | None, after: ConvNorm | None) -> bool:
    """Whether :func:`chained` can compute this, and with less to remember than layer by layer."""
    remembers_less = after is not None or before is None or before.norms_pixels
    return torch.is_grad_enabled() and goes_by_pixel(features) and remembers_less


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
    expand, norm, squeeze = (None, None), None, (None, None)
    if before is not None:
        weight, bias, norm = before.folded()
        is_plain = before.norms_pixels and not before.with_activation and before.shuffle == 1
        if is_plain and before.is_pointwise:
            expand = weight.flatten(1), bias
        elif is_plain:
            features = before.conv._conv_forward(features, weight, bias)
        else:
            features, norm = before(features), None
    if after is not None:
        weight, bias, norm_after = after.folded()
        squeeze = weight.flatten(1), bias
    is_norm = isinstance(norm, nn.LayerNorm)
    scale, eps = ((norm.weight, norm.bias), norm.eps) if is_norm else ((None, None), 0.0)
    kept, width = None, slopes[0].shape[1]
    if dropout:
        kept = torch.empty(len(features), *features.shape[2:], width, dtype=torch.bool)
        kept = kept.bernoulli_(1 - dropout).permute(0, 3, 1, 2)
    share = (1 - dropout) or 1.0  # where nothing is kept, nothing is scaled
    a1, a2 = (one.transpose(1, 2) / share for one in slopes)  # (N, M, C')
    maps, weights = (features, assignment, kept), (*expand, *scale, *squeeze)
    update = Chain.apply(eps, *maps, a2, a1 - a2, *weights)
    return update if after is None else after.finish(update, norm_after)


class Chain(torch.autograd.Function):
    """``squeeze(kept * (base * z + relu(change * z)))`` of ``z = norm(expand(x))``.

    Maps are (N, C, H, W) with the channels side by side, slopes (N, M, C'), shares of them
    (N, M, H, W). A layer whose weights are None is left out.
    """

    @staticmethod
    def forward(
        ctx,  # noqa: ANN001 (torch's)
        eps: float,
        features: Tensor,
        assignment: Tensor | None,
        kept: Tensor | None,
        base: Tensor,
        change: Tensor,
        *weights: Tensor | None,
    ) -> Tensor:
        """Weights and biases of expand, norm and squeeze; returns (N, C'', H, W)."""
        ctx.save_for_backward(features, assignment, kept, base, change, *weights)
        ctx.eps = eps
        *_, squeeze, bias = weights
        result = _like(features, base.shape[2] if squeeze is None else len(squeeze))
        maps = features, assignment, kept, result
        for index, (x, shares, keep, out) in _chunks(base.shape[2], *maps):
            step = _Step(x, shares, keep, eps, *weights[:4])
            active = step.activate(base[index], change[index])
            if squeeze is None:
                out.copy_(active)
            elif bias is None:
                torch.mm(active, squeeze.t(), out=out)
            else:
                torch.addmm(bias, active, squeeze.t(), out=out)
        return result

    @staticmethod
    @once_differentiable
    @torch.autocast('cpu', enabled=False)
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN001 (torch's)
        """Gradients of the inputs, in their order."""
        features, assignment, kept, base, change, *weights = ctx.saved_tensors
        *_, squeeze, bias = weights
        sums = [None if one is None else torch.zeros_like(one) for one in (base, change, *weights)]
        sum_base, sum_change, sum_expand, sum_expand_bias, *sums_norm, sum_squeeze, _ = sums
        grad_features = _like(features, features.shape[1])
        grad_assignment = None if assignment is None else _like(features, assignment.shape[1])
        maps = features, assignment, kept, grad, grad_features, grad_assignment
        for index, (x, shares, keep, g, out, out_shares) in _chunks(base.shape[2], *maps):
            step = _Step(x, shares, keep, ctx.eps, *weights[:4])
            active = step.activate(base[index], change[index])
            if squeeze is not None:
                sum_squeeze.addmm_(g.t(), active)
                g = g @ squeeze
            g = step.before_activation(g, sum_base[index], sum_change[index], out_shares)
            g = step.before_norm(g, *sums_norm)
            if step.expand is None:
                out.copy_(g)
                continue
            sum_expand.addmm_(g.t(), x)
            if sum_expand_bias is not None:
                sum_expand_bias += g.sum(0)
            torch.mm(g, step.expand, out=out)
        if bias is not None:
            sums[-1] = grad.sum((0, 2, 3))
        return None, grad_features, grad_assignment, None, *sums


class _Step:
    """A few pixels (P, C) on their way to what is activated, with their shares (P, M) of slopes."""

    def __init__(
        self,
        x: Tensor,
        shares: Tensor | None,
        kept: Tensor | None,
        eps: float,
        expand: Tensor | None,
        bias: Tensor | None,
        scale: Tensor | None,
        shift: Tensor | None,
    ) -> None:
        if expand is not None:
            x = x @ expand.t() if bias is None else torch.addmm(bias, x, expand.t())
        self.shares, self.kept = shares, kept
        self.expand, self.scale, self.shift = expand, scale, shift
        self.expanded = self.z = x
        if scale is not None:
            self.z, *self.moments = torch.native_layer_norm(x, scale.shape, scale, shift, eps)

    def activate(self, base: Tensor, change: Tensor) -> Tensor:
        """(P, C'), from the slopes (M, C')."""
        self.slopes = self.base, self.change = base, change
        if self.shares is not None:
            self.base, self.change = self.shares @ base, self.shares @ change
        self.bend = self.change * self.z
        active = torch.relu(self.bend).addcmul_(self.z, self.base)
        return active if self.kept is None else active.mul_(self.kept)

    def before_activation(
        self, grad: Tensor, sum_base: Tensor, sum_change: Tensor, out_shares: Tensor | None
    ) -> Tensor:
        """Gradient of z (P, C'); those of the slopes are added, that of the shares is written."""
        grad = grad if self.kept is None else grad * self.kept
        positive = torch.ops.aten.threshold_backward(grad, self.bend, 0)
        of_base, of_change = grad * self.z, positive * self.z
        if self.shares is None:
            sum_base += of_base.sum(0)
            sum_change += of_change.sum(0)
        else:
            sum_base.addmm_(self.shares.t(), of_base)
            sum_change.addmm_(self.shares.t(), of_change)
            torch.mm(of_base, self.slopes[0].t(), out=out_shares)
            out_shares.addmm_(of_change, self.slopes[1].t())
        return positive.mul_(self.change).addcmul_(grad, self.base)

    def before_norm(
        self, grad: Tensor, sum_scale: Tensor | None, sum_shift: Tensor | None
    ) -> Tensor:
        """Gradient of what is normed (P, C'); those of scale and shift are added."""
        if self.scale is None:
            return grad
        norm = self.scale.shape, *self.moments, self.scale, self.shift
        grad, of_scale, of_shift = torch.ops.aten.native_layer_norm_backward(
            grad, self.expanded, *norm, (True, True, True)
        )
        sum_scale += of_scale
        sum_shift += of_shift
        return grad


def _chunks(width: int, *maps: Tensor | None) -> Iterator[tuple[int, list[Tensor | None]]]:
    """A few pixels (P, C) of every map at a time, and the index of their image; None stays None."""
    count = pixels_at_once(width)
    pixels = [None if one is None else one.flatten(2).transpose(1, 2) for one in maps]
    for index, image in enumerate(pixels[0]):
        for start in range(0, len(image), count):
            part = slice(start, start + count)
            yield index, [None if one is None else one[index, part] for one in pixels]


def _like(features: Tensor, channels: int) -> Tensor:
    """New map (N, channels, H, W), its channels side by side."""
    size = (len(features), channels, *features.shape[2:])
    return torch.empty(size, dtype=features.dtype, memory_format=torch.channels_last)
