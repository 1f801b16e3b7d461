"""Mobile: the three kinds of inverted bottleneck on the features (paper, sec. 3.2 and table 1)."""

from typing import Any

from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from mmdet_mobileformer.models import pixelwise, pixelwise_training
from mmdet_mobileformer.models.convolution import conv_norm
from mmdet_mobileformer.models.dynamic_relu import DynamicReLU
from mmdet_mobileformer.models.padding import hide_padding, mask_at
from mmdet_mobileformer.models.recompute import recomputed_in_training


class LiteBottleneck(nn.Module):
    """Depthwise expansion, activation, pointwise squeeze.

    As the first block of the backbone it knows no tokens, and the activation is ReLU6 (paper). In
    the end-to-end detector's head the activation is dynamic ReLU (our decision: a reading of the
    paper that meets its published costs).

    Args:
        in_channels: Channels of the input.
        mid_channels: Channels after the depthwise convolution, a multiple of ``in_channels``.
        out_channels: Channels of the output.
        stride: Of the depthwise convolution.
        groups: Of the pointwise convolution; above 1 the channels are shuffled (released 26m),
            which goes with ReLU6.
        norm_cfg: Norm after every convolution.
        token_dim: Channels of the tokens that drive dynamic ReLU; None for ReLU6 and no tokens.
        dropout: Dropped share of what the residual branch adds.
        drop_path: Rate at which a sample skips the residual branch.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        norm_cfg: dict[str, Any],
        stride: int = 1,
        groups: int = 1,
        token_dim: int | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.depthwise = conv_norm(
            in_channels,
            mid_channels,
            3,
            norm_cfg,
            stride=stride,
            groups=in_channels,
            act_cfg=dict(type='ReLU6') if token_dim is None else None,
            shuffle=in_channels if groups > 1 else 1,
        )
        self.act = None if token_dim is None else DynamicReLU(token_dim, mid_channels)
        self.pointwise = conv_norm(mid_channels, out_channels, 1, norm_cfg, groups=groups)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(
        self,
        features: Tensor,
        tokens: Tensor,
        assignment: Tensor | None = None,
        padding_mask: Tensor | None = None,
        feature_pos: Tensor | None = None,
    ) -> Tensor:
        """Update the features.

        Args:
            features: (N, C, H, W).
            tokens: (N, M, D) that drive dynamic ReLU.
            assignment: (N, M, ceil(H / stride), ceil(W / stride)) for its spatial-aware form, or
                None.
            padding_mask: (N, H, W) bool, True at padded pixels.
            feature_pos: As for the Mobile part that attends; not read here.

        Returns:
            (N, C', ceil(H / stride), ceil(W / stride)).
        """
        visible = hide_padding(features, padding_mask)
        convs = self.depthwise, self.pointwise
        if self.act is None and pixelwise.applies(visible, *convs):
            update = pixelwise.chained(visible, *convs)
        elif self.act is None:
            update = self.pointwise(self.depthwise(visible))
        elif not self.training or pixelwise_training.applies(visible, *convs):
            update = self.act(visible, tokens, assignment, *convs)
        else:
            squeeze = recomputed_in_training(self, self._squeeze)
            update = squeeze(self.depthwise.conv(visible), tokens, assignment)
        update = self.dropout(update)
        return features + self.drop_path(update) if self.has_shortcut else update

    def _squeeze(self, update: Tensor, tokens: Tensor, assignment: Tensor | None) -> Tensor:
        """All behind the depthwise convolution."""
        update = self.depthwise.finish(update, self.depthwise.norm)
        return self.pointwise(self.act(update, tokens, assignment))


class Bottleneck(nn.Module):
    """Inverted bottleneck of stride 1 with dynamic ReLU (paper).

    Pointwise expansion and depthwise convolution, each followed by dynamic ReLU, then a linear
    pointwise squeeze; added to the input where the shape is unchanged.

    Args:
        in_channels: Channels of the input.
        mid_channels: Channels between the pointwise convolutions.
        out_channels: Channels of the output.
        token_dim: Channels of the tokens that drive the activations.
        groups: Of the pointwise convolutions; above 1 the channels are shuffled (released 26m).
        norm_cfg: Norm after every convolution.
        drop_path: Rate at which a sample skips the residual branch.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        token_dim: int,
        norm_cfg: dict[str, Any],
        groups: int = 1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        pointwise = dict(norm_cfg=norm_cfg, groups=groups, shuffle=groups)
        self.expand = conv_norm(in_channels, mid_channels, 1, **pointwise)
        self.act1 = DynamicReLU(token_dim, mid_channels)
        self.depthwise = conv_norm(mid_channels, mid_channels, 3, norm_cfg, groups=mid_channels)
        self.act2 = DynamicReLU(token_dim, mid_channels)
        self.squeeze = conv_norm(mid_channels, out_channels, 1, **pointwise)
        self.drop_path = DropPath(drop_path)
        self.has_shortcut = in_channels == out_channels

    def forward(
        self,
        features: Tensor,
        tokens: Tensor,
        assignment: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Update the features.

        Args:
            features: (N, C, H, W).
            tokens: (N, M, D), already updated by Former.
            assignment: (N, M, H, W) for spatial-aware dynamic ReLU, or None.
            padding_mask: (N, H, W) bool, True at padded pixels.

        Returns:
            (N, C', H, W).
        """
        update = self.act1(features, tokens, assignment, self.expand, self.depthwise, padding_mask)
        update = self.act2(update, tokens, assignment, after=self.squeeze)
        return features + self.drop_path(update) if self.has_shortcut else update


class DownsamplingBottleneck(nn.Module):
    """Bottleneck that halves the resolution: two pairs of depthwise and pointwise (paper, table 1).

    The first pair has stride 2 and changes the width; the second refines its result and is added to
    it. Dynamic ReLU follows the depthwise convolutions.

    Args:
        in_channels: Channels C of the input.
        mid_channels: Channels of the first depthwise convolution, a multiple of C.
        out_channels: Channels C' of the output.
        second_mid_channels: Channels of the second depthwise convolution, a multiple of C'.
        token_dim: Channels of the tokens that drive the activations.
        groups: Of the pointwise convolutions; above 1 the channels are shuffled (released 26m).
        norm_cfg: Norm after every convolution.
        drop_path: Rate at which a sample skips the residual branch.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        second_mid_channels: int,
        token_dim: int,
        norm_cfg: dict[str, Any],
        groups: int = 1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.depthwise1 = conv_norm(
            in_channels,
            mid_channels,
            3,
            norm_cfg,
            stride=2,
            groups=in_channels,
            shuffle=in_channels if groups > 1 else 1,
        )
        self.act1 = DynamicReLU(token_dim, mid_channels)
        self.pointwise1 = conv_norm(mid_channels, out_channels, 1, norm_cfg, groups=groups)
        self.depthwise2 = conv_norm(
            out_channels,
            second_mid_channels,
            3,
            norm_cfg,
            groups=out_channels,
            shuffle=out_channels if groups > 1 else 1,
        )
        self.act2 = DynamicReLU(token_dim, second_mid_channels)
        self.pointwise2 = conv_norm(second_mid_channels, out_channels, 1, norm_cfg, groups=groups)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        features: Tensor,
        tokens: Tensor,
        assignment: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Downsample the features.

        Args:
            features: (N, C, H, W).
            tokens: (N, M, D), already updated by Former.
            assignment: (N, M, ceil(H / 2), ceil(W / 2)) for spatial-aware dynamic ReLU, or None.
            padding_mask: (N, H, W) bool, True at padded pixels.

        Returns:
            (N, C', ceil(H / 2), ceil(W / 2)).
        """
        visible = hide_padding(features, padding_mask)
        features = self.act1(visible, tokens, assignment, self.depthwise1, self.pointwise1)
        visible = hide_padding(features, mask_at(padding_mask, 2))
        update = self.act2(visible, tokens, assignment, self.depthwise2, self.pointwise2)
        return features + self.drop_path(update)
