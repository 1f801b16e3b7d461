"""Convolutions of the backbone and of the end-to-end detector, and the norms behind them."""

from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdet_mobileformer.models import fused
from mmdet_mobileformer.models.layout import is_channels_last


@MODELS.register_module()
class PointwiseConv2d(nn.Conv2d):
    """A convolution whose 1×1 form stays channels-last with one thread, too.

    PyTorch then computes it on the other layout, and would copy the map before and after it. A
    linear layer on every pixel is the same product. Any other size, stride or number of groups is
    left to PyTorch.
    """

    def _conv_forward(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(N, C, H, W) to (N, C', H, W)."""
        one = self.kernel_size == self.stride == (1, 1) and self.padding == (0, 0)
        is_linear = one and self.groups == 1
        if not is_linear or not is_channels_last(features) or torch.get_num_threads() > 1:
            return super()._conv_forward(features, weight, bias)
        pixels = features.permute(0, 2, 3, 1)
        return F.linear(pixels, weight.flatten(1), bias).permute(0, 3, 1, 2)


@MODELS.register_module()
class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution that trains several outputs a channel as fast as one each.

    PyTorch's own takes up to three times as long on a CPU, where the stride is 1.
    """

    def _conv_forward(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(N, C, H, W) to (N, m * C, H', W')."""
        several = has_several_outputs(self) and self.stride == (1, 1)
        trains = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if not (several and trains and features.is_cpu) or torch.is_autocast_enabled('cpu'):
            return super()._conv_forward(features, weight, bias)
        update = fused.SeveralOutputs.apply(features, weight, self.padding)
        return update if bias is None else update.add_(bias[:, None, None])


class ConvNorm(ConvModule):
    """mmcv's convolution, norm and activation; fixed statistics become part of the weights.

    ``norm(conv(x))`` is a convolution with other weights where BatchNorm's statistics are fixed, in
    training too: a pass over the map less, and a map less to remember. mmcv's
    ``efficient_conv_bn_eval`` is the same, but writes over ``conv.forward`` in every call.

    Attributes:
        shuffle: Groups whose channels are interleaved behind all; 1 changes nothing.
    """

    shuffle = 1

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        if torch.compiler.is_compiling():  # compilers fold by themselves
            return self.unfolded(features)
        weight, bias, norm = self.folded()
        return self.finish(self.conv._conv_forward(features, weight, bias), norm)

    def unfolded(self, features: Tensor) -> Tensor:
        """The same, the norm as it is written."""
        return channel_shuffle(super().forward(features), self.shuffle)

    @property
    def is_pointwise(self) -> bool:
        """Whether it reads every pixel for itself, and all channels of it."""
        return self.conv.kernel_size == (1, 1) and self.conv.groups == 1

    @property
    def norms_pixels(self) -> bool:
        """Whether what follows the convolution, when folded, reads every pixel for itself."""
        return self._folds or isinstance(self.norm, (nn.Identity, nn.LayerNorm, type(None)))

    @property
    def _folds(self) -> bool:
        """Whether the norm has fixed statistics, and weights."""
        norm = self.norm
        is_fixed = isinstance(norm, _BatchNorm) and not norm.training
        return is_fixed and norm.weight is not None and norm.running_var is not None

    def folded(self) -> tuple[Tensor, Tensor | None, nn.Module | None]:
        """Weight and bias of the convolution, and the norm, None where they comprise it."""
        weight, bias, norm = self.conv.weight, self.conv.bias, self.norm
        if not self._folds:
            return weight, bias, norm
        factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.running_mean if bias is None else norm.running_mean - bias
        return weight * factor[:, None, None, None], norm.bias - shift * factor, None

    def outputs_apart(self, features: Tensor) -> list[Tensor]:
        """The outputs of a depthwise convolution as maps of one channel an input channel each.

        PyTorch computes several outputs a channel far slower than one at a time (channels-last).

        Args:
            features: (N, C, H, W).

        Returns:
            As many maps (N, C, H', W') as there are outputs a channel: of channel c, the first has
            the first output, and so on.
        """
        weight, bias, _ = self.folded()
        count = self.conv.out_channels // self.conv.groups
        settings = dict(stride=self.conv.stride, padding=self.conv.padding, groups=self.conv.groups)
        return [
            F.conv2d(
                features, weight[k::count], None if bias is None else bias[k::count], **settings
            )
            for k in range(count)
        ]

    def finish(self, features: Tensor, norm: nn.Module | None) -> Tensor:
        """Apply what follows the convolution, and return (N, C', H', W')."""
        features = features if norm is None else norm(features)
        if self.with_activation and isinstance(self.activate, nn.ReLU6) and features.requires_grad:
            features = fused.BoundedReLU.apply(features)
        elif self.with_activation:
            features = self.activate(features)
        return channel_shuffle(features, self.shuffle)


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    norm_cfg: dict[str, Any] | None,
    stride: int = 1,
    groups: int = 1,
    act_cfg: dict[str, Any] | None = None,
    shuffle: int = 1,
) -> ConvNorm:
    """Convolution padded to keep the size, and norm; no activation by default.

    It has a bias only where there is no norm.
    """
    conv_cfg = dict(type=DepthwiseConv2d) if groups == in_channels else None
    if kernel_size == 1:
        conv_cfg = dict(type=PointwiseConv2d)
    layer = ConvNorm(
        in_channels,
        out_channels,
        kernel_size,
        conv_cfg=conv_cfg,
        stride=stride,
        padding=kernel_size // 2,
        groups=groups,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
    )
    layer.shuffle = shuffle
    return layer


def has_several_outputs(conv: nn.Conv2d) -> bool:
    """Whether it is depthwise, with more than one output a channel."""
    return conv.groups == conv.in_channels < conv.out_channels


def channel_shuffle(features: Tensor, groups: int) -> Tensor:
    """Interleave the channels of groups: (N, C, H, W) to (N, C, H, W) (released 26m)."""
    if groups == 1:
        return features
    return features.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
