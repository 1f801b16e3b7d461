"""Anchor boxes: a query owns a box, and its position embedding is made from it.

    q^p = MLP(sine(r)) + sum of g(q^f) over the blocks before        (r: the query's reference box)
    r  <- sigmoid(MLP(q^f) + logit(r)) after every block             (detached in between)

The paper's queries must find their place by content alone, which takes hundreds of epochs. Anchor
boxes as positions are DAB-DETR's (Liu et al., ICLR 2022), refinement from block to block is
Deformable DETR's (Zhu et al., ICLR 2021); the adaptation g is the paper's (eq. 4) and stays a term.
"""

import math

import torch
from mmdet.models.layers import coordinate_to_encoding
from torch import Tensor, nn

# Frequencies 2π · 20^(-2i / (C / 2)): DAB-DETR's temperature for boxes in [0, 1].
TEMPERATURE = 20


class BoxEmbedding(nn.Module):
    """Position embedding of boxes: ``MLP(sine(r))``, shared by all blocks.

    Args:
        embed_dims: Channels C of the queries; each coordinate gets C / 2 sines.
    """

    def __init__(self, embed_dims: int) -> None:
        super().__init__()
        self.embed_dims = embed_dims
        self.mlp = nn.Sequential(
            nn.Linear(2 * embed_dims, embed_dims), nn.ReLU(), nn.Linear(embed_dims, embed_dims)
        )

    def forward(self, boxes: Tensor) -> Tensor:
        """Boxes (N, Q, 4) as (cx, cy, w, h) in [0, 1] to embeddings (N, Q, C)."""
        sine = coordinate_to_encoding(boxes, self.embed_dims // 2, TEMPERATURE)
        return self.mlp(sine)


class LearnedAnchors(nn.Module):
    """Learned queries: a box and a content each; the boxes start on a grid, a fifth wide.

    Args:
        num_queries: Queries Q.
        embed_dims: Channels C.
    """

    def __init__(self, num_queries: int, embed_dims: int) -> None:
        super().__init__()
        self.content = nn.Embedding(num_queries, embed_dims)
        self.box_logits = nn.Parameter(grid_boxes(num_queries).logit())

    def forward(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Contents (N, Q, C) and boxes (N, Q, 4) as (cx, cy, w, h) in [0, 1]."""
        queries = self.content.weight.expand(batch_size, -1, -1)
        return queries, self.box_logits.sigmoid().expand(batch_size, -1, -1)


def grid_boxes(num_boxes: int, size: float = 0.2) -> Tensor:
    """Boxes (num_boxes, 4) as (cx, cy, w, h) whose centres lie on the smallest square grid."""
    side = math.isqrt(num_boxes - 1) + 1
    centres = (torch.arange(side) + 0.5) / side
    grid = torch.cartesian_prod(centres, centres).flip(1)[:num_boxes]
    return torch.cat([grid, torch.full_like(grid, size)], dim=1)
