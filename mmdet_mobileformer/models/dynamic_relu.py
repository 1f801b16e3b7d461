"""Dynamic ReLU whose slopes are made by the tokens (paper, sec. 3; spatial-aware: eq. 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DynamicReLU(nn.Module):
    """``y = max(a1 * x, a2 * x)`` with slopes that the tokens decide.

    1. Every driving token z becomes ``theta = hsigmoid(Linear(ReLU(Linear(z))))``, halved into
       ``a1 = 2 * theta1`` in [0, 2] and ``a2 = 2 * theta2 - 1`` in [-1, 1] (released model).
    2. Without an assignment ('token'), the first token decides the slopes of a channel for the
       whole map (paper). With one ('spatial'), the slopes of a pixel are the sum of all tokens'
       slopes weighted by the pixel's assignment (paper, eq. 3). The parameters are the same.

    Args:
        token_dim: Channels D of a token.
        channels: Channels C of the features.
        reduction: Ratio of D to the hidden width (4 in the released model).
    """

    def __init__(self, token_dim: int, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(token_dim, token_dim // reduction)
        self.fc2 = nn.Linear(token_dim // reduction, 2 * channels)

    def forward(self, features: Tensor, tokens: Tensor, assignment: Tensor | None = None) -> Tensor:
        """Activate the features.

        Args:
            features: (N, C, H, W).
            tokens: (N, M, D).
            assignment: (N, M, H, W), a distribution over the M tokens at every pixel, or None.

        Returns:
            (N, C, H, W).
        """
        slopes = self._slopes(tokens if assignment is not None else tokens[:, :1])
        slopes = slopes.to(features.dtype)  # (N, M, 2C)
        if assignment is None:
            first, second = slopes[:, 0, :, None, None].chunk(2, dim=1)  # (N, C, 1, 1)
            low, high = torch.minimum(first, second), torch.maximum(first, second)
            return _TwoSlopes.apply(features, low, high - low)
        first, second = slopes.transpose(1, 2).chunk(2, dim=1)  # (N, C, M)
        assignment = assignment.to(features.dtype)
        return _SpatialTwoSlopes.apply(features, second, first - second, assignment)

    def _slopes(self, tokens: Tensor) -> Tensor:
        """Slopes a1 and a2 of every token: (N, M, D) to (N, M, 2C)."""
        theta = F.hardsigmoid(self.fc2(F.relu(self.fc1(tokens))))
        first, second = theta.chunk(2, dim=-1)
        return torch.cat([2 * first, 2 * second - 1], dim=-1)


# Both functions compute max(a1 * x, a2 * x) as base * x + relu(change * x), which takes one new map
# and in-place passes over it. They keep x instead of both products for backward (our decision: the
# products are most of what training would have to remember). Compilers fuse either.


class _TwoSlopes(torch.autograd.Function):
    """``low * x + change * relu(x)`` with change >= 0: x (N, C, H, W), slopes (N, C, 1, 1)."""

    @staticmethod
    def forward(ctx, features: Tensor, low: Tensor, change: Tensor) -> Tensor:  # noqa: ANN001 (torch's)
        ctx.save_for_backward(features, low, change)
        return (features * change).relu_().addcmul_(features, low)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN001 (torch's)
        features, low, change = ctx.saved_tensors
        positive = _where_positive(features, grad)
        grad_low = torch.einsum('nchw,nchw->nc', grad, features)[..., None, None]
        grad_change = torch.einsum('nchw,nchw->nc', positive, features)[..., None, None]
        return positive.mul_(change).addcmul_(grad, low), grad_low, grad_change


class _SpatialTwoSlopes(torch.autograd.Function):
    """``base * x + relu(change * x)`` with slopes per pixel, which backward makes again.

    x is (N, C, H, W), the tokens' slopes (N, C, M) each, the assignment (N, M, H, W).
    """

    @staticmethod
    def forward(ctx, features: Tensor, base: Tensor, change: Tensor, assignment: Tensor) -> Tensor:  # noqa: ANN001
        ctx.save_for_backward(features, base, change, assignment)
        update = _spread(change, assignment).mul_(features).relu_()
        return update.addcmul_(features, _spread(base, assignment))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: ANN001 (torch's)
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
