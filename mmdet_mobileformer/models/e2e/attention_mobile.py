"""Mobile sub-block of the detector's head at low resolution: self attention of the pixels."""

from torch import Tensor, nn

from mmdet_mobileformer.models import pixelwise_training
from mmdet_mobileformer.models.convolution import conv_norm
from mmdet_mobileformer.models.dynamic_relu import DynamicReLU
from mmdet_mobileformer.models.norm import LayerNorm2d
from mmdet_mobileformer.models.recompute import recomputed_in_training


class AttentionMobile(nn.Module):
    """Encoder layer of DETR whose FFN is activated by dynamic ReLU.

    1. Self attention of all pixels, added and then normalised.
    2. FFN on every pixel, dynamic ReLU inside, added and then normalised.

    Our decision: the paper does not say what Mobile is in the head; with this one at 1/32 and lite
    bottlenecks above, all four published costs are met.

    Args:
        channels: Channels C of the features.
        mid_channels: Hidden width of the FFN.
        token_dim: Channels D of the tokens that drive dynamic ReLU.
        num_heads: Heads of the self attention.
        dropout: Dropped share of what each branch adds, and of the FFN's hidden units.
    """

    def __init__(
        self,
        channels: int,
        mid_channels: int,
        token_dim: int,
        num_heads: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, num_heads, batch_first=True)
        self.attention_norm = LayerNorm2d(channels)
        self.expand = conv_norm(channels, mid_channels, 1, norm_cfg=None)
        self.act = DynamicReLU(token_dim, mid_channels)
        self.squeeze = conv_norm(mid_channels, channels, 1, norm_cfg=None)
        self.ffn_norm = LayerNorm2d(channels)
        self.dropout = nn.Dropout(dropout)

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
            tokens: (N, M, D).
            assignment: (N, M, H, W) for spatial-aware dynamic ReLU, or None.
            padding_mask: (N, H, W) bool, True at padded pixels, which get no attention.
            feature_pos: (N, C, H, W), added to the features where they make queries and keys.

        Returns:
            (N, C, H, W).
        """
        value = features.flatten(2).transpose(1, 2)  # (N, HW, C)
        query = value if feature_pos is None else value + feature_pos.flatten(2).transpose(1, 2)
        mask = None if padding_mask is None else padding_mask.flatten(1)
        update, _ = self.attention(query, query, value, key_padding_mask=mask, need_weights=False)
        update = update.transpose(1, 2).unflatten(2, features.shape[-2:])
        features = self.attention_norm(features + self.dropout(update))

        convs = self.expand, self.squeeze
        if not self.training or pixelwise_training.applies(features, *convs):
            update = self.act(features, tokens, assignment, *convs, dropout=self.dropout.p)
        else:
            update = recomputed_in_training(self, self._ffn)(features, tokens, assignment)
        return self.ffn_norm(features + self.dropout(update))

    def _ffn(self, features: Tensor, tokens: Tensor, assignment: Tensor | None) -> Tensor:
        """Step 2 layer by layer."""
        return self.squeeze(self.dropout(self.act(features, tokens, assignment, self.expand)))
