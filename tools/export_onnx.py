"""Write a detector as an ONNX file: ``python tools/export_onnx.py CONFIG CHECKPOINT OUT.onnx``."""

import argparse
import copy
import os
import tempfile
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config, DictAction
from mmengine.dataset import pseudo_collate

from mmdet_mobileformer.checkpoints.compare import load_whole_checkpoint
from mmdet_mobileformer.checkpoints.reading import check_checkpoint, checkpoint_classes
from mmdet_mobileformer.data_check.check import run_data_check
from mmdet_mobileformer.engine.acceleration import fuse_detector
from mmdet_mobileformer.errors import UserError, run_tool
from mmdet_mobileformer.export import (
    INPUTS,
    OPERATORS,
    OnnxDetector,
    compare,
    describe,
    export_detector,
    quantize_file,
    use_onnx_file,
)
from mmdet_mobileformer.launch import data_flags
from mmdet_mobileformer.launch.arguments import build_runner, load_config
from mmdet_mobileformer.launch.hardening import harden_loading

# Largest differences that pass, boxes in pixels and scores.
TOLERANCES = {'fp32': (0.1, 1e-3), 'fp16': (5.0, 0.05)}
NUM_PICTURES = 6


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Export a detector with its post-processing to ONNX, then compare the file '
        'with PyTorch on images of several sizes and on a padded batch'
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('out', metavar='OUT.onnx', help='file to write')
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument('--fp16', action='store_true', help='store the weights in 16 bits')
    weights.add_argument(
        '--int8',
        nargs='?',
        const='conv',
        choices=list(OPERATORS),
        help='write OUT.int8.onnx too, quantised with training images: the convolutions, '
        'or with "all" products and sums too; evaluates both files and prints the AP that it costs',
    )
    parser.add_argument(
        '--calibration-images',
        type=int,
        default=100,
        metavar='N',
        help='training images that --int8 takes its ranges from; default %(default)s',
    )
    parser.add_argument('--data-root', help='as in tools/test.py')
    parser.add_argument('--fuse', action='store_true', help='fold the norms into the convolutions')
    parser.add_argument(
        '--images',
        nargs='+',
        metavar='IMAGE',
        help="images to compare on; default: the first ones of the config's test set",
    )
    parser.add_argument(
        '--tolerance',
        nargs=2,
        type=float,
        metavar=('PIXELS', 'SCORE'),
        help='largest difference of boxes and scores; default 0.1 0.001, with --fp16 5 0.05',
    )
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='load a checkpoint that can execute code; only for your own old files',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that replace those of the config, as key=value',
    )
    return parser.parse_args()


def pictures(cfg: Config, files: list[str] | None) -> list[np.ndarray]:
    """Images (H, W, 3) uint8 BGR to compare on."""
    found = []
    for file in files or _test_images(cfg):
        picture = cv2.imread(file)
        if picture is None:
            raise UserError(f'the image {file} cannot be read; name others by --images.')
        found.append(picture)
    return found


def check_used_data(args: argparse.Namespace, cfg: Config) -> None:
    """Check the data sets whose images will be read, before anything is written.

    Raises:
        UserError: With all that is wrong, and how to do without the data.
    """
    if args.images and not args.int8:
        return
    splits = ('train', 'test') if args.int8 else ('test',)
    try:
        run_data_check(cfg, splits)
    except UserError as error:
        remedy = (
            '--int8 needs the training and the test set; name their folder by --data-root'
            if args.int8
            else 'name images to compare on by --images, or the folder of the data by --data-root'
        )
        raise UserError(f'{error}\n{remedy}.') from None


def _test_images(cfg: Config) -> Iterator[str]:
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    for index in range(min(NUM_PICTURES, len(dataset))):
        yield dataset.get_data_info(index)['img_path']


def _config_classes(cfg: Config) -> tuple[str, ...]:
    """Class names where the checkpoint does not say them."""
    dataset = cfg.test_dataloader.dataset
    metainfo = dataset.get('metainfo') or DATASETS.get(dataset.type).METAINFO
    return tuple(metainfo['classes'])


