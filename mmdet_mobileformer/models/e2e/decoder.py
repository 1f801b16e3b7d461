"""The end-to-end detector's decoder: object queries pass through all scales (paper, sec. 4)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmdet.models.layers import SinePositionalEncoding
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdet_mobileformer.models.dynamic_relu import DynamicReLU
from mmdet_mobileformer.models.e2e.anchors import BoxEmbedding
from mmdet_mobileformer.models.e2e.block import DecoderBlock
from mmdet_mobileformer.models.e2e.denoising import DenoisingQueries
from mmdet_mobileformer.models.e2e.position import position_of_pixels
from mmdet_mobileformer.models.e2e.prior import GaussianPrior
from mmdet_mobileformer.models.e2e.proposals import ProposalHead
from mmdet_mobileformer.models.e2e.scales import ScaleFusion, ScaleSpec, check_proposals
from mmdet_mobileformer.models.padding import resize_mask, visible_extent
from mmdet_mobileformer.models.recompute import recomputed_in_training


class MobileFormerDecoder(BaseModule):
    """Blocks of the end-to-end detector: what encoder and decoder are in DETR, in one.

    In each block the Mobile stream does what DETR's encoder does, refine the features, and the
    Former stream what its decoder does, refine the queries (paper). The blocks of the coarsest
    scale come first.

    Without ``anchored`` this is the paper's form. With it a query owns a box, which makes its
    position embedding and is refined after every block (:mod:`.anchors`); the queries of a scale
    may be proposals read from its map, and the coarser queries then work on the map alone, like the
    backbone's tokens.

    Args:
        scales: The scales from coarse to fine, as :class:`ScaleSpec` or dicts of its fields. The
            paper has 5, 2 and 2 blocks at 1/32, 1/16 and 1/8 for 508M; the other sizes are our
            decision.
        embed_dims: Channels C of queries and features (256 in the paper).
        num_heads: Heads of every attention (our decision: 8, as in DETR; the anchored configs for
            COCO and small data have 4, which were as good on blood cells and are faster).
        ffn_ratio: Hidden width of Former's FFN in units of ``embed_dims`` (2 in the paper).
        dynamic_relu: 'spatial' or 'token', see :class:`DecoderBlock`.
        adapt_position: Whether the queries' position embedding adapts from block to block (paper,
            eq. 4); without, all blocks use the learned one.
        anchored: Whether the queries own boxes.
        prior: Whether anchored queries attend around their boxes, see :class:`GaussianPrior`.
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
        anchored: bool = False,
        prior: bool = True,
        upsampling: str | None = 'bilinear',
        dropout: float = 0.1,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        scales = [spec if isinstance(spec, ScaleSpec) else ScaleSpec(**spec) for spec in scales]
        if not scales:
            raise ValueError('the decoder needs at least one scale; scales is empty')
        check_proposals(scales, anchored)
        if embed_dims % (4 * num_heads):
            raise ValueError(
                f'embed_dims must be a multiple of 4 * num_heads; got {embed_dims} and {num_heads}'
            )
        self.embed_dims = embed_dims
        self.num_heads = num_heads
        self.with_cp = with_cp
        self.proposal_maps = [spec.proposal_maps for spec in scales]
        self.box_embedding = BoxEmbedding(embed_dims) if anchored else None
        # Half of the channels for y, half for x, both normalised by the image's extent, as in DETR.
        self.positional_encoding = SinePositionalEncoding(embed_dims // 2, normalize=True)
        self.fusions = nn.ModuleList(ScaleFusion(embed_dims, upsampling) for _ in scales[1:])
        self.scales = nn.ModuleList()
        for index, spec in enumerate(scales):
            is_last_scale = index == len(scales) - 1
            # Where the queries end, nothing reads their last change of position.
            is_end = is_last_scale or scales[index + 1].proposal_maps > 0
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
                        adapt_position and not (is_end and is_last_here),
                        anchored and prior,
                        dropout,
                    )
                )
            self.scales.append(blocks)

    @property
    def anchored(self) -> bool:
        """Whether the queries own boxes."""
        return self.box_embedding is not None

    @property
    def begins_with_queries(self) -> bool:
        """Whether the first scale needs queries, and does not propose its own."""
        return not self.proposal_maps[0]

    @property
    def proposes(self) -> bool:
        """Whether queries are proposed by a scale's maps."""
        return any(self.proposal_maps)

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
            if isinstance(module, GaussianPrior):
                module.init_weights()
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
        queries: Tensor | None,
        query_pos: Tensor | None = None,
        boxes: Tensor | None = None,
        padding_mask: Tensor | None = None,
        refine: Callable[[Tensor, Tensor], Tensor] | None = None,
        propose: ProposalHead | None = None,
        dn_queries: DenoisingQueries | None = None,
    ) -> dict[str, Any]:
        """Refine the queries.

        Args:
            features: The backbone's maps (N, C, H_i, W_i) from coarse to fine, one a scale.
            queries: Feature embedding (N, Q, C), zero at the start in the paper's form; None where
                the first scale proposes its own.
            query_pos: Position embedding (N, Q, C), learned; anchored queries make theirs.
            boxes: Boxes of anchored queries (N, Q, 4) as (cx, cy, w, h) in [0, 1].
            padding_mask: (N, H, W) bool of the images, True at padded pixels; None without padding.
            refine: Gives the boxes of queries after a block, from queries and boxes.
            propose: Makes proposals of maps and masks.
            dn_queries: In training, what joins the proposals, see :mod:`.denoising`.

        Returns:
            What the head predicts from: ``hidden_states``, the queries after every block
            (num_blocks, N, Q, C); of anchored queries ``boxes``, theirs after every block
            (num_blocks, N, Q, 4), and ``proposals``, or None without. With denoising queries
            ``dn_states`` and ``dn_boxes``, shaped alike, after the blocks that they passed, and
            ``dn_queries``.

        Raises:
            ValueError: If there are not as many maps as scales.
        """
        if len(features) != len(self.scales):
            raise ValueError(
                f'the decoder has {len(self.scales)} scales but got {len(features)} feature maps; '
                "let backbone.out_indices and the decoder's scales agree in number"
            )
        matching, denoising, proposals = _Queries(queries, query_pos, boxes), None, None
        current = features[0]
        masks = [resize_mask(padding_mask, level.shape[-2:]) for level in features]
        for index, (blocks, mask) in enumerate(zip(self.scales, masks, strict=True)):
            if index:
                fuse = self.fusions[index - 1]
                current = fuse(current, features[index], masks[index - 1], mask)
            size = current.shape[-2:]
            extent = visible_extent(padding_mask, size, current) if self.anchored else None
            feature_pos = position_of_pixels(
                self.positional_encoding, self.num_heads, current, mask
            )
            if self.proposal_maps[index]:
                end = index + self.proposal_maps[index]
                maps = [current, *features[index + 1 : end]]
                proposals = propose(maps, masks[index:end], padding_mask)
                matching.become(proposals.queries, proposals.query_boxes)
                if dn_queries is not None:
                    contents = propose.contents_at(dn_queries.boxes, proposals)
                    denoising = _Queries(contents, None, dn_queries.boxes)
            surroundings = feature_pos, mask, extent
            for block in blocks:
                if denoising is not None:
                    inputs = denoising.place(self.box_embedding, *surroundings)
                    denoise = self._run(block, block.denoise)
                    denoising.leave_block(*denoise(current, *inputs, dn_queries.num_groups), refine)
                inputs = matching.place(self.box_embedding, *surroundings)
                current, *changed = self._run(block, block)(current, *inputs)
                matching.leave_block(*changed, refine)
        outputs = dict(hidden_states=torch.stack(matching.contents))
        if self.anchored:
            outputs.update(boxes=torch.stack(matching.all_boxes), proposals=proposals)
        if denoising is not None:
            states, boxes = torch.stack(denoising.contents), torch.stack(denoising.all_boxes)
            outputs.update(dn_queries=dn_queries, dn_states=states, dn_boxes=boxes)
        return outputs

    def _run(self, block: DecoderBlock, forward: Callable) -> Callable:
        return recomputed_in_training(block, forward) if self.with_cp else forward


