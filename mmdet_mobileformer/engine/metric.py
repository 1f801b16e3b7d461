"""COCO's twelve figures, and a figure also where nothing was detected."""

from __future__ import annotations

from typing import Any

from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.logging import print_log

# mmdet's fixed names of COCO's twelve figures, in COCO's order. The last six name the numbers of
# detections 100, 300 and 1000 whatever `proposal_nums` says.
_MMDET_NAMES = (
    'mAP',
    'mAP_50',
    'mAP_75',
    'mAP_s',
    'mAP_m',
    'mAP_l',
    'AR@100',
    'AR@300',
    'AR@1000',
    'AR_s@1000',
    'AR_m@1000',
    'AR_l@1000',
)


@METRICS.register_module()
class FullCocoMetric(CocoMetric):
    """mmdet's CocoMetric with all of COCO's twelve figures, which are there in every case.

    Our decision: mmdet reports the six AP only, counts recall at 100, 300 and 1000 detections where
    COCO counts at 1, 10 and 100, and returns no figure at all when a model detects nothing, which
    then breaks whatever waits for one (`save_best`). Here AP and AR are 0 in that case.

    Args:
        ann_file: COCO annotation file of the evaluated images.
        metric: 'bbox', 'segm' or a list of both.
        proposal_nums: Three ascending numbers of detections an image; AP counts the largest.
        **kwargs: As for mmdet's CocoMetric; ``metric_items`` is fixed.

    Raises:
        ValueError: If ``metric`` is another one or ``proposal_nums`` are not three ascending
            numbers.

    Examples:
        >>> from mmdet_mobileformer.engine import FullCocoMetric
        >>> FullCocoMetric().figure_names('bbox')[-6:-3]
        ('bbox_AR@1', 'bbox_AR@10', 'bbox_AR@100')
    """

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | list[str] = 'bbox',
        proposal_nums: tuple[int, int, int] = (1, 10, 100),
        **kwargs: Any,  # noqa: ANN401 (mmdet's own arguments)
    ) -> None:
        wrong = {metric} if isinstance(metric, str) else set(metric)
        wrong -= {'bbox', 'segm'}
        if wrong:
            raise ValueError(f"metric must be 'bbox', 'segm' or both, not {sorted(wrong)}")
        if len(proposal_nums) != 3 or list(proposal_nums) != sorted(set(proposal_nums)):
            raise ValueError(f'proposal_nums must be three ascending numbers, not {proposal_nums}')
        super().__init__(
            ann_file=ann_file,
            metric=metric,
            proposal_nums=tuple(proposal_nums),
            metric_items=list(_MMDET_NAMES),
            **kwargs,
        )

    def figure_names(self, metric: str) -> tuple[str, ...]:
        """Names of a metric's twelve figures in COCO's order, with the true detection counts."""
        few, more, most = self.proposal_nums
        recalls = (f'AR@{few}', f'AR@{more}', f'AR@{most}')
        sizes = (f'AR_s@{most}', f'AR_m@{most}', f'AR_l@{most}')
        return tuple(f'{metric}_{name}' for name in _MMDET_NAMES[:6] + recalls + sizes)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate the collected results.

        Args:
            results: Pairs (ground truth, prediction), one an image.

        Returns:
            The twelve figures of every metric in [0, 1] (-1: nothing to find), and with
            ``classwise`` ``<class>_precision``. Without a single detection every figure is 0.
        """
        if not self.format_only and not any(len(pred['bboxes']) for _, pred in results):
            print_log(
                f'The model detected nothing in {len(results)} images (no box passed the score '
                'threshold): every COCO figure is 0.',
                logger='current',
            )
            return {name: 0.0 for metric in self.metrics for name in self.figure_names(metric)}
        figures = super().compute_metrics(results)
        names = {
            f'{metric}_{mmdet_name}': name
            for metric in self.metrics
            for mmdet_name, name in zip(_MMDET_NAMES, self.figure_names(metric), strict=True)
        }
        return {names.get(name, name): value for name, value in figures.items()}
