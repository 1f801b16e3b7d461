"""Saving checkpoints that survive a kill at any moment, and hold all that an exact resume needs."""

import os
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, get_rank, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Sampler

from mmdet_mobileformer.checkpoints.writing import PARTIAL_SUFFIX, write_durably
from mmdet_mobileformer.engine.finite import check_weights
from mmdet_mobileformer.engine.resuming.random_state import get_random_state, set_random_state
from mmdet_mobileformer.engine.resuming.same_data import describe_data, require_same_data
from mmdet_mobileformer.engine.resuming.train_loop import ResumableTrainLoop

INTERRUPTED = 'interrupted.pth'


@HOOKS.register_module()
class DurableCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, which never has fewer whole checkpoints than before.

    Every file is written to a temporary file, flushed to the disk and renamed; then
    ``last_checkpoint`` names it; only then outdated ones are removed. (mmengine removes first and
    writes in place.) Beside mmengine's own contents a checkpoint holds ``resume_state``:

    - ``random_states``: the state of all random number generators of each process,
    - ``sampler_seed``: the seed of the order of the data,
    - ``inner_iter``: iterations of a begun epoch that are done, 0 between epochs,
    - ``iters_per_epoch``: the number that they are counted against,
    - ``validated``: whether the validation of the last epoch is done,
    - ``data``: classes, number and digest of the images trained and validated on.

    With :class:`ResumableTrainLoop` a resumed run ends with the weights of one that was never
    interrupted, bit by bit on a CPU that loads the data in the training process. Gradients that
    wait at the end of an epoch for further iterations (``accumulative_counts`` that do not divide
    its number of iterations) are not saved.

    Args:
        **kwargs: As for mmengine's CheckpointHook; ``backend_args`` is fixed to local files.

    Raises:
        ValueError: If a remote storage is asked for, whose writes cannot be made durable here.
    """

    def __init__(self, **kwargs: object) -> None:
        if kwargs.get('backend_args') or kwargs.get('file_client_args'):
            raise ValueError(
                "backend_args and file_client_args must be None: DurableCheckpointHook's are local"
            )
        super().__init__(**{**kwargs, 'backend_args': dict(backend='durable')})
        self._resumed: dict[str, Any] | None = None
        self._random_states: list[dict] = []
        self._data: dict[str, dict] = {}
        self._state_before_val: dict[str, Any] | None = None
        self._inner_iter = 0
        self._validated = False

    def before_train(self, runner: Runner) -> None:
        """Prepare as mmengine does, and take up the state of a resumed checkpoint."""
        super().before_train(runner)
        self._data = describe_data(runner)
        self._remove_outdated()
        if is_main_process():
            for path in Path(self.out_dir).glob(f'*.pth{PARTIAL_SUFFIX}'):
                os.remove(path)  # left by a kill during writing
        if self._resumed is not None:
            require_same_data(self._resumed.get('data', {}), self._data)
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
                inner_iter=self._inner_iter,
                iters_per_epoch=len(runner.train_dataloader),
                validated=self._validated,
                data=self._data,
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

    def save_interrupted(self, runner: Runner, meta: dict, inner_iter: int = 0) -> str:
        """Save the present state outside the usual rhythm.

        The file is replaced by the next such one, and removed with the next regular checkpoint.

        Args:
            runner: The runner.
            meta: ``epoch`` and ``iter`` to resume with.
            inner_iter: Iterations of the present epoch that are done.

        Returns:
            Path of the file.
        """
        self._inner_iter = inner_iter
        self._write(runner, INTERRUPTED, meta)
        self._inner_iter = 0
        return os.path.join(self.out_dir, INTERRUPTED)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save a regular checkpoint, then prune. Replaces mmengine's, which prunes first."""
        steps = []
        if self.max_keep_ckpts > 0:
            steps = [other for other in self.keep_ckpt_ids if other != step] + [step]
            # The file lists the outdated ones too: a run killed before they were removed removes
            # them when it is resumed (mmengine's `before_train`).
            runner.message_hub.update_info('keep_ckpt_ids', steps)
        self.last_ckpt = os.path.join(self.out_dir, self.filename_tmpl.format(step))
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._write(runner, self.filename_tmpl.format(step), meta)
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids = deque(steps, self.max_keep_ckpts)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        outdated = steps[: -self.max_keep_ckpts] if self.max_keep_ckpts > 0 else []
        self._remove([INTERRUPTED, *map(self.filename_tmpl.format, outdated)])

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Save the best checkpoint, then remove the one that it replaces."""
        super()._save_best_checkpoint(runner, metrics)
        self._remove_outdated()

    def _write(self, runner: Runner, filename: str, meta: dict) -> None:
        """Write one checkpoint and let ``last_checkpoint`` name it; every process takes part.

        Raises:
            LocalError: If a weight or a running statistic is not finite: nothing is written.
        """
        check_weights(runner.model)
        self._random_states = all_gather_object(self._state_before_val or get_random_state())
        runner.save_checkpoint(
            self.out_dir,
            filename,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            path = os.path.join(self.out_dir, filename)
            write_durably(os.path.join(runner.work_dir, 'last_checkpoint'), path.encode())

    def _remove_outdated(self) -> None:
        """Remove what mmengine wanted removed, now that what replaces it is written."""
        outdated, self.file_backend.outdated = self.file_backend.outdated, []
        self._remove(outdated)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names if is_main_process() else ():
            # A checkpoint that the run was resumed with may name a best one of another run.
            folder = os.path.dirname(name) or self.out_dir
            if os.path.realpath(folder) == os.path.realpath(self.out_dir):
                with suppress(FileNotFoundError):
                    os.remove(os.path.join(folder, os.path.basename(name)))

    def _restore(self, runner: Runner, state: dict[str, Any]) -> None:
        """Bring random numbers, order of the data and position in the epoch back."""
        sampler = _sampler(runner.train_dataloader)
        if state['sampler_seed'] is not None and hasattr(sampler, 'seed'):
            sampler.seed = state['sampler_seed']
        random_state = get_random_state()
        if get_rank() < len(state['random_states']):
            random_state = state['random_states'][get_rank()]
            set_random_state(random_state)
        else:
            runner.logger.warning('More processes than before: some draw new random numbers.')
        loop = runner.train_loop
        if isinstance(loop, ResumableTrainLoop):
            inner_iter, validated = state['inner_iter'], state['validated']
            if inner_iter and state['iters_per_epoch'] != len(loop.dataloader):
                runner.logger.warning(
                    f'An epoch has {len(loop.dataloader)} iterations now and had '
                    f'{state["iters_per_epoch"]}; the interrupted epoch begins anew.'
                )
                # Its half-trained weights are not validated.
                inner_iter, validated = 0, True
            loop.resume(inner_iter, validated, random_state)


def _sampler(dataloader: DataLoader) -> Sampler:
    """The sampler that orders the data, behind a batch sampler or not."""
    return getattr(dataloader.batch_sampler, 'sampler', dataloader.sampler)
