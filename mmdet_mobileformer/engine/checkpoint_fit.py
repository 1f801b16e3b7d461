"""Whether a checkpoint fits the detector that it is loaded into, and what differs if not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn

from mmdet_mobileformer.checkpoints import select_state_dict
from mmdet_mobileformer.errors import UserError

SHOWN = 5


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Compares a checkpoint with the detector before it is loaded.

    mmengine loads what fits, logs the rest and goes on. Here evaluation and resuming need all
    weights. Fine-tuning (``load_from``) keeps all weights but those of the class layers where the
    number of classes differs, and says so; whole parts (backbone, neck, head) may be missing on
    either side; anything else is another architecture and stops the run.
    """

    priority = 'VERY_HIGH'  # before the EMA takes its copy

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check, and leave class layers of other classes out of the checkpoint.

        Raises:
            UserError: If the checkpoint does not fit; the message says what differs.
        """
        path = runner._load_from if isinstance(runner._load_from, str) else 'to resume from'
        _, weights = select_state_dict(checkpoint, path)
        checkpoint['state_dict'] = weights
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        difference = Difference(model, weights)
        # A training loop is built when training begins; before a test it is still a config.
        finetuning = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        class_layers = difference.class_layers() if finetuning else []
        other_shapes = set(difference.reshaped) - set(class_layers)
        if other_shapes or difference.partial or (difference.anything and not finetuning):
            raise UserError(_message(path, checkpoint, runner, difference))
        for name in class_layers:
            del weights[name]
        if class_layers:
            runner.logger.info(
                f'{path} was trained for another number of classes: everything is kept but the '
                f'class layers, which begin with new weights: {", ".join(class_layers)}.'
            )
        for name in difference.absent:
            runner.logger.info(f'{path} has no {name}: it keeps its initial weights.')
        for name in difference.surplus:
            runner.logger.info(f'{path} has a part {name} that the detector lacks: left out.')


class Difference:
    """How a checkpoint's weights differ from a detector's.

    Args:
        model: The detector.
        weights: The checkpoint's weights by name.

    Attributes:
        missing: Weights of the detector that the checkpoint lacks.
        unknown: Weights of the checkpoint that the detector lacks.
        reshaped: Weights of another shape, name to (in the checkpoint, in the detector).
        absent: Whole parts of the detector that the checkpoint lacks.
        surplus: Whole parts of the checkpoint that the detector lacks.
        partial: Those of ``missing`` and ``unknown`` that are within parts that both have.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        # mmengine forgives a missing count of batches, which old checkpoints lack.
        own = {
            name: tuple(value.shape)
            for name, value in model.state_dict().items()
            if isinstance(value, Tensor)
        }
        given = {name: tuple(value.shape) for name, value in weights.items()}
        self.missing = [
            name for name in own if name not in given and 'num_batches_tracked' not in name
        ]
        self.unknown = [name for name in given if name not in own]
        self.reshaped = {
            name: (given[name], own[name])
            for name in own
            if name in given and given[name] != own[name]
        }
        parts, given_parts = _parts(own), _parts(given)
        self.absent = sorted(parts - given_parts)
        self.surplus = sorted(given_parts - parts)
        self.partial = [
            name
            for name in self.missing + self.unknown
            if name.split('.')[0] in parts & given_parts
        ]
        self._model = model

    @property
    def anything(self) -> bool:
        """Whether there is any difference."""
        return bool(self.missing or self.unknown or self.reshaped)

    def class_layers(self) -> list[str]:
        """Reshaped weights of heads that differ by the number of classes alone.

        That is: outside backbone and neck, only the first dimension differs, and it is a multiple
        of the detector's number of classes, with or without one for the background.
        """
        return [
            name
            for name, (given, own) in self.reshaped.items()
            if name.split('.')[0] not in ('backbone', 'neck')
            and given[1:] == own[1:]
            and self._counts_classes(name, own[0])
        ]

    def _counts_classes(self, name: str, size: int) -> bool:
        module = self._model
        for part in name.split('.'):
            num_classes = getattr(module, 'num_classes', None)
            if isinstance(num_classes, int) and any(
                size % count == 0 for count in (num_classes, num_classes + 1)
            ):
                return True
            module = getattr(module, part, None)
        return False


def _parts(names: Iterable[str]) -> set[str]:
    """First words of the names: backbone, neck, head."""
    return {name.split('.')[0] for name in names}


def _message(path: str, checkpoint: dict, runner: Runner, difference: Difference) -> str:
    reasons = []
    trained = _arch(checkpoint)
    built = (runner.cfg.model.get('backbone') or {}).get('arch')
    if trained and isinstance(built, str) and trained != built:
        reasons.append(f'it is of variant {trained} and the config of variant {built}')
    classes = _num_classes(checkpoint)
    class_layers = difference.class_layers()
    if class_layers:
        given, own = difference.reshaped[class_layers[0]]
        count = f'was trained for {classes} classes' if classes else 'has other class layers'
        reasons.append(f'it {count} ({class_layers[0]} is {given}, the config makes {own})')
    details = [
        f'{name} is of shape {given} instead of {own}'
        for name, (given, own) in difference.reshaped.items()
        if name not in class_layers
    ]
    details += [f'{name} is missing' for name in difference.missing]
    details += [f'{name} is unknown' for name in difference.unknown]
    more = f' and {len(details) - SHOWN} more' if len(details) > SHOWN else ''
    if details:
        reasons.append(', '.join(details[:SHOWN]) + more)
    return (
        f'the checkpoint {path} does not fit the detector of {runner.cfg.filename}: '
        f'{"; ".join(reasons)}; name the config that it was trained with, or another checkpoint.'
    )


def _arch(checkpoint: dict) -> str | None:
    """The variant that a checkpoint's own config names, if it holds one."""
    text = str((checkpoint.get('meta') or {}).get('cfg', ''))
    found = re.search(r"arch='(\w+)'", text)
    return found and found[1]


def _num_classes(checkpoint: dict) -> int | None:
    classes = ((checkpoint.get('meta') or {}).get('dataset_meta') or {}).get('classes')
    return len(classes) if classes else None
