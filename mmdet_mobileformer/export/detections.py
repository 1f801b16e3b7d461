"""From image tensor to final detections, as graphs without any choice that depends on values.

They call the detector's own modules; what mmdet does image by image behind them is done here for a
whole batch, with outputs of a fixed number of boxes.
"""

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import DETRHead, RetinaHead
from mmdet.models.detectors import SingleStageDetector
from mmdet.models.detectors.base import BaseDetector
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor, nn

from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.export.nms import nms_keep
from mmdet_mobileformer.models import MobileFormerDETR
from mmdet_mobileformer.models.padding import round_up

NO_LABEL = -1


class AnchorDetections(nn.Module):
    """Detections of RetinaNet: decoding, selection and class-wise non-maximum suppression.

    Args:
        detector: With mmdet's RetinaHead and its usual ``test_cfg``.

    Raises:
        UserError: If ``test_cfg.nms`` is not plain non-maximum suppression.
    """

    def __init__(self, detector: SingleStageDetector) -> None:
        super().__init__()
        self.detector = detector
        self.cfg = detector.bbox_head.test_cfg
        nms_cfg = dict(self.cfg.nms)
        if nms_cfg.get('type') != 'nms' or set(nms_cfg) - {'type', 'iou_threshold'}:
            raise UserError(
                f'model.test_cfg.nms {nms_cfg} cannot be exported; '
                "set dict(type='nms', iou_threshold=...)."
            )

    def forward(
        self, image: Tensor, image_size: Tensor, original_size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Detect.

        Args:
            image: Normalised images (N, 3, H, W), padded at the right and at the bottom.
            image_size: Height and width of each image without the padding (N, 2), in pixels.
            original_size: Height and width before it was resized (N, 2).

        Returns:
            Boxes (N, K, 4) as (x1, y1, x2, y2) in pixels of the original image, scores (N, K) in
            descending order and labels (N, K), K being ``test_cfg.max_per_img``; where there are
            fewer detections the scores are 0 and the labels -1.
        """
        head = self.detector.bbox_head
        levels = head(self.detector.extract_feat(image))
        priors = head.prior_generator.grid_priors(
            [level.shape[-2:] for level in levels[0]], dtype=image.dtype, device=image.device
        )
        best = [self._best_of_level(*level) for level in zip(*levels, priors, strict=True)]
        boxes, scores, labels = (torch.cat(parts, dim=1) for parts in zip(*best, strict=True))

        boxes = clip_boxes(boxes, image_size) * rescaling(image_size, original_size)
        min_size = self.cfg.get('min_bbox_size', -1)
        if min_size >= 0:
            is_large = (boxes[..., 2:] - boxes[..., :2] > min_size).all(dim=-1)
            scores = torch.where(is_large, scores, -1.0)

        # Boxes of different classes are moved apart, so that they do not suppress each other.
        apart = labels[..., None] * (boxes.amax(dim=(1, 2), keepdim=True) + 1)
        keep = nms_keep(
            boxes + apart,
            scores,
            self.cfg.nms.iou_threshold,
            self.cfg.get('score_thr', 0.0),
            self.cfg.max_per_img,
        )
        scores = torch.where(keep, scores, -1.0)
        scores, index = scores.topk(min(self.cfg.max_per_img, scores.shape[1]), dim=1)
        boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4))
        found = scores >= 0
        labels = torch.where(found, labels.gather(1, index), NO_LABEL)
        return boxes * found[..., None], scores * found, labels

    def _best_of_level(
        self, logits: Tensor, deltas: Tensor, priors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The ``nms_pre`` best boxes, scores and labels of a level: (N, k, 4), (N, k), (N, k)."""
        head = self.detector.bbox_head
        logits = logits.permute(0, 2, 3, 1).flatten(1)  # (N, HWA * classes)
        # A level may have fewer candidates. The smaller of both numbers would not do: torch decides
        # by the example's levels which one it is, and the file would fail for smaller images.
        logits = F.pad(logits, (0, self.cfg.nms_pre), value=float('-inf'))
        logits, index = logits.topk(self.cfg.nms_pre, dim=1)
        anchor = torch.div(index, head.cls_out_channels, rounding_mode='floor')
        anchor = anchor.clamp(max=priors.shape[0] - 1)
        labels = index - anchor * head.cls_out_channels
        deltas = deltas.permute(0, 2, 3, 1).reshape(deltas.shape[0], -1, 4)
        deltas = deltas.gather(1, anchor[..., None].expand(-1, -1, 4))
        boxes = head.bbox_coder.decode(priors[anchor].flatten(0, 1), deltas.flatten(0, 1))
        return boxes.unflatten(0, anchor.shape), logits.sigmoid(), labels


class QueryDetections(nn.Module):
    """Detections of the end-to-end detector: the best queries, without suppression.

    Args:
        detector: With mmdet's DETRHead.
    """

    def __init__(self, detector: MobileFormerDETR) -> None:
        super().__init__()
        self.detector = detector

    def forward(
        self, image: Tensor, image_size: Tensor, original_size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`AnchorDetections.forward`; there is always a label."""
        rows = torch.arange(round_up(image.shape[2]), device=image.device)[:, None]
        columns = torch.arange(round_up(image.shape[3]), device=image.device)
        height, width = image_size[:, :1, None], image_size[:, 1:, None]
        padding_mask = (rows >= height) | (columns >= width)  # (N, H, W)

        boxes, scores, labels = self.detector.detect(image, padding_mask)
        boxes = bbox_cxcywh_to_xyxy(boxes) * corner_limits(image_size).to(boxes.dtype)
        boxes = clip_boxes(boxes, image_size) * rescaling(image_size, original_size)
        return boxes, scores, labels


def detection_graph(detector: BaseDetector) -> nn.Module:
    """Wrap a detector of one of the two kinds.

    Raises:
        UserError: If it is of another kind.
    """
    if isinstance(detector, MobileFormerDETR) and isinstance(detector.bbox_head, DETRHead):
        return QueryDetections(detector)
    if isinstance(detector, SingleStageDetector) and isinstance(detector.bbox_head, RetinaHead):
        return AnchorDetections(detector)
    head = type(getattr(detector, 'bbox_head', None)).__name__
    raise UserError(
        f'a {type(detector).__name__} with a {head} cannot be exported; '
        'the export knows RetinaNet (RetinaHead) and MobileFormerDETR (DETRHead).'
    )


def corner_limits(image_size: Tensor) -> Tensor:
    """Largest (x1, y1, x2, y2) inside images of (height, width): (N, 2) to (N, 1, 4)."""
    return image_size.flip(1).repeat(1, 2)[:, None]


def clip_boxes(boxes: Tensor, image_size: Tensor) -> Tensor:
    """Bring boxes (N, K, 4) inside images of (height, width) (N, 2)."""
    return torch.minimum(boxes.clamp(min=0), corner_limits(image_size).to(boxes.dtype))


def rescaling(image_size: Tensor, original_size: Tensor) -> Tensor:
    """Factors (N, 1, 4) from pixels of the resized image to those of the original one."""
    return corner_limits(original_size).float() / corner_limits(image_size).float()
