"""The ImageNet classifier: the backbone under the released classification head."""

from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdet_mobileformer.models.arch import ArchSpec
from mmdet_mobileformer.models.backbone import RELEASED_INIT, MobileFormer
from mmdet_mobileformer.models.bridge import MobileToFormer
from mmdet_mobileformer.models.convolution import channel_shuffle, conv_norm

IMAGENET_CLASSES = 1000
_EXPANSION = 6  # of the 1×1 convolution before the pooling (released model)


class ClassificationHead(BaseModule):
    """Logits from the last features and tokens (released model).

    1. A last Mobile→Former updates the tokens.
    2. A 1×1 convolution of six times the channels, ReLU6 and global average pooling describe the
       features. With grouped convolutions (26m) the input's channels are shuffled first, and this
       convolution is grouped too.
    3. The description and the first token pass two linear layers with h-swish and dropout.

    Args:
        arch: A published name, an :class:`ArchSpec` or a dict of its fields; gives all widths and
            the dropout.
        num_classes: Number of classes.
        norm_cfg: Norm after the convolution.
        init_cfg: As in mmengine. Default: the released model's initialisation.
        **kwargs: Arguments of the next class where this one is mixed with another library's head.

    Raises:
        ValueError: If ``arch`` is unknown.
    """

    def __init__(
        self,
        arch: str | dict[str, Any] | ArchSpec,
        num_classes: int = IMAGENET_CLASSES,
        norm_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
        **kwargs: Any,  # noqa: ANN401 (the next class's own arguments)
    ) -> None:
        super().__init__(init_cfg=RELEASED_INIT if init_cfg is None else init_cfg, **kwargs)
        arch = ArchSpec.parse(arch)
        in_channels, groups = arch.blocks[-1].out_channels, arch.groups
        self.num_classes = num_classes
        self.mobile_to_former = MobileToFormer(in_channels, arch.token_dim)
        self.groups = groups
        self.conv = conv_norm(
            in_channels,
            _EXPANSION * in_channels,
            1,
            dict(type='BN') if norm_cfg is None else norm_cfg,
            groups=groups,
            act_cfg=dict(type='ReLU6'),
        )
        width = arch.classifier_channels
        self.hidden = nn.Linear(_EXPANSION * in_channels + arch.token_dim, width)
        self.hidden_norm = nn.BatchNorm1d(width)
        self.act = nn.Hardswish()
        self.dropout = nn.Dropout(arch.classifier_dropout)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Classify.

        Args:
            features: (N, C, H, W), the backbone's last map.
            tokens: (N, M, D) after its last block.

        Returns:
            Logits (N, num_classes).
        """
        tokens, _ = self.mobile_to_former(features, tokens)

        pooled = self.conv(channel_shuffle(features, self.groups)).mean(dim=(2, 3))  # (N, 6C)

        hidden = self.hidden(torch.cat([self.act(pooled), tokens[:, 0]], dim=1))
        return self.fc(self.dropout(self.act(self.hidden_norm(hidden))))


@MODELS.register_module()
class MobileFormerClassifier(BaseModule):
    """Backbone and classification head, without any training framework around them.

    Its state dict has the keys ``backbone.*`` and ``head.*``, which are also those of mmpretrain's
    ``ImageClassifier`` as this project configures it, and those that converted checkpoints have.

    Args:
        arch: A published name, an :class:`ArchSpec` or a dict of its fields.
        num_classes: Number of classes.
        dynamic_relu: 'token' or 'spatial'; the weights fit both.
        norm_cfg: Norm after every convolution.
        drop_path_rate: Of the backbone.
        init_cfg: As in mmengine, for the whole classifier.

    Examples:
        >>> import torch
        >>> from mmdet_mobileformer.models import MobileFormerClassifier
        >>> classifier = MobileFormerClassifier('26m').eval()
        >>> classifier(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 1000])
    """

    def __init__(
        self,
        arch: str | dict[str, Any] | ArchSpec,
        num_classes: int = IMAGENET_CLASSES,
        dynamic_relu: str = 'token',
        norm_cfg: dict[str, Any] | None = None,
        drop_path_rate: float = 0.0,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.backbone = MobileFormer(
            arch,
            dynamic_relu=dynamic_relu,
            out_indices=(last_level(arch),),
            norm_cfg=norm_cfg,
            drop_path_rate=drop_path_rate,
        )
        self.head = ClassificationHead(arch, num_classes, norm_cfg)

    def forward(self, images: Tensor) -> Tensor:
        """Classify normalised images (N, 3, H, W): logits (N, num_classes)."""
        (features,), tokens = self.backbone.forward_tokens(images)
        return self.head(features, tokens)


def last_level(arch: str | dict[str, Any] | ArchSpec) -> int:
    """The coarsest level of an architecture, the one that is classified."""
    return max(ArchSpec.parse(arch).level_blocks)
