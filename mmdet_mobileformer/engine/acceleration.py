"""Faster or leaner running of an unchanged model: compilation, folded norms, recomputation."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmcv.cnn.utils.fuse_conv_bn import fuse_conv_bn
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.models.block import MobileFormerBlock
from mmdet_mobileformer.models.e2e import DecoderBlock, ScaleFusion
from mmdet_mobileformer.models.mobile import LiteBottleneck
from mmdet_mobileformer.models.recompute import recomputed_in_training

PARTS = ('backbone', 'neck', 'encoder', 'decoder', 'bbox_head')

BLOCKS = (MobileFormerBlock, LiteBottleneck, DecoderBlock, ScaleFusion)

# Blocks of different widths share their code, and training and evaluation, batches of one and of
# more, full and padded ones are variants of each.
RECOMPILE_LIMIT = 128


@HOOKS.register_module()
class AccelerationHook(Hook):
    """Compiles a detector before training or testing, or folds its norms before testing.

    It acts after the weights are loaded and the hooks that change them (EMA) have done so.

    Args:
        compile_model: Whether to :func:`compile_detector`.
        fuse: Whether to :func:`fuse_detector`; for testing only.
        backend: Of ``torch.compile``.
    """

    priority = 'LOWEST'

    def __init__(
        self, compile_model: bool = False, fuse: bool = False, backend: str = 'inductor'
    ) -> None:
        self.compile_model = compile_model
        self.fuse = fuse
        self.backend = backend

    def before_train(self, runner: Runner) -> None:
        """Compile."""
        if self.compile_model:
            compile_detector(unwrap(runner.model), training=True, backend=self.backend)

    def before_test_epoch(self, runner: Runner) -> None:
        """Fold, then compile."""
        if self.fuse:
            # A copy, since an EMA takes its weights back after the evaluation.
            runner.model = copy.deepcopy(runner.model)
            fuse_detector(unwrap(runner.model))
        if self.compile_model:
            compile_detector(unwrap(runner.model), backend=self.backend)


@HOOKS.register_module()
class RecomputeHook(Hook):
    """Recomputes modules in backward, as the config key ``activation_checkpointing`` asks for.

    mmengine's own form of it lets a module run twice as it is, which moves the running statistics
    of BatchNorm twice; here no number changes.

    Args:
        modules: Their names in the detector.
    """

    def __init__(self, modules: Sequence[str] | str) -> None:
        self.modules = [modules] if isinstance(modules, str) else list(modules)

    def before_train(self, runner: Runner) -> None:
        """Wrap the modules' forward methods.

        Raises:
            UserError: If the detector has no such module.
        """
        detector = unwrap(runner.model)
        for name in self.modules:
            try:
                module = detector.get_submodule(name)
            except AttributeError:
                raise UserError(
                    f'activation_checkpointing names {name!r}, which a {type(detector).__name__} '
                    'does not have; name a module of it, as in backbone.blocks.3.'
                ) from None
            module.forward = _recomputing(module, module.forward)


def _recomputing(module: nn.Module, forward: Callable) -> Callable:
    return lambda *args, **kwargs: recomputed_in_training(module, forward)(*args, **kwargs)


def compile_detector(
    detector: nn.Module,
    training: bool = False,
    **options: Any,  # noqa: ANN401 (torch.compile's own)
) -> None:
    """Compile the parts of a detector in place; for inference, for images of any size.

    Our decision: backbone, neck, encoder, decoder and head are compiled, each as it is called, and
    those that consist of Mobile-Former blocks block by block: with free sizes the whole backbone in
    one graph takes many times longer to compile. Losses, matching and suppression depend on values
    and stay as they are. Names of weights do not change.

    Args:
        detector: Any of mmdet's detectors.
        training: Whether it is to be trained. Then every size of images is compiled anew: torch
            2.13 cannot compile a convolution's backward pass for free sizes.
        **options: For ``torch.compile``; ``dynamic=not training`` unless given.
    """
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    # Or sizes that are equal by chance when it is compiled would have to stay equal.
    torch.fx.experimental._config.use_duck_shape = False
    options = {'dynamic': not training, **options}
    for part in PARTS:
        module = getattr(detector, part, None)
        if isinstance(module, nn.Module):
            blocks = [child for child in module.modules() if isinstance(child, BLOCKS)]
            for region in blocks or [module]:
                region.compile(**options)


def fuse_detector(detector: nn.Module) -> None:
    """Fold every BatchNorm into the convolution before it, in place, for inference.

    The results stay the same up to rounding. The detector cannot be trained afterwards. A
    convolution that several norms follow (RTMDet's head shares it among its levels) becomes one for
    each.
    """
    detector.eval()
    _separate_shared_convolutions(detector)
    fuse_conv_bn(detector)


def _separate_shared_convolutions(model: nn.Module) -> None:
    seen = set()
    for parent in model.modules():
        for name, child in parent._modules.items():
            if isinstance(child, nn.Conv2d):
                if child in seen:
                    setattr(parent, name, copy.deepcopy(child))
                seen.add(child)


def unwrap(model: nn.Module) -> nn.Module:
    """The detector inside wrappers of distribution and of test-time augmentation."""
    while isinstance(getattr(model, 'module', None), nn.Module):
        model = model.module
    return model
