"""RetinaNet's head with one normalisation for all processes."""

import torch
from mmdet.models.dense_heads import RetinaHead
from mmdet.registry import MODELS
from mmdet.utils import reduce_mean
from torch import Tensor

from mmdet_mobileformer.checkpoints.compare import refuse_other_shapes

_AVG_FACTOR = 4  # place of the number of positive anchors in what mmdet's `get_targets` returns


@MODELS.register_module()
class SyncedRetinaHead(RetinaHead):
    """mmdet's RetinaHead, whose losses are divided by the positive anchors of all processes.

    mmdet divides by those of each process alone, so that objects on a process with few of them
    count for more, and the steps depend on how images are spread over processes. Our decision:
    divide by the mean over the processes, as mmdet's DETR head does; N processes then take the
    steps of one with the same images. Arguments are RetinaHead's.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        refuse_other_shapes(self)

    def get_targets(self, *args: object, **kwargs: object) -> tuple:
        """Give mmdet's targets, with the number of positive anchors averaged over processes."""
        targets = list(super().get_targets(*args, **kwargs))
        labels: Tensor = targets[0][0]
        avg_factor = labels.new_tensor(targets[_AVG_FACTOR], dtype=torch.float32)
        targets[_AVG_FACTOR] = reduce_mean(avg_factor)
        return tuple(targets)
