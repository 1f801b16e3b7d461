"""What tools/check_exports.py does: every config's exported file against PyTorch, at real sizes."""

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.models.dense_heads import AnchorHead
from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import MMLogger
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdet_mobileformer.config_tree import names_class, pipeline_of
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.export import Difference, OnnxDetector, compare, describe, export_detector
from mmdet_mobileformer.launch.config import load_config

SCALES = (1.0, 0.5, 1.25)
TOLERANCE = (0.1, 1e-3)  # pixels, score
ROW = '{:<34} {:>10} {:>6} {:>8} {:>10} {:>10}'


def check_exports(args: argparse.Namespace) -> None:
    """Export every config with random weights, and print how far each file is from PyTorch.

    Raises:
        UserError: If a file differs, or nothing was there to compare.
    """
    print(ROW.format('config', 'size', 'boxes', 'one side', 'pixels', 'score'), flush=True)
    failed = []
    for path in args.configs:
        for size, found in _check(path, args):
            row = (found.compared, found.missing, f'{found.box:.1e}', f'{found.score:.1e}')
            print(ROW.format(Path(path).stem, size, *row), flush=True)
            if not (found.compared and found.within(*TOLERANCE)):
                failed.append(f'{path} at {size}')
    if failed:
        raise UserError(f'exported files differ from PyTorch: {", ".join(failed)}.')


def _check(path: str, args: argparse.Namespace) -> Iterator[tuple[str, Difference]]:
    """Export one config, and yield each size with what differs."""
    args.config = path
    cfg = load_config(args)
    cfg.model.backbone.init_cfg = None
    detector = random_detector(cfg)
    classes = tuple(map(str, range(detector.bbox_head.num_classes)))
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, 'model.onnx')
        export_detector(detector, file, describe(cfg, classes))
        exported = OnnxDetector(file, cfg.model.data_preprocessor, torch.get_num_threads())
    for height, width in sizes_of(cfg):
        picture, batches = blobs(height, width), [[(height, width)]]
        found = compare(detector, exported, [picture], *TOLERANCE, batches=batches)
        yield f'{height}x{width}', found


def random_detector(cfg: Config) -> BaseDetector:
    """Build a config's detector with random weights that detect something.

    - RetinaNet's own initialisation scores every anchor 0.01, below the lowest score that is kept;
      here the logits of a picture are spread by 1.5 around that.
    - The end-to-end detector gets the statistics of a picture for its BatchNorms. With the initial
      ones the picture fades in a deep network: neighbouring pixels then differ in the last bits,
      and which are chosen as proposals hangs on rounding.
    """
    torch.manual_seed(0)
    detector = MODELS.build(cfg.model)
    MMLogger.get_current_instance().setLevel('WARNING')  # else it tells how each weight began
    detector.init_weights()
    detector.eval().requires_grad_(False)
    image = torch.from_numpy(blobs(256, 320)).permute(2, 0, 1)
    images = detector.data_preprocessor(dict(inputs=[image], data_samples=None))['inputs']
    head = detector.bbox_head
    if isinstance(head, AnchorHead):
        for module in head.modules():
            if isinstance(module, nn.Conv2d) and module is not head.retina_reg:
                nn.init.kaiming_normal_(module.weight)
        logits = head(detector.extract_feat(images))[0][0]
        head.retina_cls.weight.mul_(1.5 / logits.std())
    else:
        for norm in detector.modules():
            if isinstance(norm, _BatchNorm):
                norm.momentum = None  # the average over what it sees, which is one picture
                norm.train()
        detector.extract_feat(images)
        detector.eval()
    return detector


def sizes_of(cfg: Config) -> list[tuple[int, int]]:
    """(height, width) lying and upright: the size of the test pipeline, a smaller, a larger one."""
    scales = (t.get('scale') for t in pipeline_of(cfg, 'test') if names_class(t, 'Resize'))
    short, long = sorted(next(scales, None) or (320, 240))
    lying = [(round(short * factor), round(long * factor)) for factor in SCALES]
    return [size for height, width in lying for size in ((height, width), (width, height))]


def blobs(height: int, width: int) -> np.ndarray:
    """A picture (H, W, 3) of coloured blobs of many sizes."""
    generator = np.random.default_rng(0)
    layers = []
    for cell in (8, 32, 128):
        coarse = generator.integers(0, 256, (height // cell + 2, width // cell + 2, 3))
        size = width, height
        layers.append(cv2.resize(coarse.astype(np.float32), size, interpolation=cv2.INTER_CUBIC))
    return np.clip(np.mean(layers, axis=0) * 1.5 - 64, 0, 255).astype(np.uint8)
