"""The end-to-end detector (paper, sec. 4), built from the backbone's blocks, and anchored queries.

Part of `models`; it may import the modules of `models` beside it and what lies below.
"""

from mmdet_mobileformer.models.e2e.block import DecoderBlock
from mmdet_mobileformer.models.e2e.decoder import MobileFormerDecoder
from mmdet_mobileformer.models.e2e.detector import MobileFormerDETR
from mmdet_mobileformer.models.e2e.head import AnchorDETRHead
from mmdet_mobileformer.models.e2e.mal_loss import MatchabilityAwareLoss
from mmdet_mobileformer.models.e2e.scales import ScaleFusion, ScaleSpec

__all__ = [
    'AnchorDETRHead',
    'DecoderBlock',
    'MatchabilityAwareLoss',
    'MobileFormerDETR',
    'MobileFormerDecoder',
    'ScaleFusion',
    'ScaleSpec',
]
