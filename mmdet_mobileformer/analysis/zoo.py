"""The models of the benchmark by name: ours, their variants, and peers from mmdet's registry."""

import types
from pathlib import Path
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from torch import Tensor, nn

from mmdet_mobileformer.engine.acceleration import fuse_detector
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.models import ARCHS, DynamicReLU, MobileFormer
from mmdet_mobileformer.models.convolution import ConvNorm
from mmdet_mobileformer.models.dynamic_relu import two_slopes
from mmdet_mobileformer.models.padding import hide_padding

CONFIGS = Path(__file__).parents[2] / 'configs'

PEERS = {
    'resnet50': dict(type='ResNet', depth=50, out_indices=(1, 2, 3)),
    'mobilenetv2': dict(type='MobileNetV2', out_indices=(2, 4, 7)),
    'pvtv2-b0': dict(
        type='PyramidVisionTransformerV2', embed_dims=32, num_layers=[2, 2, 2, 2], init_cfg=None
    ),
}
E2E_ARCHS = ('508m', '294m', '214m', '151m')
VARIANTS = ('fused', 'released', 'spatial', 'cp')


def build_model(name: str) -> nn.Module:
    """Build a model with random weights.

    Args:
        name: 'mf-<arch>' (backbone alone), 'retinanet-mf-<arch>', 'e2e-mf-<arch>',
            'anchored-mf-<arch>', 'resnet50', 'mobilenetv2', 'pvtv2-b0', 'retinanet-r50',
            'detr-r50', or the path of a config, followed by any of '+fused' (norms folded into
            convolutions, for inference), '+released' (the released code's form), '+spatial' and
            '+cp' (the backbone's settings).

    Raises:
        UserError: If there is no such model or variant.
    """
    base, variants = name, []
    while '+' in base and not Path(base).is_file():  # a config's path may hold the sign, too
        base, _, variant = base.rpartition('+')
        variants.append(variant)
    for variant in variants:
        if variant not in VARIANTS:
            raise UserError(f'unknown variant +{variant} of {name}; choose from {VARIANTS}.')
    cfg = _model_cfg(base)
    backbone = cfg.get('backbone', cfg)
    if backbone['type'] == 'MobileFormer':
        if 'spatial' in variants:
            backbone['dynamic_relu'] = 'spatial'
        backbone['with_cp'] = 'cp' in variants
    elif set(variants) - {'fused'}:
        raise UserError(f'{name}: only Mobile-Former has the variants +released, +spatial and +cp.')
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
    products, and maps lie in the order of their shape. Give norms as they are, without '+fused'.
    """
    for module in model.modules():
        if isinstance(module, DynamicReLU):
            module.forward = types.MethodType(_released_dynamic_relu, module)
        if isinstance(module, ConvNorm):
            module.forward = types.MethodType(ConvModule.forward, module)
        if isinstance(module, MobileFormer):
            module.arrange = lambda images: images


def _released_dynamic_relu(
    self: DynamicReLU,
    features: Tensor,
    tokens: Tensor,
    assignment: Tensor | None = None,
    then: ConvNorm | None = None,
    padding_mask: Tensor | None = None,
) -> Tensor:
    a1, a2 = self.slopes(tokens if assignment is not None else tokens[:, :1])
    update = two_slopes(features, a1, a2, assignment)
    return update if then is None else then(hide_padding(update, padding_mask))


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
        if not self.is_detector:
            return tuple(self.model(images))
        size = tuple(images.shape[-2:])
        meta = dict(img_shape=size, batch_input_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
        samples = [DetDataSample(metainfo=meta) for _ in range(images.shape[0])]
        return tuple(_tensors(self.model(images, samples, mode='tensor')))


def _tensors(outputs: Any) -> list[Tensor]:  # noqa: ANN401 (whatever nesting a detector returns)
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        outputs = outputs.values()
    return [tensor for item in outputs if item is not None for tensor in _tensors(item)]


def _model_cfg(base: str) -> dict[str, Any]:
    if base in PEERS:
        return dict(PEERS[base])
    if base.startswith('mf-') and base[3:] in ARCHS:
        return dict(type='MobileFormer', arch=base[3:], out_indices=(2, 3, 4))
    known = {
        **{f'retinanet-mf-{arch}': f'retinanet_mf{arch}_coco.py' for arch in ARCHS},
        **{f'e2e-mf-{arch}': f'e2e_mf{arch}_coco.py' for arch in E2E_ARCHS},
        **{f'anchored-mf-{arch}': f'e2e_mf{arch}_anchored_coco.py' for arch in E2E_ARCHS},
        'retinanet-r50': 'retinanet_mf294m_coco.py',
        'detr-r50': 'ablation/detr_r50.py',
    }
    path = CONFIGS / known[base] if base in known else Path(base)
    if not path.is_file():
        raise UserError(
            f'{base} is no model of the benchmark and no config file; choose from '
            f'{[*(f"mf-{arch}" for arch in ARCHS), *PEERS, *known]}.'
        )
    cfg = Config.fromfile(str(path)).model
    if base == 'retinanet-r50':
        cfg.backbone = dict(PEERS['resnet50'])
        cfg.neck.in_channels = [512, 1024, 2048]
    cfg.backbone.init_cfg = None
    return cfg
