"""The end-to-end detector: DETR made of Mobile-Former blocks (paper, sec. 4, tables 9 and 10)."""

import copy
from typing import Any

import torch
from mmdet.models.detectors import SingleStageDetector
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from torch import Tensor, nn

from mmdet_mobileformer.checkpoints.compare import refuse_other_shapes
from mmdet_mobileformer.models.e2e.anchors import LearnedAnchors
from mmdet_mobileformer.models.e2e.decoder import MobileFormerDecoder
from mmdet_mobileformer.models.e2e.denoising import Denoising, DenoisingQueries
from mmdet_mobileformer.models.e2e.head import AnchorDETRHead
from mmdet_mobileformer.models.e2e.proposals import ProposalHead
from mmdet_mobileformer.models.layout import channels_last
from mmdet_mobileformer.models.padding import extend_images, padding_mask_of


@MODELS.register_module()
class MobileFormerDETR(SingleStageDetector):
    """DETR with backbone, encoder and decoder of Mobile-Former blocks.

    1. The backbone computes its maps; padded pixels get no attention in its bridge (our decision:
       unmasked padding would move its tokens).
    2. The neck brings the maps to the width of the queries (1×1 convolutions; our decision).
    3. The queries, their feature embedding zero and their position embedding learned as in DETR,
       pass through the blocks of all scales from coarse to fine.
    4. ``bbox_head``, mmdet's DETRHead, predicts from the queries after every block. Hungarian
       matching, losses and auxiliary losses are mmdet's.

    Args:
        backbone: Config of the backbone; its maps from fine to coarse, one a scale of the decoder.
        neck: Config of the neck, mmdet's ChannelMapper.
        decoder: Settings of :class:`MobileFormerDecoder`.
        bbox_head: Config of mmdet's DETRHead.
        num_queries: Object queries (100 in the paper).
        train_cfg: Holds the ``assigner``, as for mmdet's DETR.
        test_cfg: Holds ``max_per_img``; where there are fewer queries, these are the limit. With
            ``after_block``, detections are those after that block, from 1 on, and not after the
            last; 0 stands for the proposals, before any block of the scale that proposes.
        data_preprocessor: As in mmdet.
        init_cfg: As in mmengine.
        denoising: Settings of :class:`Denoising`, for proposals; None trains without.

    Raises:
        ValueError: If settings do not go together.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        neck: dict[str, Any],
        decoder: dict[str, Any],
        bbox_head: dict[str, Any],
        num_queries: int = 100,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: dict[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | nn.Module | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
        denoising: dict[str, Any] | None = None,
    ) -> None:
        if num_queries < 1:
            raise ValueError(f'num_queries must be at least 1, not {num_queries}')
        # mmdet's head would ask for more boxes than there are queries, and edits its own config.
        test_cfg = copy.deepcopy(test_cfg) or {}
        test_cfg['max_per_img'] = min(test_cfg.get('max_per_img', num_queries), num_queries)
        super().__init__(
            backbone=backbone,
            neck=neck,
            bbox_head=copy.deepcopy(bbox_head),
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self._build_decoder(decoder, num_queries)
        num_blocks = self.decoder.num_blocks
        self.after_block = test_cfg.get('after_block', num_blocks)
        first = 0 if self.decoder.proposes else 1
        if not first <= self.after_block <= num_blocks:
            raise ValueError(
                f'test_cfg.after_block must be {first} to {num_blocks}, the number of blocks; '
                f'got {self.after_block}'
            )
        self.denoising = None if denoising is None else Denoising(**denoising)
        if denoising is not None and not self.decoder.proposes:
            raise ValueError(
                f'denoising={denoising} needs queries that are proposals; give a scale of the '
                'decoder proposal_maps, or set denoising=None'
            )
        refuse_other_shapes(self)

    def _build_decoder(self, decoder: dict[str, Any], num_queries: int) -> None:
        """Build it, and what its queries begin with, once the head is there."""
        self.decoder = MobileFormerDecoder(**decoder)
        embed_dims = self.decoder.embed_dims
        if self.bbox_head.embed_dims != embed_dims:
            raise ValueError(
                f'bbox_head.embed_dims {self.bbox_head.embed_dims} must equal the embed_dims '
                f'{embed_dims} of the decoder'
            )
        if isinstance(self.bbox_head, AnchorDETRHead) != self.decoder.anchored:
            raise ValueError(
                f'decoder.anchored={self.decoder.anchored} does not go with a '
                f'{type(self.bbox_head).__name__}; anchored queries need AnchorDETRHead, and no '
                'others do'
            )
        if not self.decoder.anchored:
            self.query_embedding = nn.Embedding(num_queries, embed_dims)
        elif self.decoder.begins_with_queries:
            self.queries = LearnedAnchors(num_queries, embed_dims)
        if self.decoder.proposes:
            self.proposal_head = ProposalHead(embed_dims, self.bbox_head.num_classes, num_queries)

    def loss(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]
    ) -> dict[str, Tensor]:
        """Losses of every block's predictions for images (N, 3, H, W)."""
        dn_queries = None
        if self.denoising is not None:
            objects = [sample.gt_instances for sample in batch_data_samples]
            metas = [sample.metainfo for sample in batch_data_samples]
            dn_queries = self.denoising(objects, metas, self.bbox_head.num_classes)
        padding_mask = padding_mask_of(batch_data_samples, batch_inputs.device)
        head_inputs = self._decode(batch_inputs, padding_mask, dn_queries)
        return self.bbox_head.loss(**head_inputs, batch_data_samples=batch_data_samples)

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample], rescale: bool = True
    ) -> list[DetDataSample]:
        """Detections: ``pred_instances``, boxes (x1, y1, x2, y2) in pixels."""
        padding_mask = padding_mask_of(batch_data_samples, batch_inputs.device)
        head_inputs = self._decode_for_detection(batch_inputs, padding_mask)
        results = self.bbox_head.predict(
            **head_inputs, rescale=rescale, batch_data_samples=batch_data_samples
        )
        return self.add_pred_to_datasample(batch_data_samples, results)

    def detect(
        self, batch_inputs: Tensor, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best ``max_per_img`` detections of each image, as a graph for export.

        Args:
            batch_inputs: Normalised images (N, 3, H, W).
            padding_mask: (N, H', W') as :func:`padding_mask_of` makes it; None without padding.

        Returns:
            Boxes (N, K, 4) as (cx, cy, w, h) relative to the visible image, scores (N, K), falling,
            and labels (N, K).
        """
        logits, boxes = self.bbox_head(**self._decode_for_detection(batch_inputs, padding_mask))
        logits, boxes = logits[-1], boxes[-1]
        limit = self.bbox_head.test_cfg['max_per_img']
        if self.bbox_head.loss_cls.use_sigmoid:
            scores, index = logits.sigmoid().flatten(1).topk(limit, dim=1)
            query = torch.div(index, logits.shape[2], rounding_mode='floor')
            labels = index - query * logits.shape[2]
        else:
            scores, labels = logits.softmax(dim=-1)[..., :-1].max(dim=-1)
            scores, query = scores.topk(limit, dim=1)
            labels = labels.gather(1, query)
        return boxes.gather(1, query[..., None].expand(-1, -1, 4)), scores, labels

    def _forward(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Class logits (blocks, N, Q, classes [+ 1]) and boxes (blocks, N, Q, 4).

        They are those of ``after_block`` blocks, or of the proposals. The boxes are (cx, cy, w, h)
        relative to the image.
        """
        padding_mask = padding_mask_of(batch_data_samples, batch_inputs.device)
        return self.bbox_head(**self._decode_for_detection(batch_inputs, padding_mask))

    def extract_feat(
        self, batch_inputs: Tensor, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Maps (N, C, H_i, W_i) of the neck; padding_mask (N, H, W) is True at padded pixels."""
        maps = self.backbone(batch_inputs, padding_mask)
        return self.neck(tuple(channels_last(level) for level in maps))

    def _decode(
        self,
        batch_inputs: Tensor,
        padding_mask: Tensor | None,
        dn_queries: DenoisingQueries | None = None,
    ) -> dict[str, Any]:
        """What the head predicts from, see :meth:`MobileFormerDecoder.forward`."""
        if padding_mask is not None:
            batch_inputs = extend_images(batch_inputs, padding_mask)
        features = self.extract_feat(batch_inputs, padding_mask)[::-1]  # from coarse to fine
        inputs = self._first_queries(features[0].shape[0])
        if self.decoder.anchored:
            inputs['refine'] = self.bbox_head.refine
        if self.decoder.proposes:
            inputs['propose'] = self.proposal_head
        return self.decoder(features, padding_mask=padding_mask, dn_queries=dn_queries, **inputs)

    def _decode_for_detection(
        self, batch_inputs: Tensor, padding_mask: Tensor | None
    ) -> dict[str, Any]:
        """The same without the blocks behind ``after_block``."""
        outputs = self._decode(batch_inputs, padding_mask)
        for name in {'hidden_states', 'boxes'} & outputs.keys():
            outputs[name] = outputs[name][: self.after_block]
        return outputs

    def _first_queries(self, batch_size: int) -> dict[str, Tensor | None]:
        """The queries (N, Q, C) that the first scale begins with, if it does not propose them.

        In the paper's form: zero feature embedding and learned position embedding. Anchored:
        learned contents and boxes (N, Q, 4).
        """
        if not self.decoder.anchored:
            query_pos = self.query_embedding.weight.expand(batch_size, -1, -1)
            return dict(queries=torch.zeros_like(query_pos), query_pos=query_pos)
        if self.decoder.begins_with_queries:
            queries, boxes = self.queries(batch_size)
            return dict(queries=queries, boxes=boxes)
        return dict(queries=None)
