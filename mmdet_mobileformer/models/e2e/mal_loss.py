"""Matchability-aware loss (DEIM, Huang et al., CVPR 2025): the score learns to be the IoU.

MAL(p, q) = -q^g log p - (1 - q^g) log(1 - p)   for the matched class, q its box's IoU
= -p^g log(1 - p)                      for every other class
"""

import torch.nn.functional as F
from mmdet.models.losses import QualityFocalLoss
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class MatchabilityAwareLoss(QualityFocalLoss):
    """MAL for the DETR heads of mmdet, which give a :class:`QualityFocalLoss` labels with IoUs.

    Args:
        gamma: Power of the IoU and of the score (1.5 in DEIM).
        loss_weight: Factor of the loss.
        reduction: 'none', 'mean' or 'sum'.
    """

    def __init__(
        self, gamma: float = 1.5, loss_weight: float = 1.0, reduction: str = 'mean'
    ) -> None:
        super().__init__(use_sigmoid=True, beta=gamma, reduction=reduction, loss_weight=loss_weight)

    def forward(
        self,
        pred: Tensor,
        target: tuple[Tensor, Tensor],
        weight: Tensor | None = None,
        avg_factor: int | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Compare logits with matched labels and IoUs.

        Args:
            pred: Logits (K, classes).
            target: Labels (K), the number of classes where nothing is matched, and IoUs (K).
            weight: Weights (K).
            avg_factor: What the sum is divided by.
            reduction_override: In the place of ``reduction``.

        Returns:
            The loss, a scalar unless the reduction is 'none'.
        """
        labels, quality = target
        num_classes = pred.shape[1]
        matched = F.one_hot(labels, num_classes + 1)[:, :num_classes].to(pred.dtype)
        wanted = matched * quality[:, None].to(pred.dtype).pow(self.beta)
        scale = matched + (1 - matched) * pred.detach().sigmoid().pow(self.beta)
        loss = F.binary_cross_entropy_with_logits(pred, wanted, reduction='none') * scale
        loss = weight_reduce_loss(
            loss.sum(dim=1), weight, reduction_override or self.reduction, avg_factor
        )
        return self.loss_weight * loss
