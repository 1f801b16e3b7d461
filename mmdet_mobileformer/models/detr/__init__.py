"""The end-to-end detector (paper, sec. 4), built from the backbone's blocks."""

from mmdet_mobileformer.models.detr.block import HeadBlock
from mmdet_mobileformer.models.detr.decoder import MobileFormerDecoder, ScaleFusion, ScaleSpec
from mmdet_mobileformer.models.detr.detector import MobileFormerDETR

__all__ = ['HeadBlock', 'MobileFormerDETR', 'MobileFormerDecoder', 'ScaleFusion', 'ScaleSpec']
