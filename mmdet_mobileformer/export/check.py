"""Whether an exported file detects what its detector detects."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import cv2
import numpy as np
import torch
from mmdet.models.detectors.base import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment

from mmdet_mobileformer.export.runtime import OnnxDetector

# (height, width) of the images of each checked batch: several sizes, none square, the last padded.
BATCHES = (
    ((240, 320),),
    ((350, 233),),
    ((417, 640),),
    ((256, 352), (200, 352), (256, 190)),
)


@dataclass
class Difference:
    """Largest differences between two detectors over the detections that both made."""

    compared: int = 0  # detections that have a counterpart of the same label
    missing: int = 0  # detections without one, those at the edge of being kept left out
    box: float = 0.0  # pixels
    score: float = 0.0

    def within(self, box: float, score: float) -> bool:
        """Whether nothing is missing and no difference exceeds its tolerance."""
        return not self.missing and self.box <= box and self.score <= score


def compare(
    detector: BaseDetector,
    exported: OnnxDetector,
    pictures: Sequence[np.ndarray],
    box_tolerance: float,
    score_tolerance: float,
    batches: Sequence[Sequence[tuple[int, int]]] = BATCHES,
) -> Difference:
    """Run both on the same batches and compare boxes, scores and labels.

    Args:
        detector: In eval mode.
        exported: The file made from it.
        pictures: (H, W, 3) uint8 BGR, taken in turn and brought to the sizes of the batches.
        box_tolerance: In pixels. Where an image has as many detections as are kept, the weakest
            ones may be others on the other side, that is, further away than this.
        score_tolerance: The weakest are those that score no more than this above the last; they may
            also be missing on the other side.
        batches: (height, width) of the images of each batch; smaller ones are padded.
    """
    difference = Difference()
    most = detector.bbox_head.test_cfg['max_per_img']
    turn = cycle(pictures)
    for sizes in batches:
        inputs, samples = [], []
        for (height, width), picture in zip(sizes, turn, strict=False):
            resized = cv2.resize(picture, (width, height))
            inputs.append(torch.from_numpy(resized).permute(2, 0, 1).contiguous())
            own_height, own_width = picture.shape[:2]
            meta = dict(
                img_shape=(height, width),
                ori_shape=(own_height, own_width),
                scale_factor=(width / own_width, height / own_height),
            )
            samples.append(DetDataSample(metainfo=meta))
        data = dict(inputs=inputs, data_samples=samples)
        with torch.no_grad():
            wanted = [sample.pred_instances for sample in detector.test_step(data)]
            found = [sample.pred_instances for sample in exported.test_step(data)]
        for one, other in zip(wanted, found, strict=True):
            _add(difference, one, other, most, box_tolerance, score_tolerance)
    return difference


def _add(
    difference: Difference,
    wanted: InstanceData,
    found: InstanceData,
    most: int,
    box_tolerance: float,
    score_tolerance: float,
) -> None:
    """Match detections of one image by label and place, and add what differs."""
    boxes = (wanted.bboxes[:, None] - found.bboxes[None]).abs().amax(dim=-1)
    scores = (wanted.scores[:, None] - found.scores[None]).abs()
    other_label = wanted.labels[:, None] != found.labels[None]
    cost = boxes + 1e3 * scores + 1e9 * other_label
    rows, columns = linear_sum_assignment(cost.numpy())
    same = ~other_label[rows, columns].numpy()
    if len(wanted) == len(found) == most:
        weak = [side.scores <= side.scores.min() + score_tolerance for side in (wanted, found)]
        swapped = weak[0][rows] & weak[1][columns] & (boxes[rows, columns] > box_tolerance)
        same &= ~swapped.numpy()
    rows, columns = rows[same], columns[same]
    if len(rows):
        difference.compared += len(rows)
        difference.box = max(difference.box, float(boxes[rows, columns].max()))
        difference.score = max(difference.score, float(scores[rows, columns].max()))
    for side, matched in ((wanted, rows), (found, columns)):
        alone = np.setdiff1d(np.arange(len(side)), matched)
        if len(alone):
            edge = float(side.scores.min()) + score_tolerance
            difference.missing += int((side.scores[alone] > edge).sum())
