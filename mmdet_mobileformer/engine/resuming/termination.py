"""Ending a run on a scheduler's notice (SIGTERM) or Ctrl-C without losing what was trained."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import active_children
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, is_distributed, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmdet_mobileformer.engine.distributed import leave_group
from mmdet_mobileformer.engine.resuming.checkpoint_hook import DurableCheckpointHook

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_KEY_SECONDS = 1.0  # Ctrl-C may come twice, from the terminal and from the launcher


@HOOKS.register_module()
class TerminationHook(Hook):
    """On SIGTERM or Ctrl-C finishes the iteration, saves, and ends with code 143 or 130.

    A second Ctrl-C ends the process at once. Of several processes it is enough that one is told:
    all save together. Needs a :class:`DurableCheckpointHook`. Validation is left at once and done
    again after resuming; with several processes its end is awaited, since they may have different
    numbers of images.
    """

    priority = 'LOWEST'  # after the schedule, the EMA and the checkpoints of this moment

    def __init__(self) -> None:
        self._requested = 0  # the signal
        self._requested_at = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Begin to listen; signals reach the main thread only."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # a shell's background job
                    self._previous[number] = signal.signal(number, self._request)
        loops = [runner.train_loop, runner.val_loop]
        for loader in [loop.dataloader for loop in loops if loop is not None]:
            loader.worker_init_fn = partial(_start_worker, loader.worker_init_fn)

    def after_train(self, runner: Runner) -> None:
        """Leave the signals to whoever had them."""
        for number, previous in self._previous.items():
            signal.signal(number, previous)

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
        again = number == self._requested == signal.SIGINT
        if again and time.monotonic() - self._requested_at > SAME_KEY_SECONDS:
            for worker in active_children():
                worker.terminate()
            os._exit(128 + number)
        if not self._requested:
            self._requested, self._requested_at = number, time.monotonic()

    def _agreed(self) -> bool:
        """Whether any process was told to end; they ask each other at the same iterations."""
        if is_distributed():
            requested = torch.tensor(self._requested, device=get_device())
            all_reduce(requested, 'max')
            self._requested = int(requested)
        return bool(self._requested)

    def _stop(self, runner: Runner, meta: dict, inner_iter: int = 0) -> None:
        hook = next(hook for hook in runner.hooks if isinstance(hook, DurableCheckpointHook))
        path = hook.save_interrupted(runner, meta, inner_iter)
        code = 128 + self._requested
        if is_main_process():
            told = 'Ctrl-C' if self._requested == signal.SIGINT else 'SIGTERM'
            print(
                f'{told}: the state after {meta["iter"]} iterations is saved in {path}; run '
                f'again with --resume. This process exits with code {code}.',
                file=sys.stderr,
                flush=True,
            )
        leave_group()
        raise SystemExit(code)


def _start_worker(then: Callable[[int], None] | None, worker_id: int) -> None:
    """Start of a loader's worker: leave the process group, which torchrun and Ctrl-C tell to end.

    A training whose workers end ends in the middle of an iteration.
    """
    os.setsid()
    if then is not None:
        then(worker_id)
