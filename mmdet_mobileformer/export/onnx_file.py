"""Writing a detector as an ONNX file that says itself how to feed and to read it."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from mmdet.models.detectors.base import BaseDetector
from mmengine.config import Config

from mmdet_mobileformer.config_tree import names_class, pipeline_of
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.export.detections import detection_graph
from mmdet_mobileformer.export.nms import onnx_translations
from mmdet_mobileformer.version import __version__

INPUTS = ('image', 'image_size', 'original_size')
OUTPUTS = ('boxes', 'scores', 'labels')
OPSET = 18
SMALL = 1024  # initializers of fewer elements stay as they are: nothing would be saved


def export_detector(
    detector: BaseDetector, path: str | Path, metadata: dict[str, str], half_weights: bool = False
) -> None:
    """Write a detector with its post-processing as one ONNX file.

    Inputs and outputs are those of :class:`AnchorDetections`; batch, height and width are free.

    Args:
        detector: In eval mode, on the CPU.
        path: The file.
        metadata: Goes into the file's ``metadata_props``, see :func:`describe`.
        half_weights: Store large weights in 16 bits. Computation stays in 32 bits (our decision:
            a CPU converts once at load, and boxes of 1333 pixels need more than 11 bits).

    Raises:
        UserError: If the detector is of a kind that cannot be exported.
    """
    graph = detection_graph(detector)
    # Large enough that no map of a stride up to 128 has a side of 1, which torch takes for fixed;
    # sizes that differ from each other, and are no multiples of the strides, stay symbols.
    example = (
        torch.zeros(2, 3, 299, 421),
        torch.tensor([[299, 421], [289, 406]]),
        torch.tensor([[598, 842], [578, 812]]),
    )
    names = ({0: 'batch', 2: 'height', 3: 'width'}, {0: 'batch'}, {0: 'batch'})
    free = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in names)
    with torch.no_grad(), _quiet():
        program = torch.export.export(graph, example, dynamic_shapes=free, strict=False)
        model = torch.onnx.export(
            program,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            custom_translation_table=onnx_translations(),
            dynamic_shapes=names,
            dynamo=True,
            verbose=False,
        ).model_proto
    del model.graph.value_info[:]  # ONNX Runtime infers its own shapes
    for node in model.graph.node:  # the exporter's call stacks, with paths of this machine
        node.ClearField('metadata_props')
        node.ClearField('doc_string')
    if half_weights:
        halve_weights(model)
    onnx.helper.set_model_props(model, {**metadata, 'weights': 'fp16' if half_weights else 'fp32'})
    onnx.checker.check_model(model)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))


def describe(cfg: Config, classes: tuple[str, ...]) -> dict[str, str]:
    """Metadata of an exported file, every value as text.

    ``classes`` is a JSON list. ``preprocessing`` is a JSON object: ``resize`` (the settings of
    mmdet's Resize in the test pipeline, or null), ``channel_order``, ``mean`` and ``std`` in that
    order, on the scale 0 to 255, and ``pad_size_divisor`` with ``pad_value``, which is added after
    the normalisation. ``config`` is the whole config, ``version`` that of this package.
    """
    refuse_padding(cfg)
    preprocessor = cfg.model.data_preprocessor
    resize = next((t for t in pipeline_of(cfg, 'test') if names_class(t, 'Resize')), None)
    if resize:
        resize = {key: value for key, value in resize.items() if key != 'type'}
    preprocessing = dict(
        resize=resize,
        channel_order='RGB' if preprocessor.get('bgr_to_rgb') else 'BGR',
        mean=preprocessor.get('mean') or [0.0, 0.0, 0.0],
        std=preprocessor.get('std') or [1.0, 1.0, 1.0],
        pad_size_divisor=preprocessor.get('pad_size_divisor', 1),
        pad_value=preprocessor.get('pad_value', 0),
    )
    return dict(
        classes=json.dumps(list(classes)),
        preprocessing=json.dumps(preprocessing),
        detector=getattr(cfg.model.type, '__name__', cfg.model.type),
        config=cfg.pretty_text,
        version=__version__,
    )


def refuse_padding(cfg: Config) -> None:
    """Refuse a test pipeline that pads images itself.

    It makes the padding a part of the image, whose size would no longer say how much it was
    resized.

    Raises:
        UserError: If there is a Pad.
    """
    if any(names_class(transform, 'Pad') for transform in pipeline_of(cfg, 'test')):
        raise UserError(
            f'the test pipeline of {cfg.filename} has a Pad, which an exported file cannot follow; '
            'take it out: data_preprocessor.pad_size_divisor pads behind the image.'
        )


def halve_weights(model: onnx.ModelProto) -> None:
    """Store the large float weights of a graph in 16 bits, each followed by a cast to 32 bits."""
    graph = model.graph
    casts = []
    for weight in graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if weight.data_type != onnx.TensorProto.FLOAT or values.size < SMALL:
            continue
        name = weight.name
        half = onnx.numpy_helper.from_array(values.astype('float16'), f'{name}_fp16')
        weight.CopyFrom(half)
        casts.append(onnx.helper.make_node('Cast', [half.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on packages, folding and names off the screen."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(logging.NOTSET)
