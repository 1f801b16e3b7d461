"""The blocks of the backbone: Mobile-Former (paper, figure 3) and lite (table 1)."""

from typing import Any

from torch import Tensor, nn

from mmdet_mobileformer.models.arch import DOWNSAMPLING, LITE, ArchSpec, BlockSpec
from mmdet_mobileformer.models.bridge import FormerToMobile, MobileToFormer, token_assignment
from mmdet_mobileformer.models.former import Former
from mmdet_mobileformer.models.mobile import (
    Bottleneck,
    DownsamplingBottleneck,
    LiteBottleneck,
)

DYNAMIC_RELU_MODES = ('token', 'spatial')


class MobileFormerBlock(nn.Module):
    """One block of the two parallel streams, joined by the bridge.

    1. Mobile→Former: the tokens read the features.
    2. Former: the tokens talk to each other.
    3. Mobile: convolutions on the features, their activations driven by the updated tokens.
    4. Former→Mobile: the features read the tokens.

    Args:
        in_channels: Channels of the features.
        spec: Kind and widths of the Mobile part.
        token_dim: Channels of a token.
        norm_cfg: Norm after every convolution.
        groups: Of the pointwise convolutions.
        dynamic_relu: 'token' or 'spatial'.
        drop_path: Drop-path rate of every residual branch.
    """

    def __init__(
        self,
        in_channels: int,
        spec: BlockSpec,
        token_dim: int,
        norm_cfg: dict[str, Any],
        groups: int = 1,
        dynamic_relu: str = 'token',
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.stride = spec.stride
        self.dynamic_relu = dynamic_relu
        self.mobile_to_former = MobileToFormer(in_channels, token_dim, drop_path=drop_path)
        self.former = Former(token_dim, drop_path=drop_path)
        widths = dict(
            in_channels=in_channels, mid_channels=spec.mid_channels, out_channels=spec.out_channels
        )
        common = dict(token_dim=token_dim, norm_cfg=norm_cfg, groups=groups, drop_path=drop_path)
        if spec.kind == DOWNSAMPLING:
            widths['second_mid_channels'] = spec.second_mid_channels
            self.mobile = DownsamplingBottleneck(**widths, **common)
        else:
            self.mobile = Bottleneck(**widths, **common)
        self.former_to_mobile = FormerToMobile(spec.out_channels, token_dim, drop_path=drop_path)

    def forward(
        self, features: Tensor, tokens: Tensor, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Update both streams.

        Args:
            features: (N, C, H, W).
            tokens: (N, M, D).
            padding_mask: (N, H, W) bool, True at padded pixels.

        Returns:
            Features (N, C', ceil(H / stride), ceil(W / stride)) and tokens (N, M, D).
        """
        tokens, logits = self.mobile_to_former(features, tokens, padding_mask=padding_mask)

        tokens = self.former(tokens)

        spatial = self.dynamic_relu == 'spatial'
        assignment = token_assignment(logits, self.stride) if spatial else None
        features = self.mobile(features, tokens, assignment, padding_mask)

        return self.former_to_mobile(features, tokens), tokens


class LiteBlock(LiteBottleneck):
    """The backbone's first block: a lite bottleneck without a bridge, so the tokens pass it by."""

    def forward(
        self, features: Tensor, tokens: Tensor, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`MobileFormerBlock.forward`."""
        return super().forward(features, tokens, padding_mask=padding_mask), tokens


def build_block(
    in_channels: int,
    spec: BlockSpec,
    arch: ArchSpec,
    norm_cfg: dict[str, Any],
    dynamic_relu: str,
    drop_path: float,
) -> MobileFormerBlock | LiteBlock:
    """Build one block of an architecture; both kinds take and return both streams."""
    common = dict(norm_cfg=norm_cfg, groups=arch.groups, drop_path=drop_path)
    if spec.kind == LITE:
        widths = (in_channels, spec.mid_channels, spec.out_channels)
        return LiteBlock(*widths, stride=spec.stride, **common)
    return MobileFormerBlock(in_channels, spec, arch.token_dim, dynamic_relu=dynamic_relu, **common)
