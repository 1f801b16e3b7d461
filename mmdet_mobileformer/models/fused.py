"""What the formulas of the other files cost less as: each form says which formula it equals.

They save memory and passes over it; ``tests/test_fused.py`` holds each against its formula.
"""

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmdet_mobileformer.models.layout import is_channels_last, weighted_sum
from mmdet_mobileformer.models.padding import hide_padding


def two_slopes(x: Tensor, a1: Tensor, a2: Tensor, assignment: Tensor | None = None) -> Tensor:
    """:func:`dynamic_relu.two_slopes`, that is ``max(a1 * x, a2 * x)``, with the same arguments.

    It is computed as ``base * x + relu(change * x)``, which takes one new map and in-place passes
    over it, and keeps x instead of both products for backward (our decision: the products are most
    of what training would have to remember).
    """
    return TwoSlopes.apply(x, *_base_and_change(a1, a2, assignment), assignment)


def halved(features: Tensor) -> Tensor:
    """``F.adaptive_avg_pool2d(features, (ceil(H / 2), ceil(W / 2)))`` of (N, M, H, W).

    Whether a side is odd enters as a number and not as another window, so that one compiled or
    exported graph serves every size.
    """
    return _halved_columns(_halved_columns(features).transpose(2, 3)).transpose(2, 3)


def _halved_columns(features: Tensor) -> Tensor:
    """Adaptive average pooling of the columns: (N, M, H, W) to (N, M, H, ceil(W / 2)).

    Its windows are the columns 2i and 2i + 1 where W is even, and 2i - 1 to 2i + 1 as far as they
    exist where W is odd.
    """
    width = features.shape[-1]
    half, odd = (width + 1) // 2, width % 2
    padded = F.pad(features, (1, 1))
    before, at, after = (padded[..., i : i + 2 * half - 1 : 2] for i in range(3))
    ends = features.new_zeros(half)
    ends[0] += odd
    ends[-1] += odd
    return (odd * before + at + after) / (2 + odd - ends)


def activated_conv(
    x: Tensor,
    a1: Tensor,
    a2: Tensor,
    assignment: Tensor | None,
    conv: ConvModule,
    padding_mask: Tensor | None = None,
) -> Tensor:
    """``conv(hide_padding(two_slopes(x, a1, a2, assignment), padding_mask))`` of a ``ConvNorm``.

    The activated map is made again for backward, beside the slopes that are made again anyway.
    """
    slopes = _base_and_change(a1, a2, assignment)
    weight, bias, norm = conv.folded()
    settings = (conv.conv.stride, conv.conv.padding, conv.conv.groups)
    update = ActivatedConv.apply(x, *slopes, assignment, padding_mask, weight, bias, settings)
    return conv.finish(update, norm)


def _base_and_change(a1: Tensor, a2: Tensor, assignment: Tensor | None) -> tuple[Tensor, Tensor]:
    """Slopes of :class:`TwoSlopes`."""
    if assignment is not None:
        return a2, a1 - a2
    a1, a2 = a1[..., None], a2[..., None]  # (N, C, 1, 1)
    low, high = torch.minimum(a1, a2), torch.maximum(a1, a2)
    return low, high - low


def _activated(features: Tensor, base: Tensor, change: Tensor, assignment: Tensor | None) -> Tensor:
    """What :class:`TwoSlopes` computes."""
    if assignment is None:
        return (features * change).relu_().addcmul_(features, base)
    update = weighted_sum(change, assignment, features).mul_(features).relu_()
    return update.addcmul_(features, weighted_sum(base, assignment, features))


