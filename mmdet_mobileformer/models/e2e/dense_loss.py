"""Dense loss of the proposals: one object trains the pixels that fit it best.

    metric = sqrt(p) · IoU³           over the pixels inside an object, or the one nearest to it
    t      = metric / its maximum · best IoU        for the best 5 of an object, 0 elsewhere
    loss   = varifocal(p, t) + [5 L1 + 2 GIoU] weighted by t

Task-aligned one-to-many assignment (TOOD, Feng et al., ICCV 2021) with varifocal loss (Zhang et
al., CVPR 2021). mmdet's TaskAlignedAssigner looks for the best pixels first and drops those outside
their object afterwards, which leaves small objects without any; hence the order here (our
decision).
"""

import torch
from mmdet.models.losses import GIoULoss, L1Loss, VarifocalLoss
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps, bbox_xyxy_to_cxcywh
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_mobileformer.models.e2e.proposals import Proposals

MIN_BOX_WEIGHT = 0.05


class DenseLoss(nn.Module):
    """Loss of :class:`Proposals`, averaged over the objects of all processes.

    Args:
        top_k: Pixels that an object trains.
        loss_weight: Factor of all three parts.
    """

    def __init__(self, top_k: int = 5, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.top_k = top_k
        self.loss_cls = VarifocalLoss(loss_weight=loss_weight)
        self.loss_bbox = L1Loss(loss_weight=5.0 * loss_weight)
        self.loss_iou = GIoULoss(loss_weight=2.0 * loss_weight)

    def forward(
        self, proposals: Proposals, gt_instances: list[InstanceData], img_metas: list[dict]
    ) -> dict[str, Tensor]:
        """Compare with the annotations.

        Args:
            proposals: Of N images.
            gt_instances: Boxes (x1, y1, x2, y2) in pixels and labels of each image.
            img_metas: Hold each image's ``img_shape`` (height, width).

        Returns:
            ``proposal.loss_cls``, ``proposal.loss_bbox`` and ``proposal.loss_iou``.
        """
        logits, boxes = proposals.logits, proposals.boxes
        wanted_scores, wanted_boxes = torch.zeros_like(logits), torch.zeros_like(boxes)
        weight = torch.zeros_like(boxes[..., 0])
        centres = proposals.centres.expand(len(logits), -1, -1)
        for index, (objects, meta) in enumerate(zip(gt_instances, img_metas, strict=True)):
            if not len(objects):
                continue
            height, width = meta['img_shape'][:2]
            targets = objects.bboxes / boxes.new_tensor([width, height, width, height])
            hidden = None if proposals.padding is None else proposals.padding[index]
            pixels, owners, quality = assign(
                logits[index].detach(), boxes[index].detach(), centres[index], hidden,
                targets, objects.labels, self.top_k,
            )  # fmt: skip
            wanted_scores[index, pixels, objects.labels[owners]] = quality
            wanted_boxes[index, pixels] = bbox_xyxy_to_cxcywh(targets)[owners]
            weight[index, pixels] = quality.clamp(min=MIN_BOX_WEIGHT)
        visible = 1.0 if proposals.padding is None else (~proposals.padding[..., None]).float()

        total = reduce_mean(torch.stack([wanted_scores.sum(), weight.sum()])).clamp(min=1)
        xyxy = bbox_cxcywh_to_xyxy(boxes).flatten(0, 1)
        wanted_xyxy = bbox_cxcywh_to_xyxy(wanted_boxes).flatten(0, 1)
        return {
            'proposal.loss_cls': self.loss_cls(
                logits, wanted_scores, visible * torch.ones_like(logits), avg_factor=total[0]
            ),
            'proposal.loss_bbox': self.loss_bbox(
                boxes, wanted_boxes, weight[..., None].expand_as(boxes), avg_factor=total[1]
            ),
            'proposal.loss_iou': self.loss_iou(
                xyxy, wanted_xyxy, weight.flatten(), avg_factor=total[1]
            ),
        }


def assign(
    logits: Tensor,
    boxes: Tensor,
    centres: Tensor,
    padding: Tensor | None,
    targets: Tensor,
    labels: Tensor,
    top_k: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the pixels that each of G objects of an image trains.

    A pixel that several objects choose belongs to the one that its box overlaps most.

    Args:
        logits: (P, classes).
        boxes: (P, 4) as (cx, cy, w, h) in [0, 1].
        centres: (P, 2) as (cx, cy).
        padding: (P) bool, True at padded pixels; None without padding.
        targets: (G, 4) as (x1, y1, x2, y2) in [0, 1].
        labels: (G).
        top_k: Pixels an object at most.

    Returns:
        Indices of pixels (K), their objects (K) and the scores that they shall reach (K).
    """
    overlaps = bbox_overlaps(targets, bbox_cxcywh_to_xyxy(boxes))  # (G, P)
    metric = logits.sigmoid().t()[labels].sqrt() * (overlaps + 1e-3).pow(3)
    beyond = torch.maximum(targets[:, None, :2] - centres, centres - targets[:, None, 2:])
    beyond = beyond.amax(dim=-1)  # (G, P), negative inside
    if padding is not None:
        beyond = beyond.masked_fill(padding, float('inf'))
    is_candidate = beyond < 0
    is_candidate.scatter_(1, beyond.argmin(dim=1, keepdim=True), True)

    metric = metric.masked_fill(~is_candidate, 0)
    best, chosen = metric.topk(min(top_k, metric.shape[1]), dim=1)
    is_chosen = torch.zeros_like(is_candidate).scatter_(1, chosen, best > 0)
    owner = overlaps.masked_fill(~is_chosen, -1).argmax(dim=0)  # (P)
    pixels = is_chosen.any(dim=0).nonzero().flatten()
    owners = owner[pixels]

    kept = torch.zeros_like(metric)
    kept[owners, pixels] = metric[owners, pixels]
    overlap = torch.zeros_like(metric)
    overlap[owners, pixels] = overlaps[owners, pixels]
    quality = kept / kept.amax(dim=1, keepdim=True).clamp(min=1e-12)
    quality = quality * overlap.amax(dim=1, keepdim=True)
    return pixels, owners, quality[owners, pixels]
