"""Dynamic ReLU whose slopes are made by the tokens (paper, sec. 3; spatial-aware: eq. 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdet_mobileformer.models.fused import SpatialTwoSlopes, TwoSlopes


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
            return TwoSlopes.apply(features, low, high - low)
        first, second = slopes.transpose(1, 2).chunk(2, dim=1)  # (N, C, M)
        assignment = assignment.to(features.dtype)
        return SpatialTwoSlopes.apply(features, second, first - second, assignment)

    def _slopes(self, tokens: Tensor) -> Tensor:
        """Slopes a1 and a2 of every token: (N, M, D) to (N, M, 2C)."""
        theta = F.hardsigmoid(self.fc2(F.relu(self.fc1(tokens))))
        first, second = theta.chunk(2, dim=-1)
        return torch.cat([2 * first, 2 * second - 1], dim=-1)
