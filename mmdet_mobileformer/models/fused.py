"""Autograd functions that save memory and passes; each says which formula it equals."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Both functions compute max(a1 * x, a2 * x) as base * x + relu(change * x), which takes one new map
# and in-place passes over it. They keep x instead of both products for backward (our decision: the
# products are most of what training would have to remember). Compilers fuse either.


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
        update = _spread(change, assignment).mul_(features).relu_()
        return update.addcmul_(features, _spread(base, assignment))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: ANN001 (torch's)
        """Gradients of the inputs, in their order."""
        features, base, change, assignment = ctx.saved_tensors
        change_map = _spread(change, assignment)
        bend = change_map * features  # positive where relu lets it pass
        grad_base_map = grad * features
        grad_change_map = _where_positive(bend, grad_base_map)
        grad_features = _where_positive(bend, change_map).add_(_spread(base, assignment)).mul_(grad)
        grad_base = _gather(grad_base_map, assignment)
        grad_change = _gather(grad_change_map, assignment)
        grad_assignment = _spread(base.transpose(1, 2), grad_base_map)
        grad_assignment = grad_assignment + _spread(change.transpose(1, 2), grad_change_map)
        return grad_features, grad_base, grad_change, grad_assignment


def _spread(slopes: Tensor, maps: Tensor) -> Tensor:
    """Sum of maps weighted by slopes: (N, C, M) and (N, M, H, W) to (N, C, H, W)."""
    return (slopes @ maps.flatten(2)).unflatten(2, maps.shape[-2:])


def _gather(one: Tensor, other: Tensor) -> Tensor:
    """Products of two maps summed over the pixels: (N, C, H, W), (N, M, H, W) to (N, C, M)."""
    return one.flatten(2) @ other.flatten(2).transpose(1, 2)


def _where_positive(condition: Tensor, values: Tensor) -> Tensor:
    """The values where the condition is above zero, and 0 elsewhere, in one pass."""
    return torch.ops.aten.threshold_backward(values, condition, 0)


class NormOverChannels(torch.autograd.Function):
    """Layer norm of (N, C, H, W) over C, which keeps one map for backward: the normed features."""

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
