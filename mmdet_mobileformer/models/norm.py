"""Normalisation of every pixel for itself."""

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from mmdet_mobileformer.models.fused import NormOverChannels
from mmdet_mobileformer.models.layout import is_channels_last


@MODELS.register_module()
class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of every pixel of a map (N, C, H, W).

    Norm of the end-to-end detector's head (our decision: BatchNorm would learn from two images a
    GPU, and GroupNorm's statistics would depend on how much padding an image got in its batch).
    It is computed where the channels lie: where they do not lie side by side, torch's layer norm
    between two permutations takes longer than the norm itself. Exported files know that norm alone.
    """

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W), in the dtype of the weights as under autocast."""
        features = features.to(self.weight.dtype)
        if is_channels_last(features) or torch.compiler.is_exporting():
            return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return NormOverChannels.apply(features, self.weight, self.bias, self.eps)
