"""The end-to-end detector's head: object queries pass through all scales (paper, sec. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import DepthwiseSeparableConvModule
from mmdet.models.layers import SinePositionalEncoding
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdet_mobileformer.models.dynamic_relu import DynamicReLU
from mmdet_mobileformer.models.e2e.block import MOBILE_KINDS, DecoderBlock
from mmdet_mobileformer.models.norm import LayerNorm2d
from mmdet_mobileformer.models.padding import hide_padding, resize_mask
from mmdet_mobileformer.models.recompute import recomputed

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

    def __post_init__(self) -> None:
        if self.mobile not in MOBILE_KINDS:
            raise ValueError(
                f'unknown kind of Mobile sub-block {self.mobile!r}; choose from {MOBILE_KINDS}'
            )
        if self.num_blocks < 1 or self.mid_channels < 1:
            raise ValueError(
                'a scale needs at least one block and one hidden channel; got '
                f'{self.num_blocks} blocks and mid_channels {self.mid_channels}'
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
            channels, channels, 3, padding=1, norm_cfg=dict(type=LayerNorm2d), act_cfg=None
        )

    def forward(self, coarse: Tensor, fine: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Bring the features to the next scale.

        Args:
            coarse: Features of the head (N, C, h, w).
            fine: The backbone's next map (N, C, H, W).
            padding_mask: Of the images, bool, True at padded pixels; None without padding.

        Returns:
            (N, C, H, W).
        """
        if self.upsampling is not None:
            fine = fine + self._upsample(coarse, fine.shape[-2:], padding_mask)
        mask = None if padding_mask is None else resize_mask(padding_mask, fine.shape[-2:])
        return self.conv(hide_padding(fine, mask))

    def _upsample(self, coarse: Tensor, size: torch.Size, padding_mask: Tensor | None) -> Tensor:
        align = False if self.upsampling == 'bilinear' else None

        def resize(features: Tensor) -> Tensor:
            return F.interpolate(features, size, mode=self.upsampling, align_corners=align)

        if padding_mask is None:
            return resize(coarse)
        # Only visible pixels are averaged, which at their border is what happens at a map's border.
        mask = resize_mask(padding_mask, coarse.shape[-2:])
        share = resize((~mask[:, None]).to(coarse.dtype))
        return resize(hide_padding(coarse, mask)) / share.clamp(min=1e-3)


