"""Exported files in 8 bits: calibrated with training images, evaluated beside the original."""

import argparse
import copy
import os
import tempfile
from collections.abc import Iterator

import numpy as np
from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from rich.console import Console
from rich.progress import track

from mmdet_mobileformer.export import INPUTS, quantize_file, use_onnx_file
from mmdet_mobileformer.launch.detector import TrainedDetector
from mmdet_mobileformer.launch.hardening import harden_loading
from mmdet_mobileformer.launch.runner import build_runner


def _calibration_feeds(
    cfg: Config, detector: BaseDetector, count: int
) -> Iterator[dict[str, np.ndarray]]:
    """The graph's inputs for training images that are prepared as the test images are."""
    training = DATASETS.build(cfg.train_dataloader.dataset)
    test = DATASETS.build(cfg.test_dataloader.dataset)
    indices = range(min(count, len(training)))
    for index in track(indices, 'Calibrating', console=Console(stderr=True)):
        item = test.pipeline(training.get_data_info(index))
        data = detector.data_preprocessor(pseudo_collate([item]), False)
        sample = data['data_samples'][0]
        sizes = [sample.img_shape[:2]], [sample.ori_shape[:2]]
        values = (data['inputs'].numpy(), *(np.array(size, np.int64) for size in sizes))
        yield dict(zip(INPUTS, values, strict=True))


def _evaluate(cfg: Config, file: str, folder: str) -> float:
    """AP of an exported file on the config's test set; logs go to a folder."""
    cfg = copy.deepcopy(cfg)
    use_onnx_file(cfg, file)
    # Two runs of one name in one second would share mmengine's logger and visualiser.
    cfg.experiment_name = os.path.basename(file)
    cfg.work_dir = folder
    harden_loading(cfg, ('test',))
    return build_runner(cfg).test()['coco/bbox_mAP']


def write_quantised(args: argparse.Namespace, source: str, detector: TrainedDetector) -> None:
    """Write the 8-bit form of an exported file, evaluate both, and print what it costs.

    Args:
        args: ``calibration_images`` says how many images give the ranges.
        source: The exported file.
        detector: What it was made from.
    """
    path = f'{source.removesuffix(".onnx")}.int8.onnx'
    feeds = _calibration_feeds(detector.cfg, detector.model, args.calibration_images)
    count = quantize_file(source, path, feeds)
    with tempfile.TemporaryDirectory() as folder:
        before, after = (_evaluate(detector.cfg, file, folder) for file in (source, path))
    sizes = [os.path.getsize(file) / 1e6 for file in (source, path)]
    print(
        f'wrote {path}: {count} convolutions in 8 bits, {sizes[1]:.1f} MB instead of '
        f'{sizes[0]:.1f}; AP {after:.3f} instead of {before:.3f}, a loss of {before - after:.3f}'
    )
