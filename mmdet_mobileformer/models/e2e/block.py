"""The Mobile-Former block of the end-to-end detector's decoder (paper, sec. 4)."""

from torch import Tensor, nn

from mmdet_mobileformer.models.block import DYNAMIC_RELU_MODES
from mmdet_mobileformer.models.bridge import (
    FormerToMobile,
    MobileToFormer,
    token_assignment,
    without_traces,
)
from mmdet_mobileformer.models.e2e.attention_mobile import AttentionMobile
from mmdet_mobileformer.models.e2e.prior import GaussianPrior, pixel_powers
from mmdet_mobileformer.models.former import Former
from mmdet_mobileformer.models.mobile import LiteBottleneck
from mmdet_mobileformer.models.norm import LayerNorm2d

ATTENTION = 'attention'
LITE = 'lite'
MOBILE_KINDS = (ATTENTION, LITE)


class DecoderBlock(nn.Module):
    """One block of the decoder: the object queries are its tokens.

    It is the backbone's block with these parts changed: the bridge has no gate (our decision: the
    first query embedding is zero, and the gate would leave it without gradient) and more heads;
    Former is a standard transformer layer (paper); Mobile is one of two kinds (our decision);
    queries and pixels carry position embeddings, as in DETR.

    1. Mobile→Former: the queries read the features, each around its box where it has one.
    2. Former: the queries talk to each other; the block predicts from their feature embedding.
    3. Mobile: the features are refined, activated by dynamic ReLU that all queries drive.
    4. Former→Mobile: the features read the queries.
    5. g(q^f), by which the position embedding of the queries adapts (paper, eq. 4).

    Steps 3 to 5 are left out where nothing would read their result, so that every parameter gets a
    gradient (our decision).

    Args:
        embed_dims: Channels of queries and features.
        mobile: Kind of the Mobile part, 'attention' or 'lite'; None leaves out steps 3 and 4.
        mid_channels: Hidden width of the Mobile part.
        num_heads: Heads of every attention.
        ffn_ratio: Hidden width of Former's FFN in units of ``embed_dims``.
        dynamic_relu: 'spatial': a pixel's slopes come from all queries, by their attention to it;
            'token': a map's slopes come from the queries' mean (our decision: no query is first, so
            permuting the queries must permute the outputs and nothing else).
        adapt_position: Whether step 5 is there.
        prior: Whether the attention of step 1 has a Gaussian prior around the queries' boxes.
        dropout: Dropped share of what each branch adds, and of the FFNs' hidden units.

    Raises:
        ValueError: If ``mobile`` or ``dynamic_relu`` is unknown.
    """

    def __init__(
        self,
        embed_dims: int,
        mobile: str | None,
        mid_channels: int,
        num_heads: int = 8,
        ffn_ratio: int = 2,
        dynamic_relu: str = 'spatial',
        adapt_position: bool = True,
        prior: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if dynamic_relu not in DYNAMIC_RELU_MODES:
            raise ValueError(
                f'unknown dynamic_relu {dynamic_relu!r}; choose from {DYNAMIC_RELU_MODES}'
            )
        self.dynamic_relu = dynamic_relu
        self.mobile_to_former = MobileToFormer(
            embed_dims, embed_dims, num_heads, gated=False, dropout=dropout
        )
        self.prior = GaussianPrior(embed_dims, num_heads) if prior else None
        self.former = Former(
            embed_dims, num_heads, ffn_ratio, full_projections=True, dropout=dropout
        )
        self.mobile = self.former_to_mobile = None
        if mobile is not None:
            self.mobile = build_mobile(mobile, embed_dims, mid_channels, num_heads, dropout)
            self.former_to_mobile = FormerToMobile(embed_dims, embed_dims, num_heads, dropout)
        self.position_update = None
        if adapt_position:
            self.position_update = nn.Sequential(
                nn.Linear(embed_dims, embed_dims), nn.ReLU(), nn.Linear(embed_dims, embed_dims)
            )

    def forward(
        self,
        features: Tensor,
        queries: Tensor,
        feature_pos: Tensor,
        query_pos: Tensor,
        padding_mask: Tensor | None = None,
        boxes: Tensor | None = None,
        extent: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Update both streams.

        Args:
            features: (N, C, H, W).
            queries: Feature embedding (N, Q, C).
            feature_pos: (N, C, H, W).
            query_pos: Position embedding (N, Q, C).
            padding_mask: (N, H, W) bool, True at padded pixels.
            boxes: Boxes of the queries (N, Q, 4) as (cx, cy, w, h) in [0, 1], for the prior.
            extent: Width and height of the visible part of the map (N or 1, 2), for the prior.

        Returns:
            Features and queries, shaped as they came, and what the position embedding of the
            queries changes by (N, Q, C), None without step 5.
        """
        prior = self._prior(features, queries, boxes, extent)
        queries, logits = self.mobile_to_former(
            features, queries, feature_pos, query_pos, padding_mask, prior
        )

        queries = self.former(queries, query_pos)

        if self.mobile is not None:
            features = self._refine(features, queries, logits, feature_pos, padding_mask)
            features = self.former_to_mobile(features, queries, feature_pos, query_pos)

        shift = None if self.position_update is None else self.position_update(queries)
        return features, queries, shift

    def denoise(
        self,
        features: Tensor,
        dn_queries: Tensor,
        feature_pos: Tensor,
        dn_pos: Tensor,
        padding_mask: Tensor | None,
        boxes: Tensor,
        extent: Tensor,
        num_groups: int,
    ) -> tuple[Tensor, Tensor | None]:
        """Steps 1, 2 and 5 for denoising queries, each group of which talks to itself alone.

        Args:
            dn_queries: (N, G * K, C), ``num_groups`` G of them.
            dn_pos: Position embedding (N, G * K, C).
            boxes: Their boxes (N, G * K, 4).
            features: As for the queries, and so are the others.
            feature_pos: Likewise.
            padding_mask: Likewise.
            extent: Likewise.
            num_groups: Of an image, see :mod:`.denoising`.

        Returns:
            The queries, and what their position embedding changes by, None without step 5.
        """
        prior = self._prior(features, dn_queries, boxes, extent)
        dn_queries, _ = self.mobile_to_former(
            features, dn_queries, feature_pos, dn_pos, padding_mask, prior
        )
        groups = (
            one.reshape(len(one) * num_groups, -1, one.shape[2]) for one in (dn_queries, dn_pos)
        )
        dn_queries = self.former(*groups).reshape(dn_queries.shape)
        shift = None if self.position_update is None else self.position_update(dn_queries)
        return dn_queries, shift

    def _prior(
        self, features: Tensor, queries: Tensor, boxes: Tensor | None, extent: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """Coefficients of the queries and powers of the pixels, for step 1."""
        if self.prior is None:
            return None
        return self.prior(queries, boxes, extent), pixel_powers(features.shape[-2:], extent)

    def _refine(
        self,
        features: Tensor,
        queries: Tensor,
        logits: Tensor,
        feature_pos: Tensor,
        padding_mask: Tensor | None,
    ) -> Tensor:
        """Step 3; logits (N, heads, Q, H, W) are those of Mobile→Former."""
        if self.dynamic_relu == 'spatial':
            drivers, assignment = queries, token_assignment(logits, stride=1)
            if self.prior is not None:
                assignment = without_traces(assignment)
        else:
            drivers, assignment = queries.mean(dim=1, keepdim=True), None
        return self.mobile(features, drivers, assignment, padding_mask, feature_pos)


def build_mobile(
    kind: str, channels: int, mid_channels: int, num_heads: int, dropout: float
) -> nn.Module:
    """Build the Mobile part of a block of the head.

    Raises:
        ValueError: If the kind is unknown.
    """
    if kind == ATTENTION:
        return AttentionMobile(channels, mid_channels, channels, num_heads, dropout)
    if kind == LITE:
        return LiteBottleneck(
            channels,
            mid_channels,
            channels,
            norm_cfg=dict(type=LayerNorm2d),
            token_dim=channels,
            dropout=dropout,
        )
    raise ValueError(f'unknown kind of Mobile sub-block {kind!r}; choose from {MOBILE_KINDS}')
