"""Whether a checkpoint fits the detector that it is loaded into."""

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner

from mmdet_mobileformer.checkpoints import select_state_dict
from mmdet_mobileformer.checkpoints.compare import Difference, classes_of, misfit, shapes_of
from mmdet_mobileformer.engine.acceleration import unwrap
from mmdet_mobileformer.errors import UserError, listing


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Compares a checkpoint with the detector before it is loaded.

    mmengine loads what fits, logs the rest and goes on. Here evaluation and resuming need all
    weights. Fine-tuning (``load_from``) keeps all weights but those of the class layers where the
    number of classes differs, and says so; whole parts (backbone, neck, head) may be missing on
    either side; anything else is another architecture and stops the run.

    Args:
        needed: Parts of the detector that the checkpoint must have, since nothing else gives them
            weights.
    """

    priority = 'VERY_HIGH'  # before the EMA takes its copy

    def __init__(self, needed: Sequence[str] = ()) -> None:
        self.needed = needed

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check, and leave class layers of other classes out of the checkpoint.

        Raises:
            UserError: If the checkpoint does not fit; the message says what differs.
        """
        path = runner._load_from if isinstance(runner._load_from, str) else 'to resume from'
        _, weights = select_state_dict(checkpoint, path)
        checkpoint['state_dict'] = weights
        detector, trained = unwrap(runner.model), classes_of(checkpoint)
        difference = Difference(shapes_of(weights), shapes_of(detector.state_dict()))
        # A training loop is built when training begins; before a test it is still a config.
        finetuning = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        class_layers = difference.class_layers(detector, trained) if finetuning else []
        other_shapes = set(difference.reshaped) - set(class_layers)
        if other_shapes or difference.partial or (difference and not finetuning):
            raise misfit(detector, checkpoint, path, runner.cfg, difference)
        if not difference.common:
            raise UserError(
                f'the checkpoint {path} has no part in common with the detector of '
                f'{runner.cfg.filename}: its names begin with '
                f'{listing(difference.surplus, form=str)}, those of the detector with '
                f"{', '.join(difference.absent)}; convert a checkpoint in the authors' format by "
                'tools/convert_checkpoint.py first.'
            )
        lacking = [name for name in self.needed if name in difference.absent]
        if lacking:
            raise UserError(
                f'the checkpoint {path} has no {", ".join(lacking)}, and the pretrained weights '
                f'that {runner.cfg.filename} names do not exist; get these, or take another '
                'checkpoint.'
            )
        for name in class_layers:
            del weights[name]
        given = tuple((runner.visualizer.dataset_meta or {}).get('classes') or ())
        about = _classes_taken(trained, given, class_layers, finetuning)
        if about:
            runner.logger.warning(f'{path} {about}')
        for name in difference.absent:
            runner.logger.info(f'{path} has no {name}: it keeps its initial weights.')
        for name in difference.surplus:
            runner.logger.info(f'{path} has a part {name} that the detector lacks: left out.')


def _classes_taken(
    trained: Sequence[str], given: Sequence[str], class_layers: Sequence[str], finetuning: bool
) -> str:
    """What becomes of a checkpoint's classes where the data has others, else ''."""
    other = f'was trained for {_naming(trained)}, and the data has {_naming(given)}'
    if class_layers:
        return (
            f'{other}: everything is kept but the class layers, which begin with new weights: '
            f'{", ".join(class_layers)}.'
        )
    if not trained or not given or trained == given or len(trained) != len(given):
        return ''
    if finetuning:
        return f'{other}: the class layers fit and are kept, to learn the new classes.'
    return f'{other}: their labels are taken for each other.'


def _naming(classes: Sequence[str]) -> str:
    return f'{len(classes)} classes ({listing(classes, form=str)})' if classes else 'other classes'
