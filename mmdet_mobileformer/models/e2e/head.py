"""Predictions from anchored queries: mmdet's DETR head, which is given the boxes."""

import torch
from mmdet.models.dense_heads import DETRHead
from mmdet.models.layers import inverse_sigmoid
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from mmdet.utils import reduce_mean
from mmengine.model import bias_init_with_prob
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_mobileformer.models.e2e.denoising import DenoisingQueries
from mmdet_mobileformer.models.e2e.dense_loss import DenseLoss
from mmdet_mobileformer.models.e2e.proposals import Proposals


@MODELS.register_module()
class AnchorDETRHead(DETRHead):
    """mmdet's DETRHead for queries that own boxes; all blocks share its layers.

    1. The decoder refines a query's box after every block by :meth:`refine`.
    2. Classes are predicted from the queries after every block; matching and losses are mmdet's.
    3. Proposals, where there are any, have their own :class:`DenseLoss`.
    4. Denoising queries, where there are any, know their objects (:mod:`.denoising`).

    Args:
        loss_dense: Settings of :class:`DenseLoss`.
        **kwargs: As for mmdet's DETRHead; ``loss_cls`` with ``use_sigmoid``.
    """

    def __init__(self, *args: object, loss_dense: dict | None = None, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.loss_dense = DenseLoss(**(loss_dense or {}))

    def init_weights(self) -> None:
        """Initialise: Xavier; classes improbable (0.01), boxes stay what they are."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.constant_(self.fc_cls.bias, bias_init_with_prob(0.01))
        nn.init.zeros_(self.fc_reg.weight)

    def refine(self, queries: Tensor, boxes: Tensor) -> Tensor:
        """``sigmoid(MLP(q^f) + logit(r))``.

        Args:
            queries: (N, Q, C).
            boxes: Reference boxes (N, Q, 4) as (cx, cy, w, h) in [0, 1].

        Returns:
            Boxes (N, Q, 4), float32.
        """
        change = self.fc_reg(self.activate(self.reg_ffn(queries)))
        return (change.float() + inverse_sigmoid(boxes.float(), eps=1e-3)).sigmoid()

    def forward(
        self, hidden_states: Tensor, boxes: Tensor, proposals: Proposals | None = None
    ) -> tuple[Tensor, Tensor]:
        """Predict.

        Args:
            hidden_states: Queries after every block (blocks, N, Q, C).
            boxes: Their boxes (blocks, N, Q, 4).
            proposals: Predicted from where ``hidden_states`` is empty; otherwise unused.

        Returns:
            Class logits (blocks, N, Q, classes) and the boxes.
        """
        if not len(hidden_states):
            return proposals.query_logits[None], proposals.query_boxes[None]
        return self.fc_cls(hidden_states), boxes

    def loss(
        self,
        hidden_states: Tensor,
        boxes: Tensor,
        batch_data_samples: list[DetDataSample],
        proposals: Proposals | None = None,
        dn_queries: DenoisingQueries | None = None,
        dn_states: Tensor | None = None,
        dn_boxes: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of every block, as mmdet names them, of the proposals and of denoising.

        Args:
            hidden_states: As for :meth:`forward`.
            boxes: Likewise.
            batch_data_samples: With annotations.
            proposals: Where there are any.
            dn_queries: Where there are any.
            dn_states: Denoising queries after every block that they passed (blocks, N, K, C).
            dn_boxes: Their boxes (blocks, N, K, 4).

        Returns:
            Losses by name; those of denoising begin with ``dn_`` as in mmdet's DINO.
        """
        gt_instances = [sample.gt_instances for sample in batch_data_samples]
        metas = [sample.metainfo for sample in batch_data_samples]
        losses = self.loss_by_feat(*self(hidden_states, boxes), gt_instances, metas)
        if proposals is not None:
            losses.update(self.loss_dense(proposals, gt_instances, metas))
        if dn_queries is not None:
            for index, (states, boxes_after) in enumerate(zip(dn_states, dn_boxes, strict=True)):
                is_last = index == len(dn_states) - 1
                name = 'dn_loss' if is_last else f'd{index}.dn_loss'
                losses.update(
                    self._denoising_loss(name, dn_queries, self.fc_cls(states), boxes_after)
                )
        return losses

    def _denoising_loss(
        self, name: str, dn_queries: DenoisingQueries, logits: Tensor, boxes: Tensor
    ) -> dict[str, Tensor]:
        """Losses of denoising queries (N, K), over the number of positives of all processes."""
        logits, boxes = logits.flatten(0, 1), boxes.flatten(0, 1)
        labels, targets = dn_queries.labels.flatten(), dn_queries.targets.flatten(0, 1)
        is_object = labels < self.num_classes
        count = reduce_mean(is_object.sum().to(boxes.dtype)).clamp(min=1).item()
        corners, wanted = bbox_cxcywh_to_xyxy(boxes), bbox_cxcywh_to_xyxy(targets)
        quality = bbox_overlaps(corners.detach(), wanted, is_aligned=True) * is_object
        weight = is_object.to(boxes.dtype)
        return {
            f'{name}_cls': self.loss_cls(
                logits, (labels, quality), torch.ones_like(quality), avg_factor=count
            ),
            f'{name}_bbox': self.loss_bbox(
                boxes, targets, weight[:, None].expand(-1, 4), avg_factor=count
            ),
            f'{name}_iou': self.loss_iou(corners, wanted, weight, avg_factor=count),
        }

    def predict(
        self,
        hidden_states: Tensor,
        boxes: Tensor,
        batch_data_samples: list[DetDataSample],
        rescale: bool = True,
        proposals: Proposals | None = None,
    ) -> list[InstanceData]:
        """Detections of the last of these blocks, or of the proposals where there is none."""
        metas = [sample.metainfo for sample in batch_data_samples]
        outputs = self(hidden_states[-1:], boxes[-1:], proposals)
        return self.predict_by_feat(*outputs, batch_img_metas=metas, rescale=rescale)
