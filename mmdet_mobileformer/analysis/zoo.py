"""The models of the benchmark by name: ours, their variants, and peers from mmdet's registry."""

import types
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import Tensor, nn

from mmdet_mobileformer.analysis.complexity import samples_of
from mmdet_mobileformer.engine.acceleration import fuse_detector
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.models import ARCHS, DynamicReLU, MobileFormer
from mmdet_mobileformer.models.convolution import ConvNorm
from mmdet_mobileformer.models.dynamic_relu import two_slopes
from mmdet_mobileformer.models.padding import hide_padding
from mmdet_mobileformer.packaged_configs import config_file

PEERS = {
    'resnet50': dict(type='ResNet', depth=50, out_indices=(1, 2, 3)),
    'mobilenetv2': dict(type='MobileNetV2', out_indices=(2, 4, 7)),
    'pvtv2-b0': dict(
        type='PyramidVisionTransformerV2', embed_dims=32, num_layers=[2, 2, 2, 2], init_cfg=None
    ),
}
BACKBONES = PEERS | {
    f'mf-{arch}': dict(type='MobileFormer', arch=arch, out_indices=(2, 3, 4)) for arch in ARCHS
}
E2E_ARCHS = ('508m', '294m', '214m', '151m')
DETECTORS = {
    **{f'retinanet-mf-{arch}': f'retinanet_mf{arch}_coco.py' for arch in ARCHS},
    **{f'e2e-mf-{arch}': f'e2e_mf{arch}_coco.py' for arch in E2E_ARCHS},
    **{f'anchored-mf-{arch}': f'e2e_mf{arch}_anchored_coco.py' for arch in E2E_ARCHS},
    'retinanet-r50': 'retinanet_mf294m_coco.py',
    'detr-r50': 'ablation/detr_r50.py',
}
VARIANTS = ('fused', 'released', 'spatial', 'cp')


def build_model(name: str) -> nn.Module:
    """Build a model with random weights.

    Args:
        name: A key of ``BACKBONES`` or ``DETECTORS``, or the path of a config, followed by any of
            '+fused' (norms folded into convolutions, for inference), '+released' (the released
            code's form), '+spatial' and '+cp' (the backbone's settings).

    Raises:
        UserError: If there is no such model or variant.
    """
    base, *variants = name.split('+')
    cfg = _model_cfg(base)
    backbone = cfg.get('backbone', cfg)
    is_ours = backbone['type'] == 'MobileFormer'
    legal = VARIANTS if is_ours else VARIANTS[:1]
    if unknown := set(variants).difference(legal):
        raise UserError(f'{name}: {base} has no variant {", ".join(unknown)}; choose from {legal}.')
    if is_ours:
        if 'spatial' in variants:
            backbone['dynamic_relu'] = 'spatial'
        backbone['with_cp'] = 'cp' in variants
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    if 'released' in variants:
        use_released_form(model)
    if 'fused' in variants:
        fuse_detector(model)
    return model


def use_released_form(model: nn.Module) -> None:
    """Compute as the released code does, with the same weights (written from what it computes).

    Dynamic ReLU is ``max(a1 * x, a2 * x)`` in three passes over memory, training keeps both
    products, and the backbone's maps lie in the order of their shape. Give norms as they are,
    without '+fused'.
    """
    for module in model.modules():
        if isinstance(module, DynamicReLU):
            module.forward = types.MethodType(_released_dynamic_relu, module)
        if isinstance(module, nn.Conv2d):
            module.__class__ = nn.Conv2d
        if isinstance(module, ConvNorm):
            module.forward = module.unfolded
        if isinstance(module, MobileFormer):
            module.arrange = lambda images: images


def _released_dynamic_relu(
    self: DynamicReLU,
    features: Tensor,
    tokens: Tensor,
    assignment: Tensor | None = None,
    before: ConvNorm | None = None,
    after: ConvNorm | None = None,
    padding_mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    features = features if before is None else before(features)
    a1, a2 = self.slopes(tokens if assignment is not None else tokens[:, :1])
    update = F.dropout(two_slopes(features, a1, a2, assignment), dropout, self.training)
    return update if after is None else after(hide_padding(update, padding_mask))


class TensorPath(nn.Module):
    """Images (N, 3, H, W) to the tuple of all tensors that a model makes, without post-processing.

    Args:
        model: A backbone or a detector.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.is_detector = hasattr(model, 'bbox_head')

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the model; every image fills the batch."""
        if self.is_detector:
            return tuple(_tensors(self.model(images, samples_of(images), mode='tensor')))
        return tuple(self.model(images))


def _tensors(outputs: Any) -> list[Tensor]:  # noqa: ANN401 (whatever nesting a detector returns)
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        outputs = outputs.values()
    return [tensor for item in outputs if item is not None for tensor in _tensors(item)]


def _model_cfg(base: str) -> dict[str, Any]:
    if base in BACKBONES:
        return dict(BACKBONES[base])
    if base not in DETECTORS and not base.endswith('.py'):
        names = [*BACKBONES, *DETECTORS]
        raise UserError(f'{base} is no model of the benchmark and no config; choose from {names}.')
    cfg = Config.fromfile(config_file(DETECTORS[base]) if base in DETECTORS else base).model
    if base == 'retinanet-r50':
        cfg.backbone = dict(PEERS['resnet50'])
        cfg.neck.in_channels = [512, 1024, 2048]
    cfg.backbone.init_cfg = None
    return cfg
