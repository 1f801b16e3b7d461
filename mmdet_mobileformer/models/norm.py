"""Normalisation of every pixel for itself."""

from __future__ import annotations

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@MODELS.register_module()
class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of every pixel of a map (N, C, H, W).

    Norm of the end-to-end detector's head (our decision: BatchNorm would learn from two images a
    GPU, and GroupNorm's statistics would depend on how much padding an image got in its batch).
    It is computed where the channels lie: on a CPU, two permutations around torch's layer norm take
    longer than the norm itself.
    """

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W), in the dtype of the weights as under autocast."""
        features = features.to(self.weight.dtype)
        return _NormOverChannels.apply(features, self.weight, self.bias, self.eps)


class _NormOverChannels(torch.autograd.Function):
    """Layer norm of (N, C, H, W) over C, which keeps one map for backward: the normed features."""

    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:  # noqa: ANN001 (torch's)
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
