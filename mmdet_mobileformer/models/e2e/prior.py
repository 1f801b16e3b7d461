"""Gaussian prior of a query's attention around its box.

    logits += -1/2 [((x - m_x) / s_x)² + ((y - m_y) / s_y)²]
    m = (c_x, c_y) + o · (w, h)        s = (w, h) · exp(a) + half a pixel

Conditional DETR (Meng et al., ICCV 2021) and SMCA (Gao et al., ICCV 2021) confine a query's
attention likewise; that heads begin at fixed places of the box, and learn offset o and width a from
the query, is our decision. Without it the learned boxes hardly learn (docs/end_to_end.md).
"""

import math

import torch
from torch import Tensor, nn

# Offset (x, y) in box sizes and width in box sizes: the centre, the four sides, the surroundings.
HEADS = (
    (0.0, 0.0, 0.15),
    (0.0, 0.0, 0.3),
    (-0.35, 0.0, 0.2),
    (0.35, 0.0, 0.2),
    (0.0, -0.35, 0.2),
    (0.0, 0.35, 0.2),
    (0.0, 0.0, 0.6),
    (0.0, 0.0, 1.0),
)
LOG_WIDTH_RANGE = (-4.0, 2.0)


class GaussianPrior(nn.Module):
    """Centre and width of each head's Gaussian, from the query and its box.

    The exponent is a product of two short vectors, (x², y², x, y, 1) of a pixel and five
    coefficients of a query, which :class:`MobileToFormer` multiplies with keys and queries as five
    more channels: there is no map more than without it.

    Args:
        embed_dims: Channels C of the queries.
        num_heads: Heads of the attention; they begin at places spread over :data:`HEADS`.
    """

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.offset_and_width = nn.Linear(embed_dims, 4 * num_heads)
        self.init_weights()

    def init_weights(self) -> None:
        """Begin with the heads' places, whatever the query is."""
        starts = [
            HEADS[index * len(HEADS) // self.num_heads % len(HEADS)]
            for index in range(self.num_heads)
        ]
        bias = [(x, y, math.log(width), math.log(width)) for x, y, width in starts]
        nn.init.zeros_(self.offset_and_width.weight)
        with torch.no_grad():
            self.offset_and_width.bias.copy_(torch.tensor(bias).flatten())

    def forward(self, queries: Tensor, boxes: Tensor, extent: Tensor) -> Tensor:
        """Coefficients of the exponent in :func:`pixel_powers`.

        Args:
            queries: (N, Q, C).
            boxes: (N, Q, 4) as (cx, cy, w, h) in [0, 1].
            extent: Width and height of the visible part of the map in pixels (N or 1, 2).

        Returns:
            (N, heads, Q, 5), float32.
        """
        change = self.offset_and_width(queries).float().unflatten(2, (self.num_heads, 4))
        offset, log_width = change.transpose(1, 2).chunk(2, dim=-1)  # (N, heads, Q, 2)
        centre, size = boxes.float()[:, None].chunk(2, dim=-1)  # (N, 1, Q, 2)
        mean = centre - 0.5 + offset * size
        spread = size * log_width.clamp(*LOG_WIDTH_RANGE).exp() + 0.5 / extent[:, None, None]
        precision = spread.square().reciprocal()
        constant = -0.5 * (precision * mean.square()).sum(-1, keepdim=True)
        return torch.cat([-0.5 * precision, precision * mean, constant], dim=-1)


def pixel_powers(size: torch.Size, extent: Tensor) -> Tensor:
    """Powers (x², y², x, y, 1) of every pixel's place, relative to the middle of the image.

    Args:
        size: Height and width of the map.
        extent: Width and height of its visible part in pixels (N or 1, 2).

    Returns:
        (N or 1, 5, H * W), float32; x and y run from -0.5 to 0.5 over the visible part.
    """
    height, width = size
    x = (torch.arange(width, device=extent.device) + 0.5) / extent[:, :1] - 0.5  # (N, W)
    y = (torch.arange(height, device=extent.device) + 0.5) / extent[:, 1:] - 0.5  # (N, H)
    x = x[:, None].expand(-1, height, -1)
    y = y[:, :, None].expand(-1, -1, width)
    return torch.stack([x.square(), y.square(), x, y, torch.ones_like(x)], dim=1).flatten(2)
