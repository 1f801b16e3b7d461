"""Ending a run on a scheduler's notice (SIGTERM) without losing what was trained."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing import parent_process
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, is_distributed, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmdet_mobileformer.engine.distributed import leave_group
from mmdet_mobileformer.engine.resuming.checkpoint_hook import DurableCheckpointHook

EXIT_CODE = 128 + signal.SIGTERM


@HOOKS.register_module()
class TerminationHook(Hook):
    """On SIGTERM finishes the iteration, saves, and ends the process with code 143.

    Of several processes it is enough that one is told: all save together. Needs a
    :class:`DurableCheckpointHook`. Validation is left at once and done again after resuming; with
    several processes its end is awaited, since they may have different numbers of images.
    """

    priority = (
        'LOWEST'  # after the optimiser's schedule, the EMA and the checkpoints of this moment
    )

    def __init__(self) -> None:
        self._requested = False
        self._previous: Any = None

    def before_train(self, runner: Runner) -> None:
        """Begin to listen; signals reach the main thread only."""
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._request)
        if not hasattr(signal, 'sigwaitinfo'):  # macOS, Windows
            return
        loops = [runner.train_loop, runner.val_loop]
        for loader in [loop.dataloader for loop in loops if loop is not None]:
            loader.worker_init_fn = partial(_start_worker, loader.worker_init_fn)

    def after_train(self, runner: Runner) -> None:
        """Leave the signal to whoever had it."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, *args: object, **kwargs: object
    ) -> None:
        """Stop within an epoch, where the gradients of no earlier iteration wait to be used."""
        if self._agreed() and runner.optim_wrapper.should_update():
            meta = dict(epoch=runner.epoch, iter=runner.iter + 1)
            self._stop(runner, meta, inner_iter=batch_idx + 1)

    def after_val_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Stop within a validation that belongs to a training."""
        if self._requested and not is_distributed():
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):  # it has lent its weights to the model
                    hook.after_val_epoch(runner)
            self._stop(runner, dict(epoch=runner.epoch, iter=runner.iter))

    def after_val_epoch(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Stop after a validation."""
        if self._agreed():
            self._stop(runner, dict(epoch=runner.epoch, iter=runner.iter))

    def _request(self, number: int, frame: object) -> None:
        self._requested = True

    def _agreed(self) -> bool:
        """Whether any process was told to end; they ask each other at the same iterations."""
        if not is_distributed():
            return self._requested
        requested = torch.tensor(float(self._requested), device=get_device())
        all_reduce(requested, 'max')
        return bool(requested)

    def _stop(self, runner: Runner, meta: dict, inner_iter: int = 0) -> None:
        hook = next(hook for hook in runner.hooks if isinstance(hook, DurableCheckpointHook))
        path = hook.save_interrupted(runner, meta, inner_iter)
        if is_main_process():
            print(
                f'SIGTERM: the state after {meta["iter"]} iterations is saved in {path}; go on by '
                f'the same command with --resume. This process ends with code {EXIT_CODE}.',
                file=sys.stderr,
                flush=True,
            )
        leave_group()
        raise SystemExit(EXIT_CODE)


def _start_worker(then: Callable[[int], None] | None, worker_id: int) -> None:
    """Start of a loader's worker: end it on SIGTERM from the process that it works for alone.

    torchrun, Slurm and `timeout` tell the whole process group, and a training whose workers end
    ends in the middle of an iteration.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_by, args=(parent_process().pid,), daemon=True).start()
    if then is not None:
        then(worker_id)


def _end_by(sender: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != sender:
        pass
    os._exit(0)
