"""A training in a process of its own, which can be killed at any of its steps.

The processes are forked from one that has imported everything (a fork server), so that a run costs
a second.
"""

import errno
import gc
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
from functools import partial

import pytest
import torch
import torch._dynamo  # every optimiser imports it
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tiny_detector import plain_text, run_config

from mmdet_mobileformer.errors import run_tool
from mmdet_mobileformer.launch.hardening import harden_loading, harden_training
from mmdet_mobileformer.launch.safe_loading import load_checkpoints_as_data
from mmdet_mobileformer.launch.train import set_ema, set_resume

register_all_modules(init_default_scope=False)


class Steps:
    """Counts the steps of a run and does something at one of them.

    A step is an iteration of training or validation, or one of the operations on files: half a file
    is written, a file is whole, it is renamed, an old one is removed.
    """

    def __init__(self, step, action):
        self.left, self.action = step, action
        for name in ('fsync', 'replace', 'remove'):
            setattr(os, name, self._counted(name, getattr(os, name)))

    def __call__(self, name, *args):
        self.left -= 1
        if self.left == 0:
            ACTIONS[self.action](name, *args)

    def _counted(self, name, function):
        def counted(*args):
            self(name, *args)
            function(*args)

        return counted


def _kill(name, *args):
    if name == 'fsync' and stat.S_ISREG(os.fstat(args[0]).st_mode):
        os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)  # as if killed while writing
    os.kill(os.getpid(), signal.SIGKILL)


def _fill_disk(name, *args):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.fsync = full


def _tell_group(signal_name, name, *args):
    """As torchrun, Slurm and a terminal do: another process tells the group, loader workers too."""
    command = ['bash', '-c', f'kill -{signal_name} -- -{os.getpid()}']
    subprocess.run(command, check=True, start_new_session=True)


ACTIONS = dict(
    kill=_kill,
    terminate=partial(_tell_group, 'TERM'),
    interrupt=partial(_tell_group, 'INT'),
    fill_disk=_fill_disk,
)


class StepHook(Hook):
    """Counts iterations and writes down which images each one trained on."""

    def __init__(self, steps, order_file):
        self.steps, self.order_file = steps, order_file

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        names = [os.path.basename(sample.img_path) for sample in data_batch['data_samples']]
        with open(self.order_file, 'a') as file:
            file.write(f'{runner.iter} {" ".join(names)}\n')
        self.steps('iteration')

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.steps('validation')


def _train(data_root, work_dir, max_epochs, num_workers, step, action):
    # A shell that runs the tests in the background has Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    torch.set_num_threads(1)
    gc.freeze()
    Config.pretty_text = property(plain_text)  # its formatting takes longer than the training
    sys.argv = ['train.py']
    os.makedirs(work_dir, exist_ok=True)
    sys.stdout = sys.stderr = open(os.path.join(work_dir, 'output.txt'), 'a', buffering=1)  # noqa: SIM115
    steps = Steps(step, action)

    def main():
        load_checkpoints_as_data()
        cfg = Config(run_config(data_root, work_dir, max_epochs, num_workers=num_workers))
        set_ema(cfg, 0.1)
        set_resume(cfg, 'auto')
        harden_training(cfg)
        harden_loading(cfg)
        runner = Runner.from_cfg(cfg)
        runner.register_hook(StepHook(steps, os.path.join(work_dir, 'order.txt')))
        runner.train()

    run_tool(main)


_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload([__name__])


def start_training(data_root, work_dir, max_epochs, num_workers=0, step=0, action='kill'):
    """Train, continuing what is in ``work_dir``, and do ``action`` at the given step (0: never).

    Returns the process's exit code; what it says goes to ``output.txt``.
    """
    process = _CONTEXT.Process(
        target=_train,
        args=(str(data_root), str(work_dir), max_epochs, num_workers, step, action),
    )
    with pytest.MonkeyPatch.context() as patch:
        # The server ignores the path that it is given (Python 3.11), but not its environment.
        patch.setenv('PYTHONPATH', os.pathsep.join(filter(None, sys.path)))
        process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
        process.join()
        raise TimeoutError((work_dir / 'output.txt').read_text()[-2000:])
    return process.exitcode
