"""Stopping when a loss, a matching cost or a gradient is not finite, before it does harm."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from mmdet.models.task_modules import HungarianAssigner
from mmdet.registry import TASK_UTILS
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_mobileformer.engine.acceleration import unwrap
from mmdet_mobileformer.errors import LocalError, listing

_STEP = 'training_step'  # words for it in the message hub


class NonFiniteError(LocalError):
    """A number of the training step is NaN or infinite.

    Args:
        what: Which one; the message adds the iteration and its images.
    """

    def __init__(self, what: str) -> None:
        step = MessageHub.get_current_instance().runtime_info.get(_STEP, 'an unknown step')
        super().__init__(
            f'not finite: {what} at {step}; training stopped before this step changed the weights, '
            'and the checkpoints are those of before: look at these images and boxes, or lower the '
            'learning rate, and go on by --resume.'
        )


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Checks every loss of a training step before its gradient is taken.

    It also lets the messages, the optimiser wrapper's too, name images and parameters.
    """

    def before_train(self, runner: Runner) -> None:
        """Watch what the detector's forward pass gives."""
        model = unwrap(runner.model)
        model.register_forward_hook(_check_losses)
        if isinstance(runner.optim_wrapper, _CheckedGradients):
            runner.optim_wrapper.parameter_names = {
                id(parameter): name for name, parameter in model.named_parameters()
            }

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:  # noqa: ANN401 (mmengine's own)
        """Remember which step it is, and its images."""
        epoch = f' (epoch {runner.epoch + 1})' * isinstance(runner.train_loop, EpochBasedTrainLoop)
        samples = data_batch.get('data_samples', []) if isinstance(data_batch, dict) else []
        names = [repr(getattr(sample, 'img_path', 'of unknown name')) for sample in samples]
        images = ', '.join(names) or 'of unknown name'
        step = f'iteration {runner.iter + 1}{epoch}, images {images}'
        runner.message_hub.update_info(_STEP, step, resumed=False)


def _check_losses(module: nn.Module, inputs: tuple, outputs: object) -> None:
    """Forward hook; predictions and raw outputs are no mappings and pass."""
    if not (module.training and isinstance(outputs, Mapping)):
        return
    losses = {}
    for name, value in outputs.items():
        if 'loss' in name:
            parts = [value] if isinstance(value, Tensor) else value
            losses[name] = sum(part.detach().float().mean() for part in parts)
    if losses and not torch.stack(list(losses.values())).isfinite().all():
        wrong = [f'{name} = {v.item()}' for name, v in losses.items() if not v.isfinite()]
        raise NonFiniteError(', '.join(wrong))


def check_weights(model: nn.Module) -> None:
    """Check parameters and buffers of a model.

    Raises:
        LocalError: If one is not finite; the first ones are named.
    """
    wrong = [
        name
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor) and not value.isfinite().all()
    ]
    if wrong:
        raise LocalError(
            f'not finite: {listing(wrong, 3, str)} of the model that was to be saved; '
            'nothing was written, and the checkpoints before are kept: continue from one of them '
            'by --resume.'
        )


class _CheckedGradients:
    """What the optimiser wrappers below share."""

    parameter_names: Mapping[int, str] = MappingProxyType({})

    def wrong_gradients(self) -> str:
        """Name the first parameters whose gradient is not finite; '' if there is none."""
        parameters = [
            parameter
            for group in self.optimizer.param_groups
            for parameter in group['params']
            if parameter.grad is not None
        ]
        if not parameters:
            return ''
        # The largest magnitude is NaN or infinite exactly where an element is; a sum of squares
        # could overflow by itself.
        largest = [torch.linalg.vector_norm(p.grad, float('inf')) for p in parameters]
        wrong = (~torch.stack(largest).isfinite()).nonzero().flatten().tolist()
        names = [self.parameter_names.get(id(parameters[index]), 'unnamed') for index in wrong]
        return listing(names, 3, str)


@OPTIM_WRAPPERS.register_module()
class FiniteOptimWrapper(_CheckedGradients, OptimWrapper):
    """mmengine's OptimWrapper, which checks the gradients before it clips and steps."""

    def step(self, **kwargs: object) -> None:
        """Update the parameters.

        Raises:
            NonFiniteError: If a gradient is not finite; nothing has changed then.
        """
        if wrong := self.wrong_gradients():
            raise NonFiniteError(f'the gradient of {wrong}')
        super().step(**kwargs)


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(FiniteOptimWrapper):
    """FiniteOptimWrapper that runs the forward pass under bfloat16 autocast, on CPU or GPU.

    bfloat16 has the exponent range of float32, so no loss scaling is needed; mmengine's
    AmpOptimWrapper always scales, and refuses to work on the CPU.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Gradient accumulation as in mmengine, and autocast around it."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield


@OPTIM_WRAPPERS.register_module()
class FiniteAmpOptimWrapper(_CheckedGradients, AmpOptimWrapper):
    """mmengine's AmpOptimWrapper, which stops when one step after the other has to be left out.

    A gradient that overflows in float16 is usual: the step is left out and, where the loss scale is
    dynamic, the loss is scaled less. A gradient that is not finite by itself is so at any scale.
    """

    max_skipped = 25  # a dynamic scale begins at 2^16 and is halved each time
    _skipped = 0

    def step(self, **kwargs: object) -> None:
        """Update the parameters, or leave the step out.

        Raises:
            NonFiniteError: If too many steps in a row had to be left out.
        """
        wrong = self.wrong_gradients()
        self._skipped = self._skipped + 1 if wrong else 0
        if self._skipped > self.max_skipped:
            raise NonFiniteError(f'the gradient of {wrong}, in {self._skipped} steps in a row,')
        super().step(**kwargs)


class _FiniteCost:
    """A matching cost of mmdet's whose values are checked."""

    def __init__(self, cost: Callable[..., Tensor]) -> None:
        self.cost = cost

    def __call__(
        self, pred_instances: InstanceData, gt_instances: InstanceData, **kwargs: object
    ) -> Tensor:
        value = self.cost(pred_instances=pred_instances, gt_instances=gt_instances, **kwargs)
        if not value.isfinite().all():
            cause = type(self.cost).__name__
            for kind, instances in (('annotated', gt_instances), ('predicted', pred_instances)):
                for name in ('bboxes', 'scores'):
                    part = instances.get(name)
                    part = getattr(part, 'tensor', part)  # mmdet's box structures
                    if isinstance(part, Tensor) and not part.isfinite().all():
                        cause = f'{kind} {name}'
            raise NonFiniteError(f'the cost matrix of the matching, by {cause},')
        return value


@TASK_UTILS.register_module()
class FiniteHungarianAssigner(HungarianAssigner):
    """mmdet's HungarianAssigner, which names what is not finite instead of failing inside SciPy."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 (mmdet's own)
        super().__init__(*args, **kwargs)
        self.match_costs = [_FiniteCost(cost) for cost in self.match_costs]
