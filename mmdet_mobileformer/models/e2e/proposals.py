"""Proposals: boxes and contents of the queries chosen from the maps.

    T = ReLU(LayerNorm(pointwise(depthwise(map))))          shared by the scales
    score = max over classes of Linear(T)                   the largest logit
    r_0 = sigmoid(MLP(T) + logit(anchor))                   anchor: pixel's centre, two pixels wide
    q^f_0 = LayerNorm(Linear(T))                            of the best Q pixels

Choosing queries from the encoder's map is Deformable DETR's two-stage form (Zhu et al., ICLR 2021),
and DINO's and RT-DETR's query selection. That only peaks are chosen, and that contents keep their
gradient, are our decisions: without suppression behind the detector, neighbours of a peak would be
found twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmcv.cnn import DepthwiseSeparableConvModule
from mmdet.models.layers import inverse_sigmoid
from mmengine.model import bias_init_with_prob
from torch import Tensor, nn

from mmdet_mobileformer.models.norm import LayerNorm2d
from mmdet_mobileformer.models.padding import hide_padding, visible_extent

ANCHOR_PIXELS = 2.0  # side of an anchor in pixels of its map
SUPPRESSED = -40.0  # below every logit of a peak
MISSING = -1000.0  # below every pixel: stands in where the maps have fewer pixels than queries


@dataclass
class Proposals:
    """What the maps propose, pixel by pixel (P pixels of all maps), and what was chosen of it.

    Attributes:
        logits: Class logits (N, P, classes).
        boxes: (N, P, 4) as (cx, cy, w, h) relative to the visible image.
        centres: Centres (cx, cy) of the pixels (N or 1, P, 2), relative to the visible image.
        padding: (N, P) bool, True at padded pixels; None without padding.
        queries: Contents of the chosen ones (N, Q, C).
        query_boxes: Boxes of the chosen ones (N, Q, 4), detached.
        chosen: Which pixels were chosen (N, Q), from P on where the maps have too few.
        hidden: T of all pixels (N, P, C).
    """

    logits: Tensor
    boxes: Tensor
    centres: Tensor
    padding: Tensor | None
    queries: Tensor
    query_boxes: Tensor
    chosen: Tensor
    hidden: Tensor

    @property
    def query_logits(self) -> Tensor:
        """Class logits of the chosen ones (N, Q, classes)."""
        logits = F.pad(self.logits, (0, 0, 0, self.chosen.shape[1]), value=MISSING)
        return logits.gather(1, self.chosen[..., None].expand(-1, -1, logits.shape[2]))


class ProposalHead(nn.Module):
    """Predicts a class and a box for every pixel and makes queries of the best peaks.

    Args:
        embed_dims: Channels C of maps and queries.
        num_classes: Classes.
        num_queries: Queries Q to choose, :func:`peaks` before all other pixels.
    """

    def __init__(self, embed_dims: int, num_classes: int, num_queries: int) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.conv = DepthwiseSeparableConvModule(
            embed_dims,
            embed_dims,
            3,
            padding=1,
            dw_act_cfg=None,
            pw_norm_cfg=dict(type=LayerNorm2d),
            pw_act_cfg=dict(type='ReLU'),
        )
        self.fc_cls = nn.Linear(embed_dims, num_classes)
        self.fc_reg = nn.Sequential(
            nn.Linear(embed_dims, embed_dims), nn.ReLU(), nn.Linear(embed_dims, 4)
        )
        self.content = nn.Linear(embed_dims, embed_dims)
        self.content_norm = nn.LayerNorm(embed_dims)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise: Xavier; classes improbable (0.01, as for focal losses); boxes the anchors."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.constant_(self.fc_cls.bias, bias_init_with_prob(0.01))
        nn.init.zeros_(self.fc_reg[-1].weight)

    def forward(
        self,
        maps: Sequence[Tensor],
        masks: Sequence[Tensor | None] | None = None,
        padding_mask: Tensor | None = None,
    ) -> Proposals:
        """Propose.

        Args:
            maps: (N, C, H_i, W_i) from coarse to fine, each twice as fine as the one before.
            masks: Of each map (N, H_i, W_i) bool, True at padded pixels; None without padding.
            padding_mask: Of the images (N, H, W), likewise.

        Returns:
            The predictions of all pixels and the chosen ones.
        """
        masks = masks or [None] * len(maps)
        hidden = torch.cat(
            [
                self.conv(hide_padding(features, mask)).flatten(2).transpose(1, 2)
                for features, mask in zip(maps, masks, strict=True)
            ],
            dim=1,
        )  # (N, P, C)
        sizes = [features.shape[-2:] for features in maps]
        anchors = torch.cat(
            [pixel_anchors(size, visible_extent(padding_mask, size, hidden)) for size in sizes],
            dim=1,
        )
        padding = None if padding_mask is None else torch.cat([m.flatten(1) for m in masks], dim=1)

        logits = self.fc_cls(hidden).float()
        boxes = (self.fc_reg(hidden).float() + inverse_sigmoid(anchors, eps=1e-3)).sigmoid()

        scores = logits.detach().amax(dim=-1)
        if padding is not None:
            scores = scores.masked_fill(padding, float('-inf'))
        scores = torch.where(peaks(scores, sizes), scores, SUPPRESSED - scores)
        if padding is not None:
            scores = scores.masked_fill(padding, float('-inf'))
        chosen = self._choose(scores, hidden, boxes.detach())
        return Proposals(logits, boxes, anchors[..., :2], padding, *chosen, hidden)

    def _choose(
        self, scores: Tensor, hidden: Tensor, boxes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Contents (N, Q, C), boxes (N, Q, 4) and indices (N, Q) of the best pixels.

        There are always Q: empty ones, whose box is the whole image, stand in for missing pixels.
        """
        count = self.num_queries
        _, chosen = F.pad(scores, (0, count), value=MISSING).topk(count, dim=1)
        index = chosen[..., None]
        hidden = F.pad(hidden, (0, 0, 0, count))
        boxes = torch.cat(
            [boxes, boxes.new_tensor([0.5, 0.5, 1.0, 1.0]).expand(boxes.shape[0], count, 4)], dim=1
        )
        return self._contents(hidden, index), boxes.gather(1, index.expand(-1, -1, 4)), chosen

    def contents_at(self, boxes: Tensor, proposals: Proposals) -> Tensor:
        """Contents (N, K, C) of the visible pixels nearest to the middle of boxes (N, K, 4)."""
        centres = proposals.centres.expand(len(boxes), -1, -1)
        distance = torch.cdist(boxes[..., :2], centres.to(boxes.dtype))
        if proposals.padding is not None:
            distance = distance.masked_fill(proposals.padding[:, None], float('inf'))
        return self._contents(proposals.hidden, distance.argmin(dim=-1)[..., None])

    def _contents(self, hidden: Tensor, index: Tensor) -> Tensor:
        """Contents (N, K, C) of the pixels (N, K, 1) of T (N, P, C)."""
        hidden = hidden.gather(1, index.expand(-1, -1, hidden.shape[2]))
        return self.content_norm(self.content(hidden))


