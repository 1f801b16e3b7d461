"""Convolutions of one pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn

from mmdet_mobileformer.models.layout import is_channels_last


@MODELS.register_module()
class PointwiseConv2d(nn.Conv2d):
    """A 1×1 convolution that stays channels-last with one thread, too.

    PyTorch then computes it on the other layout, and would copy the map before and after it. A
    linear layer on every pixel is the same product.
    """

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W)."""
        if self.groups > 1 or not is_channels_last(features) or torch.get_num_threads() > 1:
            return super().forward(features)
        pixels = features.permute(0, 2, 3, 1)
        return F.linear(pixels, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
