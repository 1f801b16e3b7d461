"""The networks: the blocks of the paper, and what is built from them."""

from mmdet_mobileformer.models.arch import ARCHS, ArchSpec, BlockSpec
from mmdet_mobileformer.models.backbone import MobileFormer
from mmdet_mobileformer.models.block import MobileFormerBlock
from mmdet_mobileformer.models.bridge import FormerToMobile, MobileToFormer
from mmdet_mobileformer.models.classifier import ClassificationHead, MobileFormerClassifier
from mmdet_mobileformer.models.detr import HeadBlock, MobileFormerDecoder, MobileFormerDETR
from mmdet_mobileformer.models.dynamic_relu import DynamicReLU
from mmdet_mobileformer.models.former import Former
from mmdet_mobileformer.models.mobile import Bottleneck, DownsamplingBottleneck, LiteBottleneck
from mmdet_mobileformer.models.norm import LayerNorm2d
from mmdet_mobileformer.models.retina_head import SyncedRetinaHead

__all__ = [
    'ARCHS',
    'ArchSpec',
    'BlockSpec',
    'Bottleneck',
    'ClassificationHead',
    'DownsamplingBottleneck',
    'DynamicReLU',
    'Former',
    'FormerToMobile',
    'HeadBlock',
    'LayerNorm2d',
    'LiteBottleneck',
    'MobileFormer',
    'MobileFormerBlock',
    'MobileFormerClassifier',
    'MobileFormerDETR',
    'MobileFormerDecoder',
    'MobileToFormer',
    'SyncedRetinaHead',
]
