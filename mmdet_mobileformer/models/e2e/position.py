"""Position embeddings of the pixels (DETR's sine embedding, spread over the heads)."""

import torch
from mmdet.models.layers import SinePositionalEncoding
from torch import Tensor

from mmdet_mobileformer.models.layout import laid_out_as


def position_of_pixels(
    encoding: SinePositionalEncoding,
    num_heads: int,
    features: Tensor,
    padding_mask: Tensor | None,
) -> Tensor:
    """``spread_over_heads(encoding(padding_mask, features), num_heads)``.

    Without padding it is the same for every image, and made of one column and one row.

    Args:
        encoding: Its channels are y's and then x's.
        num_heads: As in :func:`spread_over_heads`.
        features: (N, C, H, W), whose dtype and layout the embedding gets.
        padding_mask: (N, H, W) bool, True at padded pixels; None without padding.

    Returns:
        (N or 1, C, H, W).
    """
    if padding_mask is not None:
        position = spread_over_heads(encoding(padding_mask), num_heads)
        return laid_out_as(features, position.to(features.dtype))
    height, width = features.shape[-2:]
    y = encoding(None, input=features[:1, :, :, :1])[0, : encoding.num_feats, :, 0]
    x = encoding(None, input=features[:1, :, :1])[0, encoding.num_feats :, 0]
    # (coordinate's channels, H or W) to (H or W, heads, channels of a head)
    y, x = (
        table.to(features.dtype).unflatten(0, (-1, num_heads, 2)).permute(3, 1, 0, 2).flatten(2)
        for table in (y, x)
    )
    y, x = y[:, None].expand(-1, width, -1, -1), x[None].expand(height, -1, -1, -1)
    position = torch.cat([y, x], dim=3).flatten(2)  # (H, W, C)
    return laid_out_as(features, position.permute(2, 0, 1)[None])


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