def pixel_anchors(size: torch.Size, extent: Tensor) -> Tensor:
    """Anchors of a map's pixels: their centres, two pixels wide and high.

    Args:
        size: Height and width of the map.
        extent: Width and height of its visible part in pixels (N or 1, 2).

    Returns:
        (N or 1, H * W, 4) as (cx, cy, w, h) relative to the visible part.
    """
    height, width = size
    y = torch.arange(height, device=extent.device)[:, None].expand(height, width) + 0.5
    x = torch.arange(width, device=extent.device).expand(height, width) + 0.5
    centres = torch.stack([x, y], dim=-1).flatten(0, 1) / extent[:, None]  # (N, HW, 2)
    return torch.cat([centres, (ANCHOR_PIXELS / extent[:, None]).expand_as(centres)], dim=-1)


def peaks(scores: Tensor, sizes: Sequence[torch.Size]) -> Tensor:
    """Pixels that are the largest of their 3×3 and no lower than those of other maps behind them.

    Args:
        scores: (N, P) of the pixels of all maps, -inf at padded ones.
        sizes: Height and width of each map, from coarse to fine, each twice as fine as the one
            before.

    Returns:
        (N, P) bool.
    """
    maps = [
        part.unflatten(1, tuple(size))[:, None]
        for part, size in zip(scores.split([h * w for h, w in sizes], dim=1), sizes, strict=True)
    ]
    largest = maps[0]  # at the finest map's pixels, over all maps
    for finer in maps[1:]:
        height, width = finer.shape[-2:]
        spread = largest.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        largest = torch.maximum(finer, spread[..., :height, :width])
    found = []
    for steps, scores_of_map in enumerate(reversed(maps)):
        behind = largest if not steps else F.max_pool2d(largest, 2**steps, ceil_mode=True)
        around = F.max_pool2d(scores_of_map, 3, stride=1, padding=1)
        found.append((scores_of_map >= torch.maximum(behind, around)).flatten(1))
    return torch.cat(found[::-1], dim=1)
