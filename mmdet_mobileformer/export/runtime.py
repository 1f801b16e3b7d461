"""An exported file in the place of a detector, run by ONNX Runtime."""

import json
import logging
import os
from typing import Any

import numpy as np
import onnxruntime
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor

from mmdet_mobileformer.config_tree import data_sources
from mmdet_mobileformer.errors import UserError, listing
from mmdet_mobileformer.export.onnx_file import INPUTS, refuse_padding


@MODELS.register_module()
class OnnxDetector(BaseModel):
    """A detector that `tools/export_onnx.py` wrote; predicts as the detector it was made from.

    Args:
        file: The ONNX file.
        data_preprocessor: Config of the detector's data preprocessor.
        num_threads: Threads of ONNX Runtime; 0: as many as there are cores.

    Attributes:
        metadata: What :func:`describe` put into the file.
        classes: Names of the classes, by label.

    Raises:
        UserError: If the file does not exist or was not written by `tools/export_onnx.py`.
    """

    def __init__(
        self, file: str, data_preprocessor: dict[str, Any] | None = None, num_threads: int = 0
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.session = open_session(file, num_threads)
        self.metadata = self.session.get_modelmeta().custom_metadata_map
        self.classes = tuple(json.loads(self.metadata['classes']))

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[DetDataSample] | None = None,
        mode: str = 'predict',
    ) -> list[DetDataSample]:
        """Detect in preprocessed images (N, 3, H, W), and add ``pred_instances`` to their samples.

        Raises:
            ValueError: If ``mode`` is another than 'predict': the file holds nothing else.
        """
        if mode != 'predict' or data_samples is None:
            raise ValueError(f"an exported detector only knows mode='predict', not {mode!r}")
        values = (
            inputs.cpu().numpy(),
            np.array([sample.img_shape[:2] for sample in data_samples], np.int64),
            np.array([sample.ori_shape[:2] for sample in data_samples], np.int64),
        )
        outputs = self.session.run(None, dict(zip(INPUTS, values, strict=True)))
        parts = map(torch.from_numpy, outputs)
        for sample, boxes, scores, labels in zip(data_samples, *parts, strict=True):
            found = labels >= 0
            sample.pred_instances = InstanceData(
                bboxes=boxes[found], scores=scores[found], labels=labels[found]
            )
        return data_samples


def open_session(file: str, num_threads: int = 0) -> onnxruntime.InferenceSession:
    """Open an exported detector on the CPU.

    Raises:
        UserError: If it does not exist or is something else.
    """
    if not os.path.isfile(file):
        raise UserError(f'the exported model {file} does not exist (looked from {os.getcwd()}).')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.add_session_config_entry('session.set_denormal_as_zero', '1')  # as load_config does
    try:
        session = onnxruntime.InferenceSession(file, options, providers=['CPUExecutionProvider'])
    except Exception as error:  # ONNX Runtime has an exception for every cause
        reason = str(error).splitlines()[0]
        raise UserError(
            f'{file} cannot be opened as an ONNX model ({reason}); write it by '
            'tools/export_onnx.py.'
        ) from None
    inputs = tuple(value.name for value in session.get_inputs())
    if inputs != INPUTS:
        raise UserError(
            f'{file} has the inputs {inputs} instead of {INPUTS}; write it by tools/export_onnx.py.'
        )
    return session


def use_onnx_file(cfg: Config, file: str) -> None:
    """Put an exported file in the place of the config's detector, for evaluation.

    Raises:
        UserError: If it is no such file, was made for another number of classes than the test data
            has, or the test pipeline pads images.
    """
    refuse_padding(cfg)
    exported = onnx_classes(file)
    for source in data_sources(cfg, 'test'):
        names, own = (listing(classes, form=str) for classes in (exported, source.classes))
        if len(source.classes) != len(exported):
            raise UserError(
                f'{file} detects {len(exported)} classes ({names}), but {source.path} of '
                f'{cfg.filename} has {len(source.classes)} ({own}); name the config that it was '
                'exported with, or use --classes auto.'
            )
        if source.classes != exported:
            print_log(
                f'{file} detects the classes {names}, and the data has {own}: their labels are '
                'taken for each other.',
                level=logging.WARNING,
            )
    cfg.model = dict(
        type='OnnxDetector', file=file, data_preprocessor=cfg.model.get('data_preprocessor')
    )
    cfg.load_from = None


def onnx_classes(file: str) -> tuple[str, ...]:
    """Names of the classes that an exported file detects.

    Raises:
        UserError: If it is no such file.
    """
    return tuple(json.loads(open_session(file).get_modelmeta().custom_metadata_map['classes']))