def _slope_maps(
    features: Tensor, base: Tensor, change: Tensor, assignment: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Slopes that multiply with the features: per pixel where there is an assignment."""
    if assignment is None:
        return base, change
    return tuple(weighted_sum(slopes, assignment, features) for slopes in (base, change))


def _slope_gradients(
    grad: Tensor,
    features: Tensor,
    slopes: tuple[Tensor, Tensor, Tensor | None],
    maps: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of ``base * x + relu(change * x)``: of x, base, change and assignment."""
    base, change, assignment = slopes
    if assignment is None:  # change >= 0
        positive = _where_positive(features, grad)
        grad_base, grad_change = (_dot(one, features) for one in (grad, positive))
        return positive.mul_(change).addcmul_(grad, base), grad_base, grad_change, None
    base_map, change_map = maps
    bend = change_map * features  # positive where relu lets it pass
    grad_base_map = grad * features
    grad_change_map = _where_positive(bend, grad_base_map)
    grad_features = _where_positive(bend, change_map).add_(base_map).mul_(grad)
    grad_assignment = weighted_sum(base.transpose(1, 2), grad_base_map, assignment)
    grad_assignment += weighted_sum(change.transpose(1, 2), grad_change_map, assignment)
    grad_base = _gather(grad_base_map, assignment)
    return grad_features, grad_base, _gather(grad_change_map, assignment), grad_assignment


class TwoSlopes(torch.autograd.Function):
    """``base * x + relu(change * x)``, remembering x alone; slopes per pixel are made again.

    x is (N, C, H, W). The slopes are (N, C, 1, 1), with change >= 0; or those of the tokens
    (N, C, M), with an assignment (N, M, H, W).
    """

    @staticmethod
    def forward(
        ctx,  # noqa: ANN001 (torch's)
        features: Tensor,
        base: Tensor,
        change: Tensor,
        assignment: Tensor | None,
    ) -> Tensor:
        """See the class."""
        ctx.save_for_backward(features, base, change, assignment)
        return _activated(features, base, change, assignment)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN001 (torch's)
        """Gradients of the inputs, in their order."""
        features, *slopes = ctx.saved_tensors
        return _slope_gradients(grad, features, slopes, _slope_maps(features, *slopes))


class ActivatedConv(torch.autograd.Function):
    """Convolution of :class:`TwoSlopes`, which remembers x and not what it convolves.

    Padded pixels (N, H, W) are zero to the convolution. Its settings are stride, padding, groups.
    """

    @staticmethod
    def forward(
        ctx,  # noqa: ANN001 (torch's)
        features: Tensor,
        base: Tensor,
        change: Tensor,
        assignment: Tensor | None,
        padding_mask: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        settings: tuple[tuple[int, int], tuple[int, int], int],
    ) -> Tensor:
        """See the class."""
        ctx.save_for_backward(features, base, change, assignment, padding_mask, weight)
        ctx.settings, ctx.has_bias = settings, bias is not None
        stride, padding, groups = settings
        update = hide_padding(_activated(features, base, change, assignment), padding_mask)
        return F.conv2d(update, weight, bias, stride, padding, groups=groups)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN001 (torch's)
        """Gradients of the inputs, in their order."""
        features, *slopes, padding_mask, weight = ctx.saved_tensors
        stride, padding, groups = ctx.settings
        maps = _slope_maps(features, *slopes)
        update = (features * maps[1]).relu_().addcmul_(features, maps[0])
        grad_update, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad,
            hide_padding(update, padding_mask).to(grad.dtype),
            weight.to(grad.dtype),
            [weight.shape[0]] if ctx.has_bias else None,
            stride,
            padding,
            (1, 1),
            False,
            (0, 0),
            groups,
            (True, ctx.needs_input_grad[5], ctx.has_bias),
        )
        del update
        grad_update = hide_padding(grad_update, padding_mask).to(features.dtype)
        gradients = _slope_gradients(grad_update, features, slopes, maps)
        return *gradients, None, grad_weight, grad_bias, None


class SeveralOutputs(torch.autograd.Function):
    """``F.conv2d(x, weight, padding=padding, groups=C)``, depthwise with m outputs a channel.

    Each output gets a channel of its own, which holds the same; x is remembered once.
    """

    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:  # noqa: ANN001 (torch's)
        """Features (N, C, H, W), weight (m * C, 1, k, k); returns (N, m * C, H, W)."""
        ctx.save_for_backward(features, weight)
        ctx.padding = padding
        return F.conv2d(_repeated(features, weight), weight, padding=padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # noqa: ANN001 (torch's)
        """Gradients of the inputs, in their order."""
        features, weight = ctx.saved_tensors
        ones, needed = (1, 1), ctx.needs_input_grad
        repeated = _repeated(features, weight)
        grad_repeated, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, repeated, weight, None, ones, ctx.padding, ones, False, (0, 0), len(weight),
            (needed[0], needed[1], False),
        )  # fmt: skip
        grad_features = None
        if needed[0]:
            maps = grad_repeated.unflatten(1, (features.shape[1], -1)).unbind(2)
            grad_features = sum(maps[1:], maps[0])
        return grad_features, grad_weight, None


def _repeated(features: Tensor, weight: Tensor) -> Tensor:
    """(N, C, H, W) to (N, m * C, H, W), every channel as often as the weight asks for."""
    count = len(weight) // features.shape[1]
    if is_channels_last(features):
        return features.permute(0, 2, 3, 1).repeat_interleave(count, dim=3).permute(0, 3, 1, 2)
    return features.repeat_interleave(count, dim=1)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Products of two maps (N, C, H, W) summed over the pixels: (N, C, 1, 1)."""
    if one.is_cpu and is_channels_last(one):
        return (one * other).sum((2, 3), keepdim=True)
    return torch.linalg.vecdot(one.flatten(2), other.flatten(2))[..., None, None]


def _gather(one: Tensor, other: Tensor) -> Tensor:
    """Products of two maps summed over the pixels: (N, C, H, W), (N, M, H, W) to (N, C, M)."""
    return one.flatten(2) @ other.flatten(2).transpose(1, 2)


def _where_positive(condition: Tensor, values: Tensor) -> Tensor:
    """The values where the condition is above zero, and 0 elsewhere, in one pass."""
    return torch.ops.aten.threshold_backward(values, condition, 0)


class BoundedReLU(torch.autograd.Function):
    """ReLU6 that remembers its result, which the next layer keeps anyway, and not its input."""

    @staticmethod
    def forward(ctx, features: Tensor) -> Tensor:  # noqa: ANN001 (torch's)
        """See the class."""
        update = F.hardtanh(features, 0.0, 6.0)
        ctx.save_for_backward(update)
        return update

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # noqa: ANN001 (torch's)
        """Gradient of the input."""
        (update,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, update, 0.0, 6.0)


class NormOverChannels(torch.autograd.Function):
    """Layer norm of (N, C, H, W) over C: ``F.layer_norm`` between two permutations.

    It is computed where the channels lie, and keeps one map for backward: the normed features.
    """

    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:  # noqa: ANN001 (torch's)
        """See the class."""
        centred = features - features.mean(1, keepdim=True)
        # torch's norm over channels that do not lie side by side takes six times as long.
        variance = centred.to(_at_least_fp32(centred)).square().mean(1, keepdim=True)
        scale = torch.rsqrt(variance + eps).to(features.dtype)
        normed = centred.mul_(scale)
        ctx.save_for_backward(normed, scale, weight)
        return torch.addcmul(bias[:, None, None], normed, weight[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # noqa: ANN001 (torch's)
        """Gradients of the inputs, in their order."""
        normed, scale, weight = ctx.saved_tensors
        product = grad * normed
        grad_weight, grad_bias = product.sum((0, 2, 3)), grad.sum((0, 2, 3))
        along = (weight / weight.numel() @ product.flatten(2)).unflatten(1, grad.shape[2:])[:, None]
        grad_normed = grad * weight[:, None, None]
        grad_normed = grad_normed.sub_(grad_normed.mean(1, keepdim=True))
        return (
            grad_normed.addcmul_(normed, along, value=-1).mul_(scale),
            grad_weight,
            grad_bias,
            None,
        )


def _at_least_fp32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
