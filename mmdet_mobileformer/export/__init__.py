"""Export of whole detectors to ONNX, and exported files in the place of detectors.

It may import `models` and what lies below. It needs onnx, onnxscript and onnxruntime, which nothing
else here does: import it where it is used.
"""

from mmdet_mobileformer.export.check import Difference, compare
from mmdet_mobileformer.export.onnx_file import INPUTS, describe, export_detector
from mmdet_mobileformer.export.quantize import quantize_file
from mmdet_mobileformer.export.runtime import (
    OnnxDetector,
    onnx_classes,
    open_session,
    use_onnx_file,
)

__all__ = [
    'INPUTS',
    'Difference',
    'OnnxDetector',
    'compare',
    'describe',
    'export_detector',
    'onnx_classes',
    'open_session',
    'quantize_file',
    'use_onnx_file',
]
