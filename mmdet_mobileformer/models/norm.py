"""Normalisation of every pixel for itself."""

from __future__ import annotations

import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of every pixel of a map (N, C, H, W).

    Norm of the end-to-end detector's head (our decision: BatchNorm would learn from two images a
    GPU, and GroupNorm's statistics would depend on how much padding an image got in its batch).
    The result is contiguous, so that all maps of the head have one layout (our decision).
    """

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        channels_last = features.permute(0, 2, 3, 1)
        normed = F.layer_norm(
            channels_last, self.normalized_shape, self.weight, self.bias, self.eps
        )
        return normed.permute(0, 3, 1, 2).contiguous()
