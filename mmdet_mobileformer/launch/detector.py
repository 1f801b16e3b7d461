"""A trained detector, ready to detect: from a work directory, a checkpoint or an exported file."""

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from mmcv.transforms import Compose
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader

from mmdet_mobileformer.checkpoints.compare import classes_of, load_whole_checkpoint
from mmdet_mobileformer.config_tree import data_sources, names_class, pipeline_of
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.config import load_config
from mmdet_mobileformer.launch.data_flags import set_classes, set_data_root
from mmdet_mobileformer.launch.work_dir import find_run


@dataclass
class TrainedDetector:
    """A detector in eval mode with what belongs to it.

    Attributes:
        model: mmdet's detector, or an exported file in its place.
        cfg: The config, its classes those of the detector.
        classes: Names by label.
        palette: Colours by label, or 'random'.
    """

    model: BaseModel
    cfg: Config
    classes: tuple[str, ...]
    palette: list[tuple[int, int, int]] | str

    def pipeline(self) -> Compose:
        """The test pipeline, for arrays in the place of files and without annotations."""
        steps = pipeline_of(self.cfg, 'test')[1:]
        steps = [step for step in steps if not names_class(step, 'LoadAnnotations')]
        return Compose([dict(type='mmdet.LoadImageFromNDArray'), *steps])


def load_detector(
    words: list[str], args: argparse.Namespace, device: str | None = None
) -> TrainedDetector:
    """Build the detector that the words of a command line name.

    Args:
        words: WORK_DIR, WORK_DIR CHECKPOINT, CONFIG CHECKPOINT or FILE.onnx.
        args: ``cfg_options``, ``trust_checkpoint`` and ``data_root``, as far as there are such.
        device: Where it computes; by default on a GPU where there is one. An exported file computes
            on the CPU.

    Raises:
        UserError: If there is no such file, it does not fit, or the device is not there.
    """
    if words[0].endswith('.onnx'):
        return _exported(words[0])
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f'--device {device} cannot be used ({reason}); try --device cpu.') from None
    args.config, path = find_run(words)
    cfg = load_config(args)
    if getattr(args, 'data_root', None):
        set_data_root(cfg, args.data_root)
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    classes = classes_of(checkpoint)
    if classes and classes != _classes_of(cfg):
        set_classes(cfg, classes)
    # The checkpoint has all weights: files that the parts' init_cfg name need not be there.
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    load_whole_checkpoint(model, checkpoint, path, cfg)
    model.to(device)
    model.eval().requires_grad_(False)
    return TrainedDetector(model, cfg, classes or _classes_of(cfg), _palette(cfg))


def _exported(file: str) -> TrainedDetector:
    from mmdet_mobileformer.export import OnnxDetector  # needs ONNX Runtime

    model = OnnxDetector(file, num_threads=torch.get_num_threads()).eval()
    cfg = Config.fromstring(model.metadata['config'], '.py')
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    model.data_preprocessor = MODELS.build(cfg.model.data_preprocessor)
    return TrainedDetector(model, cfg, model.classes, _palette(cfg))


def _classes_of(cfg: Config) -> tuple[str, ...]:
    return next((source.classes for source in data_sources(cfg, 'test')), ())


def _palette(cfg: Config) -> Any:  # noqa: ANN401 (a config's value)
    """Colours of the test data set's classes; 'random' where it has none or too few."""
    for source in data_sources(cfg, 'test'):
        palette = source.metainfo.get('palette') or ()
        if len(palette) >= len(source.classes):
            return palette
    return 'random'