def calibration_feeds(
    cfg: Config, detector: BaseDetector, count: int
) -> Iterator[dict[str, np.ndarray]]:
    """The graph's inputs for training images that are prepared as the test images are."""
    training, test = (
        DATASETS.build(loader.dataset) for loader in (cfg.train_dataloader, cfg.test_dataloader)
    )
    for index in range(min(count, len(training))):
        item = test.pipeline(training.get_data_info(index))
        data = detector.data_preprocessor(pseudo_collate([item]), False)
        sample = data['data_samples'][0]
        sizes = [sample.img_shape[:2]], [sample.ori_shape[:2]]
        values = (data['inputs'].numpy(), *(np.array(size, np.int64) for size in sizes))
        yield dict(zip(INPUTS, values, strict=True))


def evaluate(cfg: Config, file: str, folder: str) -> float:
    """AP of an exported file on the config's test set; logs go to a folder."""
    cfg = copy.deepcopy(cfg)
    use_onnx_file(cfg, file)
    # Two runs of one name in one second would share mmengine's logger and visualiser.
    cfg.experiment_name = os.path.basename(file)
    cfg.work_dir = folder
    harden_loading(cfg, ('test',))
    return build_runner(cfg).test()['coco/bbox_mAP']


def write_quantised(args: argparse.Namespace, cfg: Config, detector: BaseDetector) -> None:
    """Quantise the exported file, and print what that costs."""
    path = f'{args.out.removesuffix(".onnx")}.int8.onnx'
    feeds = calibration_feeds(cfg, detector, args.calibration_images)
    count = quantize_file(args.out, path, feeds, args.int8)
    with tempfile.TemporaryDirectory() as folder:
        before, after = (evaluate(cfg, file, folder) for file in (args.out, path))
    sizes = [os.path.getsize(file) / 1e6 for file in (args.out, path)]
    print(
        f'wrote {path}: {count} operators in 8 bits, {sizes[1]:.1f} MB instead of {sizes[0]:.1f}; '
        f'AP {after:.3f} instead of {before:.3f}, a loss of {before - after:.3f}'
    )


def main() -> None:
    """Export and check."""
    args = parse_args()
    if not args.out.endswith('.onnx'):
        raise UserError(f'{args.out} must end in .onnx.')
    cfg = load_config(args)
    cfg.work_dir = os.path.dirname(os.path.abspath(args.out))
    if args.data_root:
        data_flags.set_data_root(cfg, args.data_root)
    check_checkpoint(args.checkpoint)
    classes = checkpoint_classes(args.checkpoint)
    if classes:
        data_flags.set_classes(cfg, classes)
    check_used_data(args, cfg)
    compared_on = pictures(cfg, args.images)

    detector = MODELS.build(cfg.model)
    load_whole_checkpoint(detector, args.checkpoint, cfg)
    detector.eval().requires_grad_(False)
    if args.fuse or args.int8:  # a norm behind a quantised convolution would need its own range
        fuse_detector(detector)
    export_detector(detector, args.out, describe(cfg, classes or _config_classes(cfg)), args.fp16)
    print(f'wrote {args.out}')

    precision = 'fp16' if args.fp16 else 'fp32'
    box, score = args.tolerance or TOLERANCES[precision]
    exported = OnnxDetector(args.out, cfg.model.data_preprocessor)
    with torch.no_grad():
        found = compare(detector, exported, compared_on, box, score)
    print(
        f'largest differences from PyTorch over {found.compared} detections: boxes {found.box:.2g} '
        f'pixels, scores {found.score:.2g}; {found.missing} detections on one side only'
    )
    if not found.compared:
        raise UserError(
            f'{args.checkpoint} detects nothing in the images, so nothing was compared; name '
            'images with objects by --images.'
        )
    if not found.within(box, score):
        raise UserError(
            f'{args.out} exceeds the tolerance of {box:g} pixels and {score:g} in score, or '
            'detects something else; do not use it, or raise --tolerance.'
        )
    if args.int8:
        write_quantised(args, cfg, detector)


if __name__ == '__main__':
    run_tool(main)
