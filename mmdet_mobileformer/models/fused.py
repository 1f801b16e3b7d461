"""What the formulas of the other files cost less as: each form says which formula it equals.

They save memory and passes over it; ``tests/test_fused.py`` holds each against its formula.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmdet_mobileformer.models.layout import weighted_sum


def two_slopes(x: Tensor, a1: Tensor, a2: Tensor, assignment: Tensor | None = None) -> Tensor:
    """:func:`dynamic_relu.two_slopes`, that is ``max(a1 * x, a2 * x)``, with the same arguments.

    It is computed as ``base * x + relu(change * x)``, which takes one new map and in-place passes
    over it, and keeps x instead of both products for backward (our decision: the products are most
    of what training would have to remember).
    """
    if assignment is not None:
        return SpatialTwoSlopes.apply(x, a2, a1 - a2, assignment)
    a1, a2 = a1[..., None], a2[..., None]  # (N, C, 1, 1)
    low, high = torch.minimum(a1, a2), torch.maximum(a1, a2)
    return TwoSlopes.apply(x, low, high - low)


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


class TwoSlopes(torch.autograd.Function):
    """``low * x + change * relu(x)`` with change >= 0: x (N, C, H, W), slopes (N, C, 1, 1)."""

    @staticmethod
    def forward(ctx, features: Tensor, low: Tensor, change: Tensor) -> Tensor:  # noqa: ANN001 (torch's)
        """See the class."""
        ctx.save_for_backward(features, low, change)
        return (features * change).relu_().addcmul_(features, low)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN001 (torch's)
        """Gradients of the inputs, in their order."""
        features, low, change = ctx.saved_tensors
        positive = _where_positive(features, grad)
        grad_low = torch.einsum('nchw,nchw->nc', grad, features)[..., None, None]
        grad_change = torch.einsum('nchw,nchw->nc', positive, features)[..., None, None]
        return positive.mul_(change).addcmul_(grad, low), grad_low, grad_change


class SpatialTwoSlopes(torch.autograd.Function):
    """``base * x + relu(change * x)`` with slopes per pixel, which backward makes again.

    x is (N, C, H, W), the tokens' slopes (N, C, M) each, the assignment (N, M, H, W).
    """

    @staticmethod
    def forward(ctx, features: Tensor, base: Tensor, change: Tensor, assignment: Tensor) -> Tensor:  # noqa: ANN001
        """See the class."""
        ctx.save_for_backward(features, base, change, assignment)
        update = weighted_sum(change, assignment, features).mul_(features).relu_()
        return update.addcmul_(features, weighted_sum(base, assignment, features))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: ANN001 (torch's)
        """Gradients of the inputs, in their order."""
        features, base, change, assignment = ctx.saved_tensors
        change_map = weighted_sum(change, assignment, features)
        base_map = weighted_sum(base, assignment, features)
        bend = change_map * features  # positive where relu lets it pass
        grad_base_map = grad * features
        grad_change_map = _where_positive(bend, grad_base_map)
        grad_features = _where_positive(bend, change_map).add_(base_map).mul_(grad)
        grad_base = _gather(grad_base_map, assignment)
        grad_change = _gather(grad_change_map, assignment)
        grad_assignment = weighted_sum(base.transpose(1, 2), grad_base_map, assignment)
        grad_assignment = grad_assignment + weighted_sum(
            change.transpose(1, 2), grad_change_map, assignment
        )
        return grad_features, grad_base, grad_change, grad_assignment


def _gather(one: Tensor, other: Tensor) -> Tensor:
    """Products of two maps summed over the pixels: (N, C, H, W), (N, M, H, W) to (N, C, M)."""
    return one.flatten(2) @ other.flatten(2).transpose(1, 2)


def _where_positive(condition: Tensor, values: Tensor) -> Tensor:
    """The values where the condition is above zero, and 0 elsewhere, in one pass."""
    return torch.ops.aten.threshold_backward(values, condition, 0)


class NormOverChannels(torch.autograd.Function):
    """Layer norm of (N, C, H, W) over C: ``F.layer_norm`` between two permutations.

    It is computed where the channels lie, and keeps one map for backward: the normed features.
    """

    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:  # noqa: ANN001 (torch's)
        """See the class."""
        centred = features - features.mean(1, keepdim=True)
        # The norm reads the map once; the mean of squares would write one more.
        spread = torch.linalg.vector_norm(
            centred, dim=1, keepdim=True, dtype=_at_least_fp32(centred)
        )
        scale = torch.rsqrt(spread.square() / features.shape[1] + eps).to(features.dtype)
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
        along = torch.einsum('nchw,c->nhw', product, weight).div_(weight.numel())[:, None]
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
