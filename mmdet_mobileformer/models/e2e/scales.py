"""The scales of the decoder: their blocks, and the step from one to the next finer one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmcv.cnn import DepthwiseSeparableConvModule
from torch import Tensor, nn

from mmdet_mobileformer.models.convolution import PointwiseConv2d
from mmdet_mobileformer.models.e2e.block import MOBILE_KINDS
from mmdet_mobileformer.models.norm import LayerNorm2d
from mmdet_mobileformer.models.padding import hide_padding

UPSAMPLINGS = ('bilinear', 'nearest', None)


@dataclass(frozen=True)
class ScaleSpec:
    """The blocks of one scale.

    Raises:
        ValueError: If the kind is unknown or a number is not positive.
    """

    num_blocks: int
    mobile: str  # one of MOBILE_KINDS
    mid_channels: int  # hidden width of the Mobile part
    # Maps, this scale's and the following ones', from which new queries are proposed before its
    # blocks; 0 keeps the queries of the coarser scale.
    proposal_maps: int = 0

    def __post_init__(self) -> None:
        if self.mobile not in MOBILE_KINDS:
            raise ValueError(
                f'unknown kind of Mobile sub-block {self.mobile!r}; choose from {MOBILE_KINDS}'
            )
        if self.num_blocks < 1 or self.mid_channels < 1 or self.proposal_maps < 0:
            raise ValueError(
                'a scale needs at least one block and one hidden channel, and no negative '
                f'proposal_maps; got num_blocks {self.num_blocks}, mid_channels '
                f'{self.mid_channels}, proposal_maps {self.proposal_maps}'
            )


class ScaleFusion(nn.Module):
    """Step from one scale to the next finer one.

    The features are upsampled to the exact size of the backbone's next map and added to it (paper);
    a 3×3 depthwise and a pointwise convolution follow (our decision).

    Args:
        channels: Channels of the features.
        upsampling: 'bilinear' (paper), 'nearest', or None: the features of the coarser scale are
            dropped, and only the queries carry over.
    """

    def __init__(self, channels: int, upsampling: str | None = 'bilinear') -> None:
        super().__init__()
        if upsampling not in UPSAMPLINGS:
            raise ValueError(f'unknown upsampling {upsampling!r}; choose from {UPSAMPLINGS}')
        self.upsampling = upsampling
        self.conv = DepthwiseSeparableConvModule(
            channels,
            channels,
            3,
            padding=1,
            conv_cfg=dict(type=PointwiseConv2d),
            norm_cfg=dict(type=LayerNorm2d),
            act_cfg=None,
        )

    def forward(
        self,
        coarse: Tensor,
        fine: Tensor,
        coarse_mask: Tensor | None = None,
        fine_mask: Tensor | None = None,
    ) -> Tensor:
        """Bring the features to the next scale.

        Args:
            coarse: Features of the head (N, C, h, w).
            fine: The backbone's next map (N, C, H, W).
            coarse_mask: (N, h, w) bool, True at padded pixels; None without padding.
            fine_mask: (N, H, W), the same for the next map.

        Returns:
            (N, C, H, W).
        """
        if self.upsampling is not None:
            fine = fine + self._upsample(coarse, fine.shape[-2:], coarse_mask)
        return self.conv(hide_padding(fine, fine_mask))

    def _upsample(self, coarse: Tensor, size: torch.Size, mask: Tensor | None) -> Tensor:
        align = False if self.upsampling == 'bilinear' else None

        def resize(features: Tensor) -> Tensor:
            return F.interpolate(features, size, mode=self.upsampling, align_corners=align)

        if mask is None:
            return resize(coarse)
        # Only visible pixels are averaged, which at their border is what happens at a map's border.
        share = resize((~mask[:, None]).to(coarse.dtype))
        return resize(hide_padding(coarse, mask)) / share.clamp(min=1e-3)


def check_proposals(scales: Sequence[ScaleSpec], anchored: bool) -> None:
    """Check that at most one scale proposes, from maps that there are.

    Raises:
        ValueError: If not, or if queries do not own boxes.
    """
    proposing = [index for index, spec in enumerate(scales) if spec.proposal_maps]
    if len(proposing) > 1 or (proposing and not anchored):
        raise ValueError(
            'proposals are made before one scale, and need anchored=True; got proposal_maps '
            f'{[spec.proposal_maps for spec in scales]} and anchored={anchored}'
        )
    for index in proposing:
        if scales[index].proposal_maps > len(scales) - index:
            raise ValueError(
                f'scale {index} of {len(scales)} proposes from {scales[index].proposal_maps} '
                f'maps, but only {len(scales) - index} are left'
            )
