"""What tools/export_onnx.py does: write a detector as an ONNX file, in 8 bits too, and compare."""

import argparse
import copy
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress

import cv2
import numpy as np
import torch
from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from rich.console import Console
from rich.progress import track

from mmdet_mobileformer.data_check.check import run_data_check
from mmdet_mobileformer.engine.acceleration import fuse_detector
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.export import (
    INPUTS,
    OnnxDetector,
    compare,
    describe,
    export_detector,
    quantize_file,
    use_onnx_file,
)
from mmdet_mobileformer.launch.detector import TrainedDetector, load_detector
from mmdet_mobileformer.launch.hardening import harden_loading
from mmdet_mobileformer.launch.runner import build_runner

# Largest differences that pass, boxes in pixels and scores.
TOLERANCES = {'fp32': (0.1, 1e-3), 'fp16': (5.0, 0.05)}
NUM_PICTURES = 6


def export(args: argparse.Namespace) -> None:
    """Export a detector and compare the file with it; a file that differs does not stay.

    Raises:
        UserError: If the detector or the images are not there, or the file detects something else.
    """
    *words, out = args.words
    if not words or not out.endswith('.onnx'):
        raise UserError(f'{out} must end in .onnx, behind WORK_DIR or CONFIG CHECKPOINT.')
    detector = load_detector(words, args, 'cpu')
    cfg = detector.cfg
    cfg.work_dir = os.path.dirname(os.path.abspath(out))
    if args.int8:
        run_data_check(cfg, ('train', 'test'))
    compared_on = _pictures(cfg, args.images)
    if args.fuse or args.int8:  # a norm behind a quantised convolution would need its own range
        fuse_detector(detector.model)
    print('exporting, which takes half a minute or more ...', flush=True)
    export_detector(detector.model, out, describe(cfg, detector.classes), args.fp16)
    print(f'wrote {out}; comparing it ...', flush=True)
    try:
        _compare(args, out, detector, compared_on)
    except BaseException:  # Ctrl-C too: nobody knows what the file is worth
        with suppress(FileNotFoundError):
            os.remove(out)
        raise
    if args.int8:
        _write_quantised(args, out, detector)


def _pictures(cfg: Config, files: list[str] | None) -> list[np.ndarray]:
    """Images (H, W, 3) uint8 BGR to compare on."""
    if not files:
        try:
            run_data_check(cfg, ('test',))
        except UserError as error:
            raise UserError(
                f'{error}\nname images to compare on by --images, or the folder of the data by '
                '--data-root.'
            ) from None
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        count = min(NUM_PICTURES, len(dataset))
        files = [dataset.get_data_info(index)['img_path'] for index in range(count)]
    found = []
    for file in files:
        picture = cv2.imread(file)
        if picture is None:
            raise UserError(f'the image {file} cannot be read; name others by --images.')
        found.append(picture)
    return found


def _compare(
    args: argparse.Namespace, out: str, detector: TrainedDetector, pictures: list[np.ndarray]
) -> None:
    box, score = args.tolerance or TOLERANCES['fp16' if args.fp16 else 'fp32']
    exported = OnnxDetector(out, detector.cfg.model.data_preprocessor)
    with torch.no_grad():
        found = compare(detector.model, exported, pictures, box, score)
    print(
        f'largest differences from PyTorch over {found.compared} detections: boxes {found.box:.2g} '
        f'pixels, scores {found.score:.2g}; {found.missing} detections on one side only'
    )
    if not found.compared:
        raise UserError(
            f'{" ".join(args.words[:-1])} detects nothing in the images, so nothing was compared '
            f'and {out} was removed; name images with objects by --images.'
        )
    if not found.within(box, score):
        raise UserError(
            f'{out} exceeds the tolerance of {box:g} pixels and {score:g} in score, or detects '
            'something else, and was removed; raise --tolerance to keep it all the same.'
        )


def _write_quantised(args: argparse.Namespace, source: str, detector: TrainedDetector) -> None:
    """Write the 8-bit form of an exported file, evaluate both, and print what it costs."""
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
