"""What differs between a checkpoint's weights and a model's."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from torch import Tensor, nn

from mmdet_mobileformer.checkpoints.reading import select_state_dict
from mmdet_mobileformer.errors import UserError, listing

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(weights: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by name, but of norms' counts of batches, which old files lack."""
    return {
        name: tuple(value.shape)
        for name, value in weights.items()
        if isinstance(value, Tensor) and not name.endswith('num_batches_tracked')
    }


class Difference:
    """How a checkpoint's weights differ from a model's; true where they do.

    Args:
        given: Shapes in the checkpoint, by name.
        own: Shapes in the model, by name.

    Attributes:
        missing: Weights of the model that the checkpoint lacks.
        unknown: Weights of the checkpoint that the model lacks.
        reshaped: Weights of another shape, name to (in the checkpoint, in the model).
        common: Whole parts (backbone, neck, head) that both have.
        absent: Whole parts of the model that the checkpoint lacks.
        surplus: Whole parts of the checkpoint that the model lacks.
        partial: Those of ``missing`` and ``unknown`` that are within parts that both have.
    """

    def __init__(self, given: Shapes, own: Shapes) -> None:
        self.missing = [name for name in own if name not in given]
        self.unknown = [name for name in given if name not in own]
        self.reshaped = {
            name: (given[name], own[name])
            for name in own
            if name in given and given[name] != own[name]
        }
        given_parts, parts = ({name.split('.')[0] for name in names} for names in (given, own))
        self.common = parts & given_parts
        self.absent = sorted(parts - given_parts)
        self.surplus = sorted(given_parts - parts)
        self.partial = [
            name for name in self.missing + self.unknown if name.split('.')[0] in self.common
        ]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unknown or self.reshaped)

    def describe(self, but: Collection[str] = ()) -> str:
        """Name the first differences, but those of some weights; '' if there are no others."""
        found = [
            f'{name} is of shape {given} instead of {own}'
            for name, (given, own) in self.reshaped.items()
            if name not in but
        ]
        found += [f'{name} is missing' for name in self.missing]
        found += [f'{name} is unknown' for name in self.unknown]
        return listing(found, form=str)

    def class_layers(self, model: nn.Module, classes: Sequence[str] = ()) -> list[str]:
        """Reshaped weights of heads that differ by the number of classes alone.

        That is: outside backbone and neck, only the first dimension differs, and it holds the same
        multiple of the number of classes, with or without one for the background, in both.

        Args:
            model: The model.
            classes: Those of the checkpoint, where it names them; otherwise any number will do that
                is the same for all layers.
        """
        counts = {}
        for name, (given, own) in self.reshaped.items():
            if name.split('.')[0] not in ('backbone', 'neck') and given[1:] == own[1:]:
                counts[name] = _class_counts(model, name, given[0], own[0])
        counts = {name: found for name, found in counts.items() if found}
        if classes:
            return [name for name, found in counts.items() if len(classes) in found]
        return list(counts) if counts and set.intersection(*counts.values()) else []


def _class_counts(model: nn.Module, name: str, given: int, own: int) -> set[int]:
    """Numbers of classes for which a layer of the model would have the given size."""
    module, found = model, set()
    for part in name.split('.'):
        num_classes = getattr(module, 'num_classes', None)
        for background in (0, 1) if isinstance(num_classes, int) else ():
            each, rest = divmod(own, num_classes + background)
            if not rest and given % each == 0:
                found.add(given // each - background)
        module = getattr(module, part, None)
    return found


def refuse_other_shapes(module: nn.Module) -> None:
    """Let weights of other shapes be an error however they are loaded into a module.

    mmengine's loading, and with it mmdet's ``init_detector`` and DetInferencer, logs them and goes
    on with random weights. Fine-tuning takes them out first (CheckpointFitHook).
    """
    module._register_load_state_dict_pre_hook(_refuse_other_shapes, with_module=True)


def _refuse_other_shapes(
    module: nn.Module, weights: Mapping[str, Tensor], prefix: str, *_: object
) -> None:
    for name, own in module.state_dict().items():
        given = weights.get(prefix + name)
        if isinstance(given, Tensor) and given.shape != own.shape:
            raise UserError(
                f'the checkpoint does not fit the detector: {prefix + name} is of shape '
                f'{tuple(given.shape)}, the config makes {tuple(own.shape)}; with other classes '
                'than the config, take the config that the training saved in its work directory.'
            )


def load_whole_checkpoint(
    detector: nn.Module, checkpoint: dict[str, Any], path: str, cfg: Config
) -> None:
    """Load a checkpoint that has every weight of a detector, and no other.

    Args:
        detector: The detector.
        checkpoint: The checkpoint's content.
        path: Its file or address, for messages.
        cfg: The detector's config.

    Raises:
        UserError: If the checkpoint does not fit; the message says what differs.
    """
    _, weights = select_state_dict(checkpoint, path)
    difference = Difference(shapes_of(weights), shapes_of(detector.state_dict()))
    if difference:
        raise misfit(detector, checkpoint, path, cfg, difference)
    detector.load_state_dict(weights, strict=False)  # a count of batches may be missing


def misfit(
    detector: nn.Module, checkpoint: dict[str, Any], path: str, cfg: Config, difference: Difference
) -> UserError:
    """The error that says why a checkpoint does not fit the detector of a config."""
    reasons = []
    trained = re.search(r"arch='(\w+)'", str((checkpoint.get('meta') or {}).get('cfg', '')))
    built = (cfg.model.get('backbone') or {}).get('arch')
    if trained and isinstance(built, str) and trained[1] != built:
        reasons.append(f'it is of variant {trained[1]} and the config of variant {built}')
    classes = classes_of(checkpoint)
    class_layers = difference.class_layers(detector, classes)
    if class_layers:
        given, own = difference.reshaped[class_layers[0]]
        count = f'was trained for {len(classes)} classes' if classes else 'has other class layers'
        reasons.append(f'it {count} ({class_layers[0]} is {given}, the config makes {own})')
    reasons.append(difference.describe(but=class_layers))
    return UserError(
        f'the checkpoint {path} does not fit the detector of {cfg.filename}: '
        f'{"; ".join(filter(None, reasons))}; name the config that it was trained with, or another '
        'checkpoint.'
    )


def classes_of(checkpoint: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes that a checkpoint was trained for, empty where it does not say so."""
    return tuple(((checkpoint.get('meta') or {}).get('dataset_meta') or {}).get('classes') or ())
