"""Backbone and head for mmpretrain's ``ImageClassifier``; nothing else needs mmpretrain.

A config reaches them by
``custom_imports = dict(imports=['mmdet_mobileformer.models.image_classifier'])``.
"""

from typing import Any

from mmpretrain.models.heads import ClsHead
from mmpretrain.registry import MODELS
from torch import Tensor

from mmdet_mobileformer.models.arch import ArchSpec
from mmdet_mobileformer.models.backbone import MobileFormer
from mmdet_mobileformer.models.classifier import ClassificationHead, last_level


@MODELS.register_module()
class MobileFormerWithTokens(MobileFormer):
    """The backbone as ``ImageClassifier`` needs it: its last features with its last tokens.

    Its weights have the names of :class:`MobileFormer`'s, so a detector's backbone loads them.

    Args:
        arch: A published name, an :class:`ArchSpec` or a dict of its fields.
        **kwargs: As for :class:`MobileFormer`, less ``out_indices``.
    """

    def __init__(
        self,
        arch: str | dict[str, Any] | ArchSpec,
        **kwargs: Any,  # noqa: ANN401 (MobileFormer's own arguments)
    ) -> None:
        super().__init__(arch, out_indices=(last_level(arch),), **kwargs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) to the last features (N, C, h, w) and tokens (N, M, D)."""
        (features,), tokens = self.forward_tokens(x)
        return features, tokens


@MODELS.register_module()
class MobileFormerClsHead(ClassificationHead, ClsHead):
    """:class:`ClassificationHead` with the losses and predictions of mmpretrain's ``ClsHead``.

    Arguments: :class:`ClassificationHead`'s, and ``loss``, ``topk``, ``cal_acc`` of ``ClsHead``.
    """

    def forward(self, feats: tuple[Tensor, Tensor]) -> Tensor:
        """Features (N, C, H, W) and tokens (N, M, D) to logits (N, num_classes)."""
        features, tokens = feats
        return super().forward(features, tokens)
