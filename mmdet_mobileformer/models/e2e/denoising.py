"""Denoising: in training, further queries begin at the objects' boxes with noise on them.

    r_0   = an object's box, each side moved by u · noise half sizes, u in [0, 1]     positive
            or in [1, 2]                                                              negative
    q^f_0 = the content of a proposal at the pixel in the middle of r_0
    target: the object after every block; of a negative, no object

The blocks behind the proposals learn from one matched query an object, which has little left to
improve; denoising queries show them more to improve, and how. Noised boxes are DN-DETR's (Li et
al., CVPR 2022), negatives DINO's (Zhang et al., ICLR 2023). That contents are read from the map in
place of label embeddings, and that queries see their own group alone, are our decisions: so begins
what follows, a proposal. They read the map, which never reads them, and inference knows nothing of
them. mmdet's ``CdnQueryGenerator`` comes with label embeddings, which would be parameters that
nothing trains.
"""

from dataclasses import dataclass

import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh
from mmengine.structures import InstanceData
from torch import Tensor

SMALLEST_SIDE = 1e-3  # of the image


@dataclass
class DenoisingQueries:
    """Denoising queries of N images, G groups of K each.

    Attributes:
        boxes: Where they begin (N, G * K, 4), as (cx, cy, w, h) in [0, 1].
        labels: Class of their object (N, G * K); the number of classes where it is none.
        targets: Box of their object (N, G * K, 4); of no meaning where it is none.
        num_groups: G.
    """

    boxes: Tensor
    labels: Tensor
    targets: Tensor
    num_groups: int


class Denoising:
    """Makes denoising queries of annotations.

    Every group has each object twice, as a positive and as a negative. Where an image has fewer
    objects than another of its batch, random boxes without an object take their places; where a
    group would be larger than ``num_queries``, it has some objects, chosen at random.

    Args:
        num_queries: Of an image at most, in as many whole groups as fit; two at least.
        noise: How far a side of the box moves, in half sizes of the box: up to this in positives,
            between once and twice this in negatives.

    Raises:
        ValueError: If a setting is not positive.
    """

    def __init__(self, num_queries: int = 100, noise: float = 0.6) -> None:
        if num_queries < 1 or noise <= 0:
            raise ValueError(
                'denoising needs at least one query and positive noise; got num_queries '
                f'{num_queries} and noise {noise}'
            )
        self.num_queries = num_queries
        self.noise = noise

    def __call__(
        self, gt_instances: list[InstanceData], img_metas: list[dict], num_classes: int
    ) -> DenoisingQueries:
        """Make them.

        Args:
            gt_instances: Boxes (x1, y1, x2, y2) in pixels and labels of each image.
            img_metas: Hold each image's ``img_shape`` (height, width).
            num_classes: Label of those without an object.

        Returns:
            The denoising queries of all images, on the annotations' device.
        """
        most = max(1, *(len(objects) for objects in gt_instances))
        most = min(most, max(1, self.num_queries // 2))
        groups = max(1, self.num_queries // (2 * most))
        first = gt_instances[0].bboxes
        boxes = first.new_zeros(len(gt_instances), groups, most, 4)
        boxes[..., :2].uniform_(0, 1)
        boxes[..., 2:].uniform_(0.05, 0.35)
        labels = gt_instances[0].labels.new_full(boxes.shape[:3], num_classes)
        for index, (objects, meta) in enumerate(zip(gt_instances, img_metas, strict=True)):
            height, width = meta['img_shape'][:2]
            if len(objects) > most:
                objects = objects[torch.randperm(len(objects))[:most]]
            relative = objects.bboxes / first.new_tensor([width, height, width, height])
            boxes[index, :, : len(objects)] = bbox_xyxy_to_cxcywh(relative)
            labels[index, :, : len(objects)] = objects.labels
        noised = torch.cat([self._moved(boxes, 0), self._moved(boxes, 1)], dim=2)
        labels = torch.cat([labels, torch.full_like(labels, num_classes)], dim=2)
        targets = torch.cat([boxes, boxes], dim=2)
        return DenoisingQueries(
            noised.flatten(1, 2), labels.flatten(1), targets.flatten(1, 2), groups
        )

    def _moved(self, boxes: Tensor, least: float) -> Tensor:
        """Boxes (..., 4), every side moved in or out by ``least`` to ``least + 1`` times noise."""
        half = torch.cat([boxes[..., 2:], boxes[..., 2:]], dim=-1) / 2
        sign = torch.randint_like(boxes, 2) * 2 - 1
        shift = sign * half * self.noise * (least + torch.rand_like(boxes))
        moved = bbox_cxcywh_to_xyxy(boxes) + shift
        corners = moved.clamp(SMALLEST_SIDE, 1 - SMALLEST_SIDE).unflatten(-1, (2, 2))
        moved = torch.cat([corners.amin(dim=-2), corners.amax(dim=-2)], dim=-1)
        return bbox_xyxy_to_cxcywh(moved).clamp(min=SMALLEST_SIDE)
