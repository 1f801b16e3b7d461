"""The end-to-end detector (paper, sec. 4), built from the backbone's blocks."""

from mmdet_mobileformer.models.e2e.block import DecoderBlock
from mmdet_mobileformer.models.e2e.decoder import MobileFormerDecoder, ScaleFusion, ScaleSpec
from mmdet_mobileformer.models.e2e.detector import MobileFormerDETR

__all__ = ['DecoderBlock', 'MobileFormerDETR', 'MobileFormerDecoder', 'ScaleFusion', 'ScaleSpec']
