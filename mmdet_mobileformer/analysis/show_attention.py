"""From a trained detector and an image to sheets of its attention: ``tools/show_attention.py``."""

from __future__ import annotations

import argparse
import os

import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import MODELS
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

from mmdet_mobileformer.analysis.attention import query_paths, recorded_attention
from mmdet_mobileformer.analysis.attention_sheets import backbone_sheets, decoder_sheets
from mmdet_mobileformer.checkpoints.compare import load_whole_checkpoint
from mmdet_mobileformer.checkpoints.reading import check_checkpoint, checkpoint_classes
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.arguments import load_config
from mmdet_mobileformer.launch.data_flags import set_classes
from mmdet_mobileformer.launch.hardening import harden_loading
from mmdet_mobileformer.launch.work_dir import find_run
from mmdet_mobileformer.models.e2e import MobileFormerDETR


def show_attention(args: argparse.Namespace) -> None:
    """Run the detector of ``args.run`` once on ``args.image``, and draw into ``args.out_dir``.

    Raises:
        UserError: If the run, the image or a number does not fit.
    """
    if args.num_detections < 1:
        raise UserError(f'--num-detections {args.num_detections} must be at least 1.')
    args.config, checkpoint = find_run(args.run)
    cfg = load_config(args)
    check_checkpoint(checkpoint)
    classes = checkpoint_classes(checkpoint)
    if classes:
        set_classes(cfg, classes)
    detector = MODELS.build(cfg.model)
    load_whole_checkpoint(detector, checkpoint, cfg)
    detector.eval()
    data, image = _prepare(cfg, detector, args.image)
    with torch.no_grad(), recorded_attention(detector) as records:
        output = detector(**data, mode='tensor')
    if not records:
        raise UserError(f'{args.config} has no Mobile-Former block, so there is nothing to show.')

    what = f'{os.path.basename(args.config).removesuffix(".py")} on {os.path.basename(args.image)}'
    of_backbone = [record for record in records if record.name.startswith('backbone.')]
    sheets = backbone_sheets(image, of_backbone, what)
    if isinstance(detector, MobileFormerDETR):
        of_decoder = [record for record in records if record.name.startswith('decoder.')]
        paths = query_paths(detector, *output, args.num_detections)
        names = classes or cfg.test_dataloader.dataset.get('metainfo', {}).get('classes')
        names = names or [f'class {index}' for index in range(detector.bbox_head.num_classes)]
        sheets.update(decoder_sheets(image, of_decoder, paths, names, what))
    os.makedirs(args.out_dir, exist_ok=True)
    for name, figure in sheets.items():
        figure.savefig(os.path.join(args.out_dir, name))
    print(f'wrote {len(sheets)} sheets to {args.out_dir}: {", ".join(sheets)}')


def _prepare(cfg: Config, detector: BaseDetector, path: str) -> tuple[dict, np.ndarray]:
    """The detector's input for an image, and the image as the network sees it.

    Returns:
        What ``detector(**data)`` takes; and (h, w, 3) uint8, RGB, without padding.
    """
    if not os.path.isfile(path):
        raise UserError(f'the image {path} does not exist (looked from {os.getcwd()}).')
    harden_loading(cfg)
    pipeline = Compose(get_test_pipeline_cfg(cfg))
    data = pseudo_collate([pipeline(dict(img_path=path, img_id=0, instances=[]))])
    preprocessor = detector.data_preprocessor
    data = preprocessor(data, False)
    height, width = data['data_samples'][0].img_shape[:2]
    seen = data['inputs'][0, :, :height, :width] * preprocessor.std + preprocessor.mean
    return data, seen.permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
