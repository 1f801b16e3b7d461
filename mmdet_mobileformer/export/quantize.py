"""Static quantisation of an exported detector to 8 bits, by ONNX Runtime."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

# Our decision: 'conv' leaves the bridge, the tokens, dynamic ReLU and the boxes in float32.
OPERATORS = {'conv': ('Conv',), 'all': ('Conv', 'MatMul', 'Gemm', 'Mul', 'Add')}


class _Reader(CalibrationDataReader):
    """Hands inputs to the calibration."""

    def __init__(self, feeds: Iterable[dict[str, np.ndarray]]) -> None:
        self._feeds = iter(feeds)

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
    """
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
    onnx.helper.set_model_props(model, {**properties, 'weights': 'int8'})
    onnx.save(model, str(path))
    return sum(
        node.op_type in OPERATORS[operators]
        and any(name.endswith('_DequantizeLinear_Output') for name in node.input)
        for node in model.graph.node
    )
