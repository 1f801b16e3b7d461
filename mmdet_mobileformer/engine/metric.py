"""COCO's twelve figures, and a figure also where nothing was detected."""

from typing import Any

from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS

# COCO's order; what mmdet calls AR@100, 300 and 1000 is counted at the three `proposal_nums`.
_NAMES = {
    **{name: name for name in ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')},
    'AR@100': 'AR@1',
    'AR@300': 'AR@10',
    'AR@1000': 'AR@100',
    **{f'AR_{size}@1000': f'AR_{size}@100' for size in 'sml'},
}


@METRICS.register_module()
class FullCocoMetric(CocoMetric):
    """mmdet's CocoMetric with all of COCO's twelve figures, which are 0 where nothing is detected.

    Our decision: mmdet reports the six AP only, names recall after 100, 300 and 1000 detections
    where COCO counts at 1, 10 and 100, and returns no figure when a model detects nothing.

    Args:
        **kwargs: As for mmdet's CocoMetric, except ``proposal_nums`` and ``metric_items``.
    """

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 (mmdet's own arguments)
        super().__init__(proposal_nums=(1, 10, 100), metric_items=list(_NAMES), **kwargs)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate pairs (ground truth, prediction), one an image.

        Returns:
            The twelve figures of every metric in [0, 1] (-1: nothing to find), and with
            ``classwise`` ``<class>_precision``.
        """
        names = {
            f'{kind}_{old}': f'{kind}_{new}' for kind in self.metrics for old, new in _NAMES.items()
        }
        figures = super().compute_metrics(results)
        if not figures and not self.format_only:
            return dict.fromkeys(names.values(), 0.0)
        return {names.get(name, name): value for name, value in figures.items()}
