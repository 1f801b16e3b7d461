"""What differs between a checkpoint's weights and a model's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from mmdet_mobileformer.checkpoints.reading import select_state_dict
from mmdet_mobileformer.errors import UserError, listing


def differences(
    given: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]], shown: int = 5
) -> str:
    """Name the keys that are missing, too many, or of another shape; '' if there are none."""
    found = [f'{key} is missing' for key in expected if key not in given]
    found += [f'{key} is unknown' for key in given if key not in expected]
    found += [
        f'{key} is of shape {tuple(given[key])} instead of {tuple(expected[key])}'
        for key in expected
        if key in given and tuple(given[key]) != tuple(expected[key])
    ]
    return listing(found, shown, str)


class Difference:
    """How a checkpoint's weights differ from a detector's.

    Args:
        model: The detector.
        weights: The checkpoint's weights by name.

    Attributes:
        missing: Weights of the detector that the checkpoint lacks.
        unknown: Weights of the checkpoint that the detector lacks.
        reshaped: Weights of another shape, name to (in the checkpoint, in the detector).
        common: Whole parts (backbone, neck, head) that both have.
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
        self.common = parts & given_parts
        self.absent = sorted(parts - given_parts)
        self.surplus = sorted(given_parts - parts)
        self.partial = [
            name for name in self.missing + self.unknown if name.split('.')[0] in self.common
        ]
        self._model = model

    @property
    def anything(self) -> bool:
        """Whether there is any difference."""
        return bool(self.missing or self.unknown or self.reshaped)

    def class_layers(self, classes: Sequence[str] = ()) -> list[str]:
        """Reshaped weights of heads that differ by the number of classes alone.

        That is: outside backbone and neck, only the first dimension differs, and it holds the same
        multiple of the number of classes, with or without one for the background, in both.

        Args:
            classes: Those of the checkpoint, where it names them; otherwise any number will do that
                is the same for all layers.
        """
        counts = {
            name: self._counts(name, given[0], own[0])
            for name, (given, own) in self.reshaped.items()
            if name.split('.')[0] not in ('backbone', 'neck') and given[1:] == own[1:]
        }
        counts = {name: found for name, found in counts.items() if found}
        if classes:
            return [name for name, found in counts.items() if len(classes) in found]
        return list(counts) if counts and set.intersection(*counts.values()) else []

    def _counts(self, name: str, given: int, own: int) -> set[int]:
        """Numbers of classes for which a layer of the detector would have the given size."""
        module, found = self._model, set()
        for part in name.split('.'):
            num_classes = getattr(module, 'num_classes', None)
            for background in (0, 1) if isinstance(num_classes, int) else ():
                each, rest = divmod(own, num_classes + background)
                if not rest and given % each == 0:
                    found.add(given // each - background)
            module = getattr(module, part, None)
        return found


def _parts(names: Iterable[str]) -> set[str]:
    """First words of the names: backbone, neck, head."""
    return {name.split('.')[0] for name in names}


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


def load_whole_checkpoint(detector: nn.Module, path: str, cfg: Config) -> None:
    """Load a checkpoint that has every weight of a detector, and no other.

    Args:
        detector: The detector.
        path: File or address.
        cfg: The detector's config.

    Raises:
        UserError: If the checkpoint does not fit; the message says what differs.
    """
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    _, weights = select_state_dict(checkpoint, path)
    difference = Difference(detector, weights)
    if difference.anything:
        raise UserError(describe_misfit(path, checkpoint, cfg, difference))
    detector.load_state_dict(weights, strict=False)  # a count of batches may be missing


def describe_misfit(path: str, checkpoint: dict, cfg: Config, difference: Difference) -> str:
    """Say in one sentence why a checkpoint does not fit the detector of a config."""
    reasons = []
    trained = _arch(checkpoint)
    built = (cfg.model.get('backbone') or {}).get('arch')
    if trained and isinstance(built, str) and trained != built:
        reasons.append(f'it is of variant {trained} and the config of variant {built}')
    classes = len(classes_of(checkpoint))
    class_layers = difference.class_layers(classes_of(checkpoint))
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
    if details:
        reasons.append(listing(details, form=str))
    return (
        f'the checkpoint {path} does not fit the detector of {cfg.filename}: '
        f'{"; ".join(reasons)}; name the config that it was trained with, or another checkpoint.'
    )


def _arch(checkpoint: dict) -> str | None:
    """The variant that a checkpoint's own config names, if it holds one."""
    text = str((checkpoint.get('meta') or {}).get('cfg', ''))
    found = re.search(r"arch='(\w+)'", text)
    return found and found[1]


def classes_of(checkpoint: dict) -> tuple[str, ...]:
    """The classes that a checkpoint was trained for, empty where it does not say so."""
    return tuple(((checkpoint.get('meta') or {}).get('dataset_meta') or {}).get('classes') or ())
