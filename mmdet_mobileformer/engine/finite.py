"""Stopping when a loss, a matching cost or a gradient is not finite, before it does harm."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from mmdet.models.task_modules import HungarianAssigner
from mmdet.registry import TASK_UTILS
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_mobileformer.engine.acceleration import unwrap
from mmdet_mobileformer.errors import LocalError, listing


class NonFiniteError(LocalError):
    """A number of the training step is NaN or infinite; the message names which."""


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Checks every loss of a training step before its gradient is taken.

    It also tells the optimiser wrapper the parameters' names, for its own messages.
    """

    def before_train(self, runner: Runner) -> None:
        """Watch what the detector's forward pass gives."""
        model = unwrap(runner.model)
        model.register_forward_hook(_check_losses)
        if isinstance(runner.optim_wrapper, _NamedParameters):
            runner.optim_wrapper.parameter_names = {
                id(parameter): name for name, parameter in model.named_parameters()
            }


def _check_losses(module: nn.Module, inputs: tuple, outputs: object) -> None:
    """Forward hook; predictions and raw outputs are no mappings and pass."""
    if not (module.training and isinstance(outputs, Mapping)):
        return
    losses = {
        name: torch.stack([part.detach().float().mean() for part in _tensors(value)])
        for name, value in outputs.items()
        if 'loss' in name
    }
    if losses and not torch.cat(list(losses.values())).isfinite().all():
        wrong = [f'{name} = {v.sum().item()}' for name, v in losses.items() if not _finite(v)]
        raise NonFiniteError(f'not finite: {", ".join(wrong)}')


def _tensors(value: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def _finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())


def check_weights(model: nn.Module) -> None:
    """Check parameters and buffers of a model.

    Raises:
        LocalError: If one is not finite; the first ones are named.
    """
    wrong = [
        name
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor) and value.is_floating_point() and not _finite(value)
    ]
    if wrong:
        raise LocalError(
            f'not finite: {listing(wrong, 3, str)} of the model that was to be saved; '
            'nothing was written, and the checkpoints before are kept: continue from one of them '
            'by --resume.'
        )


class _NamedParameters:
    """What the optimiser wrappers below share."""

    parameter_names: Mapping[int, str] = MappingProxyType({})

    def check_gradients(self) -> None:
        """Check the gradients of all parameters.

        Raises:
            NonFiniteError: If one is not finite; the first parameters are named.
        """
        parameters = [
            parameter
            for group in self.optimizer.param_groups
            for parameter in group['params']
            if parameter.grad is not None
        ]
        if not parameters:
            return
        # The largest magnitude is NaN or infinite exactly where an element is; a sum of squares
        # could overflow by itself.
        largest = [torch.linalg.vector_norm(p.grad, float('inf')) for p in parameters]
        finite = torch.stack(largest).isfinite()
        if not finite.all():
            wrong = [parameters[index] for index in (~finite).nonzero().flatten().tolist()]
            names = [self.parameter_names.get(id(parameter), 'unnamed') for parameter in wrong]
            raise NonFiniteError(f'not finite: the gradient of {listing(names, 3, str)}')


@OPTIM_WRAPPERS.register_module()
class FiniteOptimWrapper(_NamedParameters, OptimWrapper):
    """mmengine's OptimWrapper, which checks the gradients before it clips and steps."""

    def step(self, **kwargs: object) -> None:
        """Update the parameters.

        Raises:
            NonFiniteError: If a gradient is not finite; nothing has changed then.
        """
        self.check_gradients()
        super().step(**kwargs)


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(FiniteOptimWrapper):
    """FiniteOptimWrapper that runs the forward pass under bfloat16 autocast, on CPU or GPU.

    bfloat16 has the exponent range of float32, so no loss scaling is needed; mmengine's
    AmpOptimWrapper always scales, and refuses to work on the CPU. Its constructor takes what
    mmengine's OptimWrapper takes.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Gradient accumulation as in mmengine, and autocast around it."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield


@OPTIM_WRAPPERS.register_module()
class FiniteAmpOptimWrapper(_NamedParameters, AmpOptimWrapper):
    """mmengine's AmpOptimWrapper, which stops when one step after the other has to be left out.

    A gradient that overflows in float16 is usual: the step is left out and, where the loss scale is
    dynamic, the loss is scaled less. A gradient that is not finite by itself is so at any scale.
    """

    max_skipped = 25  # a dynamic scale begins at 2^16 and is halved each time

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 (mmengine's own)
        super().__init__(*args, **kwargs)
        self._skipped = 0

    def step(self, **kwargs: object) -> None:
        """Update the parameters, or leave the step out.

        Raises:
            NonFiniteError: If too many steps in a row had to be left out.
        """
        try:
            self.check_gradients()
            self._skipped = 0
        except NonFiniteError as error:
            self._skipped += 1
            if self._skipped > self.max_skipped:
                raise NonFiniteError(f'{error}, in {self._skipped} steps in a row') from None
        super().step(**kwargs)


class _FiniteCost:
    """A matching cost of mmdet's whose values are checked."""

    def __init__(self, cost: Callable[..., Tensor]) -> None:
        self.cost = cost

    def __call__(
        self, pred_instances: InstanceData, gt_instances: InstanceData, **kwargs: object
    ) -> Tensor:
        value = self.cost(pred_instances=pred_instances, gt_instances=gt_instances, **kwargs)
        if not _finite(value):
            cause = type(self.cost).__name__
            for kind, instances in (('annotated', gt_instances), ('predicted', pred_instances)):
                for name in ('bboxes', 'scores'):
                    part = instances.get(name)
                    part = getattr(part, 'tensor', part)  # mmdet's box structures
                    if isinstance(part, Tensor) and not _finite(part):
                        cause = f'{kind} {name}'
            raise NonFiniteError(f'not finite: the cost matrix of the matching, by {cause}')
        return value


@TASK_UTILS.register_module()
class FiniteHungarianAssigner(HungarianAssigner):
    """mmdet's HungarianAssigner, which names what is not finite instead of failing inside SciPy."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 (mmdet's own)
        super().__init__(*args, **kwargs)
        self.match_costs = [_FiniteCost(cost) for cost in self.match_costs]
