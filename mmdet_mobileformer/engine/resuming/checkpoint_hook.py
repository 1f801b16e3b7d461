"""Saving checkpoints that survive a kill at any moment, and hold all that an exact resume needs."""

import os
from typing import Any

from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process, master_only
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Sampler

from mmdet_mobileformer.checkpoints.writing import write_durably
from mmdet_mobileformer.engine.finite import check_weights
from mmdet_mobileformer.engine.resuming.random_state import get_random_state, set_random_state
from mmdet_mobileformer.engine.resuming.train_loop import ResumableTrainLoop
from mmdet_mobileformer.errors import UserError, listing

INTERRUPTED = 'interrupted.pth'


@HOOKS.register_module()
class DurableCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, which never has fewer whole checkpoints than before.

    Every file is written to a temporary file, flushed to the disk and renamed; only then outdated
    ones are removed. (mmengine removes first and writes in place.) Beside mmengine's own contents
    a checkpoint holds ``resume_state``:

    - ``random_states``: the state of all random number generators of each process,
    - ``sampler_seed``: the seed of the order of the data,
    - ``inner_iter``: iterations of a begun epoch that are done, 0 between epochs,
    - ``iters_per_epoch``: the number that they are counted against,
    - ``validated``: whether the validation of the last epoch is done,
    - ``data``: classes and number of the images trained on.

    With :class:`ResumableTrainLoop` a resumed run ends with the weights of one that was never
    interrupted, bit by bit on a CPU that loads the data in the training process. Gradients that
    wait at the end of an epoch for further iterations (``accumulative_counts`` that do not divide
    its number of iterations) are not saved.

    Args:
        **kwargs: As for mmengine's CheckpointHook, but ``backend_args``: files are local.
    """

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 (mmengine's own)
        super().__init__(**kwargs | dict(backend_args=dict(backend='durable')))
        self._resumed: dict[str, Any] | None = None
        self._random_states: list[dict] = []
        self._state_before_val: dict[str, Any] | None = None
        self._validated = False

    def before_train(self, runner: Runner) -> None:
        """Prepare as mmengine does, and take up the state of a resumed checkpoint.

        Raises:
            UserError: If the checkpoint is of a run with other classes or another number of images.
        """
        super().before_train(runner)
        if self._resumed is not None:
            data = _describe_data(runner)
            _require_same_data(self._resumed.get('data', {}).get('train', data), data)
            self.last_ckpt = runner.message_hub.runtime_info.get('last_ckpt')
            self._restore(runner, self._resumed)
            self._resumed = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember a resumed checkpoint's state until training begins."""
        if runner._resume:  # as mmengine's EMAHook asks; there is no public way
            self._resumed = checkpoint.get('resume_state')
            if self._resumed is None:
                runner.logger.warning(
                    'The checkpoint holds no random states: it was saved by another hook, and the '
                    'resumed run will draw other random numbers.'
                )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add ``resume_state`` to a checkpoint that can be resumed from."""
        if 'optimizer' in checkpoint:
            checkpoint['resume_state'] = dict(
                random_states=self._random_states,
                sampler_seed=getattr(_sampler(runner.train_dataloader), 'seed', None),
                inner_iter=checkpoint['meta'].pop('inner_iter', 0),
                iters_per_epoch=len(runner.train_dataloader),
                validated=self._validated,
                data=dict(train=_describe_data(runner)),
            )

    def before_val_epoch(self, runner: Runner) -> None:
        """Remember the random state, from which an interrupted validation is done again."""
        self._state_before_val = get_random_state()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Save the best checkpoint; from here on the epoch counts as validated."""
        self._state_before_val = None
        self._validated = True
        super().after_val_epoch(runner, metrics)

    def before_train_epoch(self, runner: Runner) -> None:
        """A new epoch is not validated yet."""
        self._validated = False

    def save_interrupted(self, runner: Runner, meta: dict[str, int]) -> str:
        """Save the present state until the next regular checkpoint is there.

        Args:
            runner: The runner.
            meta: ``epoch`` and ``iter`` to resume with, and within an epoch ``inner_iter``.

        Returns:
            Path of the file.
        """
        self._prepare(runner)
        runner.save_checkpoint(
            self.out_dir, INTERRUPTED, meta=meta, backend_args=self.backend_args, **self.args
        )
        path = os.path.join(self.out_dir, INTERRUPTED)
        if is_main_process():
            write_durably(os.path.join(runner.work_dir, 'last_checkpoint'), path.encode())
        return path

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save a regular checkpoint; what mmengine wants removed before is removed afterwards."""
        self._prepare(runner)
        super()._save_checkpoint_with_step(runner, step, meta)
        self.file_backend.remove(os.path.join(self.out_dir, INTERRUPTED))
        self._remove_outdated()

    @master_only
    def _remove_outdated(self) -> None:
        for path in self.file_backend.outdated:
            # A checkpoint that the run was resumed with may name a best one of another run.
            own = os.path.realpath(os.path.dirname(path)) == os.path.realpath(self.out_dir)
            if own and os.path.isfile(path):
                os.remove(path)
        self.file_backend.outdated.clear()

    def _prepare(self, runner: Runner) -> None:
        """What every process does before the first one writes.

        Raises:
            LocalError: If a weight or a running statistic is not finite: nothing is written.
        """
        check_weights(runner.model)
        self._random_states = all_gather_object(self._state_before_val or get_random_state())

    def _restore(self, runner: Runner, state: dict[str, Any]) -> None:
        """Bring random numbers, order of the data and position in the epoch back."""
        sampler = _sampler(runner.train_dataloader)
        if state['sampler_seed'] is not None and hasattr(sampler, 'seed'):
            sampler.seed = state['sampler_seed']
        states, inner_iter = state['random_states'], state['inner_iter']
        validated = state['validated']
        before = len(states), state['iters_per_epoch']
        now = get_world_size(), len(runner.train_dataloader)
        if before == now:
            set_random_state(states[get_rank()])
        else:
            runner.logger.warning(
                f'An epoch takes {now[1]} iterations of {now[0]} processes now and took '
                f'{before[1]} of {before[0]}: random numbers are drawn anew, and a begun epoch '
                'begins anew.'
            )
            inner_iter, validated = 0, validated or inner_iter > 0
        if isinstance(runner.train_loop, ResumableTrainLoop):
            runner.train_loop.resume(inner_iter, validated, get_random_state())


def _sampler(dataloader: DataLoader) -> Sampler:
    """The sampler that orders the data, behind a batch sampler or not."""
    return getattr(dataloader.batch_sampler, 'sampler', dataloader.sampler)


def _describe_data(runner: Runner) -> dict[str, Any]:
    dataset = runner.train_dataloader.dataset
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    return dict(classes=tuple(classes), images=len(dataset))


def _require_same_data(before: dict[str, Any], now: dict[str, Any]) -> None:
    had, has = ((data['images'], tuple(data['classes'])) for data in (before, now))
    if had != has:
        had, has = (f'{images} images of {listing(c, form=str)}' for images, c in (had, has))
        raise UserError(
            f'--resume continues a run, and this run had {had}, while the data has {has}; '
            'resume it with its own data, or begin a new run from its weights by '
            '--cfg-options load_from=CHECKPOINT in another --work-dir, without --resume.'
        )
