"""Static quantisation of an exported detector to 8 bits, by ONNX Runtime."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from mmdet_mobileformer.errors import UserError

# Our decision: 'conv' leaves the bridge, the tokens, dynamic ReLU and the boxes in float32.
OPERATORS = {'conv': ('Conv',), 'all': ('Conv', 'MatMul', 'Gemm', 'Mul', 'Add')}


class _Reader(CalibrationDataReader):
    """Hands a sequence of inputs to the calibration."""

    def __init__(self, feeds: Iterable[dict[str, np.ndarray]]) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def quantize_file(
    source: str | Path, path: str | Path, feeds: Iterable[dict[str, np.ndarray]], operators: str
) -> int:
    """Write a file whose operators compute in 8 bits, with ranges seen on calibration images.

    Weights are signed, one scale a channel, and use 7 of their 8 bits: x86 processors without VNNI
    saturate sums of full products. Activations are unsigned, one scale a tensor.

    Args:
        source: What :func:`export_detector` wrote, with weights of 32 bits.
        path: The file to write; the metadata are those of ``source`` with ``weights`` 'int8'.
        feeds: Inputs of the graph by name, one batch each.
        operators: 'conv' for the convolutions alone, 'all' for products and sums as well.

    Returns:
        How many operators were quantised.

    Raises:
        UserError: If there is no input to calibrate with.
    """
    feeds = list(feeds)
    if not feeds:
        raise UserError('there is no calibration image; name a training set that has some.')
    quantize_static(
        str(source),
        str(path),
        _Reader(feeds),
        op_types_to_quantize=list(OPERATORS[operators]),
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    properties = {item.key: item.value for item in onnx.load(str(source)).metadata_props}
    model = onnx.load(str(path))
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {**properties, 'weights': 'int8'})
    onnx.save(model, str(path))
    quantised = {
        name
        for node in model.graph.node
        if node.op_type == 'DequantizeLinear'
        for name in node.output
    }
    return sum(
        node.op_type in OPERATORS[operators] and bool(quantised.intersection(node.input))
        for node in model.graph.node
    )
