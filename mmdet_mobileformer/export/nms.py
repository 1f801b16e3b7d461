"""Non-maximum suppression of a batch as one operator, which exports to standard ONNX operators."""

import torch
from mmcv.ops import nms
from torch import Tensor


@torch.library.custom_op('mmdet_mobileformer::nms_keep', mutates_args=())
def nms_keep(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, max_boxes: int
) -> Tensor:
    """Say which boxes survive; those of one image suppress each other whatever their class.

    Args:
        boxes: (N, K, 4), two opposite corners each, in pixels.
        scores: (N, K).
        iou_threshold: A box goes if its IoU with a better one is above this.
        score_threshold: A box counts only if its score is above this.
        max_boxes: Survivors of an image, the best ones, at most.

    Returns:
        (N, K) bool.
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for image_boxes, image_scores, image_keep in zip(boxes, scores, keep, strict=True):
        candidates = (image_scores > score_threshold).nonzero()[:, 0]
        _, kept = nms(image_boxes[candidates], image_scores[candidates], iou_threshold)
        image_keep[candidates[kept[:max_boxes]]] = True
    return keep


@nms_keep.register_fake
def _(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, max_boxes: int
) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def onnx_translations() -> dict:
    """The table that tells torch.onnx.export how to write :func:`nms_keep`."""
    from onnxscript import opset18 as op  # here, since only the export needs it

    # onnxscript's own annotations would have to be evaluated, so there are none.
    def nms_keep_onnx(boxes, scores, iou_threshold, score_threshold, max_boxes):  # noqa: ANN001, ANN202
        selected = op.NonMaxSuppression(
            boxes,
            op.Unsqueeze(scores, op.Constant(value_ints=[1])),
            op.Constant(value_ints=[max_boxes]),
            op.Constant(value_floats=[iou_threshold]),
            op.Constant(value_floats=[score_threshold]),
        )  # rows of image, class, box
        where = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
        nothing = op.Mul(scores, op.Constant(value_float=0.0))
        count = op.Gather(op.Shape(selected), op.Constant(value_ints=[0]))
        ones = op.Expand(op.Constant(value_float=1.0), count)
        marked = op.ScatterND(nothing, where, ones)
        return op.Greater(marked, op.Constant(value_float=0.5))

    return {torch.ops.mmdet_mobileformer.nms_keep.default: nms_keep_onnx}
