"""The networks: the blocks of the paper, and what is built from them.

It may import `checkpoints` and the ground floor; it knows no tool and no training.
"""

from mmdet_mobileformer.models.arch import ARCHS, ArchSpec, BlockSpec
from mmdet_mobileformer.models.backbone import MobileFormer
from mmdet_mobileformer.models.block import MobileFormerBlock
from mmdet_mobileformer.models.bridge import FormerToMobile, MobileToFormer
from mmdet_mobileformer.models.classifier import ClassificationHead, MobileFormerClassifier
from mmdet_mobileformer.models.dynamic_relu import DynamicReLU
from mmdet_mobileformer.models.e2e import DecoderBlock, MobileFormerDecoder, MobileFormerDETR
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
    'DecoderBlock',
    'DownsamplingBottleneck',
    'DynamicReLU',
    'Former',
    'FormerToMobile',
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