class _Queries:
    """Queries on their way through the blocks.

    Args:
        content: Feature embedding (N, Q, C).
        position: Learned position embedding (N, Q, C); of anchored queries the sum of g, at first
            None.
        boxes: Of anchored queries (N, Q, 4).
    """

    def __init__(
        self, content: Tensor | None, position: Tensor | None, boxes: Tensor | None
    ) -> None:
        self.content, self.position, self.boxes = content, position, boxes
        self.contents, self.all_boxes = [], []  # after every block

    def become(self, content: Tensor, boxes: Tensor) -> None:
        """Go on as other queries, whose sum of g starts anew."""
        self.content, self.position, self.boxes = content, None, boxes

    def place(
        self,
        box_embedding: BoxEmbedding | None,
        feature_pos: Tensor,
        padding_mask: Tensor | None,
        extent: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        """What a block takes behind the features."""
        placed = self.position
        if box_embedding is not None:
            placed = _add(box_embedding(self.boxes), placed).to(self.content.dtype)
        return self.content, feature_pos, placed, padding_mask, self.boxes, extent

    def leave_block(
        self,
        content: Tensor,
        shift: Tensor | None,
        refine: Callable[[Tensor, Tensor], Tensor] | None,
    ) -> None:
        """Take what the block made of them, and refine the boxes."""
        self.content, self.position = content, _add(self.position, shift)
        self.contents.append(content)
        if self.boxes is not None:
            self.all_boxes.append(refine(content, self.boxes))
            self.boxes = self.all_boxes[-1].detach()


def _add(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Sum of two tensors, either of which may be missing."""
    if first is None or second is None:
        return second if first is None else first
    return first + second
