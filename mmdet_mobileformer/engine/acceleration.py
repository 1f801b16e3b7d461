"""Faster running of an unchanged model: compilation and folded norms."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.cnn.utils.fuse_conv_bn import fuse_conv_bn
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

PARTS = ('backbone', 'neck', 'encoder', 'decoder', 'bbox_head')

# Training and evaluation, batches of one and of more, full and padded ones: each is a variant.
RECOMPILE_LIMIT = 32


@HOOKS.register_module()
class AccelerationHook(Hook):
    """Compiles a detector before training or testing, or folds its norms before testing.

    It acts when the weights are loaded, and after the hooks that change them (EMA).

    Args:
        compile_model: Compile the detector's parts, see :func:`compile_detector`.
        fuse: Fold norms into convolutions, see :func:`fuse_detector`; for testing only.
    """

    priority = 'LOWEST'

    def __init__(self, compile_model: bool = False, fuse: bool = False) -> None:
        self.compile_model = compile_model
        self.fuse = fuse

    def before_train(self, runner: Runner) -> None:
        """Compile."""
        if self.compile_model:
            compile_detector(unwrap(runner.model))

    def before_test_epoch(self, runner: Runner) -> None:
        """Fold, then compile."""
        detector = unwrap(runner.model)
        if self.fuse:
            fuse_detector(detector)
        if self.compile_model:
            compile_detector(detector)


def compile_detector(detector: nn.Module, **options: Any) -> None:  # noqa: ANN401 (torch.compile's own)
    """Compile the parts of a detector in place, for images of any size.

    Our decision: backbone, neck, encoder, decoder and head are compiled, each as it is called;
    losses, matching and suppression depend on values and stay as they are. Names of weights do not
    change.

    Args:
        detector: Any of mmdet's detectors.
        **options: For ``torch.compile``; ``dynamic=True`` unless given.
    """
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    for part in PARTS:
        module = getattr(detector, part, None)
        if isinstance(module, nn.Module):
            module.compile(**{'dynamic': True, **options})


def fuse_detector(detector: nn.Module) -> None:
    """Fold every BatchNorm into the convolution before it, in place, for inference.

    The results stay the same up to rounding. The detector cannot be trained afterwards.
    """
    detector.eval()
    fuse_conv_bn(detector)


def unwrap(model: nn.Module) -> nn.Module:
    """The detector inside wrappers of distribution and of test-time augmentation."""
    while isinstance(getattr(model, 'module', None), nn.Module):
        model = model.module
    return model
