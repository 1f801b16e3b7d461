"""The end-to-end detector: DETR made of Mobile-Former blocks (paper, sec. 4, tables 9 and 10)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmdet.models.detectors.base_detr import DetectionTransformer
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from torch import Tensor, nn

from mmdet_mobileformer.models.e2e.decoder import MobileFormerDecoder
from mmdet_mobileformer.models.padding import extend_images, padding_mask_of


@MODELS.register_module()
class MobileFormerDETR(DetectionTransformer):
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
        test_cfg: Holds ``max_per_img``; where there are fewer queries, these are the limit.
        data_preprocessor: As in mmdet.
        init_cfg: As in mmengine.
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
    ) -> None:
        if num_queries < 1:
            raise ValueError(f'num_queries must be at least 1, not {num_queries}')
        # mmdet's head would ask for more boxes than there are queries, and edits its own config.
        test_cfg = copy.deepcopy(test_cfg) or {}
        test_cfg['max_per_img'] = min(test_cfg.get('max_per_img', num_queries), num_queries)
        super().__init__(
            backbone=backbone,
            neck=neck,
            decoder=decoder,
            bbox_head=copy.deepcopy(bbox_head),
            num_queries=num_queries,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )

    def _init_layers(self) -> None:
        self.decoder = MobileFormerDecoder(**self.decoder)
        self.embed_dims = self.decoder.embed_dims
        if self.bbox_head.embed_dims != self.embed_dims:
            raise ValueError(
                f'bbox_head.embed_dims {self.bbox_head.embed_dims} must equal the embed_dims '
                f'{self.embed_dims} of the decoder'
            )
        self.query_embedding = nn.Embedding(self.num_queries, self.embed_dims)

    def loss(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]
    ) -> dict[str, Tensor]:
        """Losses of every block's predictions for images (N, 3, H, W)."""
        head_inputs = self._head_inputs(batch_inputs, batch_data_samples)
        return self.bbox_head.loss(**head_inputs, batch_data_samples=batch_data_samples)

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample], rescale: bool = True
    ) -> list[DetDataSample]:
        """Detections of the last block: ``pred_instances``, boxes (x1, y1, x2, y2) in pixels."""
        head_inputs = self._head_inputs(batch_inputs, batch_data_samples)
        results = self.bbox_head.predict(
            **head_inputs, rescale=rescale, batch_data_samples=batch_data_samples
        )
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _forward(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Class logits (num_blocks, N, Q, classes + 1) and boxes (num_blocks, N, Q, 4).

        The boxes are (cx, cy, w, h) relative to the image.
        """
        return self.bbox_head(**self._head_inputs(batch_inputs, batch_data_samples))

    def extract_feat(
        self, batch_inputs: Tensor, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Maps (N, C, H_i, W_i) of the neck; padding_mask (N, H, W) is True at padded pixels."""
        return self.neck(self.backbone(batch_inputs, padding_mask))

    def pre_transformer(
        self, img_feats: tuple[Tensor, ...], batch_data_samples: list[DetDataSample] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The maps from coarse to fine for the encoder's place, the mask for the decoder."""
        mask = padding_mask_of(batch_data_samples, img_feats[0].device)
        return dict(features=img_feats[::-1]), dict(padding_mask=mask)

    def forward_encoder(self, features: tuple[Tensor, ...]) -> dict[str, Any]:
        """Pass the maps on: the blocks of the decoder refine them, there is no other encoder."""
        return dict(features=features)

    def pre_decoder(self, features: tuple[Tensor, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Add the queries (N, Q, C): zero feature embedding and learned position embedding."""
        query_pos = self.query_embedding.weight.expand(features[0].shape[0], -1, -1)
        queries = torch.zeros_like(query_pos)
        return dict(features=features, queries=queries, query_pos=query_pos), {}

    def forward_decoder(
        self,
        features: tuple[Tensor, ...],
        queries: Tensor,
        query_pos: Tensor,
        padding_mask: Tensor | None,
    ) -> dict[str, Tensor]:
        """Queries after every block as ``hidden_states`` (num_blocks, N, Q, C)."""
        return dict(hidden_states=self.decoder(features, queries, query_pos, padding_mask))

    def _head_inputs(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample] | None
    ) -> dict[str, Tensor]:
        mask = padding_mask_of(batch_data_samples, batch_inputs.device)
        if mask is not None:
            batch_inputs = extend_images(batch_inputs, mask)
        features = self.extract_feat(batch_inputs, mask)
        return self.forward_transformer(features, batch_data_samples)
