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
    weights. Fine-tuning (``load_from``) keeps all weights but those of the class layers, unless the
    checkpoint has as many classes as the data, and says so; whole parts (backbone, neck, head) may
    be missing on either side; anything else is another architecture and stops the run.

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
        given = tuple((runner.visualizer.dataset_meta or {}).get('classes') or ())
        difference = Difference(shapes_of(weights), shapes_of(detector.state_dict()))
        # A training loop is built when training begins; before a test it is still a config.
        finetuning = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        new_layers = difference.class_layers if len(trained) != len(given) else []
        reshaped = [name for name in difference.reshaped if name not in new_layers]
        if (difference.partial or reshaped) if finetuning else difference:
            raise misfit(checkpoint, path, runner.cfg, difference)
        self._require_parts(runner.cfg.filename, path, difference)
        for name in new_layers:
            del weights[name]
        if new_layers:
            about = 'everything is kept but the class layers, which begin with new weights: '
            about += ', '.join(new_layers)
        elif finetuning:
            about = 'the class layers fit and are kept, to learn the new classes'
        else:
            about = 'their labels are taken for each other'
        if new_layers or (len(trained) == len(given) and trained != given):
            runner.logger.warning(
                f'{path} was trained for {_naming(trained)}, and the data has {_naming(given)}: '
                f'{about}.'
            )
        for name in difference.absent:
            runner.logger.info(f'{path} has no {name}: it keeps its initial weights.')
        for name in difference.surplus:
            runner.logger.info(f'{path} has a part {name} that the detector lacks: left out.')

    def _require_parts(self, config: str, path: str, difference: Difference) -> None:
        if not difference.common:
            raise UserError(
                f'the checkpoint {path} has no part in common with the detector of '
                f'{config}: its names begin with {listing(difference.surplus, form=str)}, those of '
                f'the detector with {", ".join(difference.absent)}; convert a checkpoint in the '
                "authors' format by tools/convert_checkpoint.py first."
            )
        lacking = [name for name in self.needed if name in difference.absent]
        if lacking:
            raise UserError(
                f'the checkpoint {path} has no {", ".join(lacking)}, and the pretrained weights '
                f'that {config} names do not exist; get these, or take another checkpoint.'
            )


def _naming(classes: Sequence[str]) -> str:
    return f'{len(classes)} classes ({listing(classes, form=str)})' if classes else 'other classes'