class MobileFormerDecoder(BaseModule):
    """Head of the end-to-end detector: what encoder and decoder are in DETR, in one.

    In each block the Mobile stream does what DETR's encoder does, refine the features, and the
    Former stream what its decoder does, refine the queries (paper). The blocks of the coarsest
    scale come first.

    Args:
        scales: The scales from coarse to fine, as :class:`ScaleSpec` or dicts of its fields. The
            paper has 5, 2 and 2 blocks at 1/32, 1/16 and 1/8 for 508M; the other sizes are our
            decision.
        embed_dims: Channels C of queries and features (256 in the paper).
        num_heads: Heads of every attention (8: our decision, as in DETR).
        ffn_ratio: Hidden width of Former's FFN in units of ``embed_dims`` (2 in the paper).
        dynamic_relu: 'spatial' or 'token', see :class:`DecoderBlock`.
        adapt_position: Whether the queries' position embedding adapts from block to block (paper,
            eq. 4); without, all blocks use the learned one.
        upsampling: Between the scales, see :class:`ScaleFusion`.
        dropout: Dropped share of what each branch adds, and of the FFNs' hidden units (0.1 in the
            paper's training).
        with_cp: Recompute blocks in backward instead of keeping their activations.
        init_cfg: As in mmengine.

    Raises:
        ValueError: If there is no scale, or a setting is unknown.
    """

    def __init__(
        self,
        scales: Sequence[dict[str, Any] | ScaleSpec],
        embed_dims: int = 256,
        num_heads: int = 8,
        ffn_ratio: int = 2,
        dynamic_relu: str = 'spatial',
        adapt_position: bool = True,
        upsampling: str | None = 'bilinear',
        dropout: float = 0.1,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        scales = [spec if isinstance(spec, ScaleSpec) else ScaleSpec(**spec) for spec in scales]
        if not scales:
            raise ValueError('the head needs at least one scale; scales is empty')
        if embed_dims % (4 * num_heads):
            raise ValueError(
                f'embed_dims must be a multiple of 4 * num_heads; got {embed_dims} and {num_heads}'
            )
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.with_cp = with_cp
        # Half of the channels for y, half for x, both normalised by the image's extent, as in DETR.
        self.positional_encoding = SinePositionalEncoding(embed_dims // 2, normalize=True)
        self.fusions = nn.ModuleList(ScaleFusion(embed_dims, upsampling) for _ in scales[1:])
        self.scales = nn.ModuleList()
        for index, spec in enumerate(scales):
            is_last_scale = index == len(scales) - 1
            blocks = nn.ModuleList()
            for position in range(spec.num_blocks):
                is_last_here = position == spec.num_blocks - 1
                # Whether a later block, or the next scale, reads the features.
                is_read = not is_last_here or (upsampling is not None and not is_last_scale)
                blocks.append(
                    DecoderBlock(
                        embed_dims,
                        spec.mobile if is_read else None,
                        spec.mid_channels,
                        num_heads,
                        ffn_ratio,
                        dynamic_relu,
                        adapt_position and not (is_last_scale and is_last_here),
                        dropout,
                    )
                )
            self.scales.append(blocks)

    @property
    def num_blocks(self) -> int:
        """Blocks of all scales together: as many as there are predictions."""
        return sum(len(blocks) for blocks in self.scales)

    def init_weights(self) -> None:
        """Initialise: linear layers Xavier-uniform as DETR's, except those that start as no effect.

        Dynamic ReLU begins close to ReLU, and the position embedding close to constant: normal with
        std 0.01 as in the released backbone.
        """
        super().init_weights()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            small = []
            if isinstance(module, DynamicReLU):
                small = [module.fc1, module.fc2]
            elif isinstance(module, DecoderBlock) and module.position_update is not None:
                small = [module.position_update[-1]]
            for linear in small:
                nn.init.normal_(linear.weight, std=0.01)

    def forward(
        self,
        features: Sequence[Tensor],
        queries: Tensor,
        query_pos: Tensor,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Refine the queries.

        Args:
            features: The backbone's maps (N, C, H_i, W_i) from coarse to fine, one a scale.
            queries: Feature embedding (N, Q, C), zero at the start.
            query_pos: Position embedding (N, Q, C), learned.
            padding_mask: (N, H, W) bool of the images, True at padded pixels; None without padding.

        Returns:
            Queries after every block (num_blocks, N, Q, C).

        Raises:
            ValueError: If there are not as many maps as scales.
        """
        if len(features) != len(self.scales):
            raise ValueError(
                f'the head has {len(self.scales)} scales but got {len(features)} feature maps; let '
                "backbone.out_indices and the decoder's scales agree in number"
            )
        hidden_states = []
        current = features[0]
        for index, blocks in enumerate(self.scales):
            if index:
                current = self.fusions[index - 1](current, features[index], padding_mask)
            mask = None if padding_mask is None else resize_mask(padding_mask, current.shape[-2:])
            feature_pos = self.positional_encoding(mask, input=current)
            feature_pos = spread_over_heads(feature_pos, self.num_heads).to(current.dtype)
            for block in blocks:
                args = (current, queries, feature_pos, query_pos, mask)
                if self.with_cp and self.training and torch.is_grad_enabled():
                    args = recomputed(block, block, *args)
                else:
                    args = block(*args)
                current, queries, query_pos = args
                hidden_states.append(queries)
        return torch.stack(hidden_states)


def spread_over_heads(feature_pos: Tensor, num_heads: int) -> Tensor:
    """Reorder the channels of a sine embedding so that every head gets both coordinates.

    The bridge never projects the pixels, so a head sees only its own channels. In DETR's order, all
    of y from high to low frequency and then all of x, each head would see one band of one
    coordinate, and none could attend to a place. Here each gets every ``num_heads``-th frequency of
    both (our decision).

    Args:
        feature_pos: (N, C, H, W), sine and cosine of a frequency side by side, y before x.
        num_heads: Heads; 4 times their number divides C.

    Returns:
        (N, C, H, W).
    """
    # (N, coordinate, step, head, sine and cosine, H, W), the head to the front of the channels.
    split = feature_pos.unflatten(1, (2, -1, num_heads, 2))
    return split.permute(0, 3, 1, 2, 4, 5, 6).flatten(1, 4)
