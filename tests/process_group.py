"""Several processes that work as one group (gloo), for tests of what they agree on.

They are forked from a process that has imported everything (a fork server).
"""

import copy
import multiprocessing
import os
import sys
from types import SimpleNamespace

import pytest
import torch
import torch._dynamo  # every optimiser imports it
import torch.distributed as torch_dist
from e2e_model import MODEL, anchored
from free_port import free_port
from interrupted_run import StepHook, Steps
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import EMAHook
from mmengine.registry import HOOKS, init_default_scope
from mmengine.runner import Runner
from run_tool import run_tool
from tiny_detector import plain_text, retinanet, run_config

from mmdet_mobileformer.engine import (
    CPUDistributedDataParallel,
    FiniteOptimWrapper,
    SameStatisticsHook,
)
from mmdet_mobileformer.engine.distributed import init_distributed
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.train import set_resume


def detector(kind):
    """'retinanet', 'e2e' or 'anchored': the same weights each time, fixed statistics of norms."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    if kind == 'retinanet':
        cfg = retinanet(norm_eval=True)
    else:
        cfg = copy.deepcopy(MODEL)
        if kind == 'anchored':
            settings = anchored((0, 1, 0))
            cfg['decoder'].update(settings.pop('decoder'))
            cfg.update(settings)
        cfg['backbone']['norm_eval'] = True
        cfg['bbox_head']['sync_cls_avg_factor'] = True
    model = MODELS.build(cfg)
    model.init_weights()
    return model.train()


def take_steps(kind, batches, world_size=1, rank=0):
    """Train on this process's share of each batch, and return the weights and the losses."""
    model = detector(kind)
    wrapper = FiniteOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    if world_size > 1:
        wrapped = CPUDistributedDataParallel(model, find_unused_parameters=False)
    else:
        wrapped = model
    losses = []
    for batch in batches:
        share = {key: values[rank::world_size] for key, values in batch.items()}
        losses.append(wrapped.train_step(copy.deepcopy(share), wrapper)['loss'].item())
    return model.state_dict(), losses


def evaluate(data_root, work_dir, launcher='none'):
    """Figures of an untrained RetinaNet on a folder's validation images."""
    cfg = Config(run_config(data_root, work_dir, 1, model=retinanet(norm_eval=True)))
    init_distributed(cfg, launcher)
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.test_cfg = dict(type='TestLoop')
    return Runner.from_cfg(cfg).test()


@HOOKS.register_module()
class SecondToldHook(StepHook):
    """Tells the second process alone to end, at its given step (0: never).

    Each process writes the images of each step and the weights at the end into files of its own.
    """

    def __init__(self, folder, step):
        self.folder, self.rank = folder, get_rank()
        steps = Steps(step if self.rank == 1 else 0, 'terminate')
        super().__init__(steps, os.path.join(folder, f'order{self.rank}.txt'))

    def after_train(self, runner):
        weights = dict(runner.model.named_parameters())
        torch.save(weights, os.path.join(self.folder, f'weights{self.rank}.pth'))


def train(config, flags, launcher):
    """Run `tools/train.py`, which joins the group, and end with its code."""
    os.setsid()  # what the second process is sent must not reach the first
    Config.pretty_text = property(plain_text)  # its formatting takes longer than the training
    sys.exit(run_tool('train', config, '--launcher', launcher, *flags))


def resume(folders, checkpoints, launcher):
    """What each process, in a folder of its own, is answered when it resumes from a checkpoint."""
    os.chdir(folders[get_rank()])
    answers = []
    for checkpoint in checkpoints:
        cfg = Config(dict(work_dir='.'))
        try:
            set_resume(cfg, checkpoint)
            answers.append(cfg.load_from)
        except UserError as error:
            answers.append(str(error))
    return answers


def share(launcher):
    """The statistics of the weights and of their average that each process validates with."""
    model = torch.nn.BatchNorm1d(2)
    model.running_mean.fill_(3.0 + get_rank())
    ema = EMAHook()
    ema.ema_model = copy.deepcopy(model)
    ema.ema_model.running_mean.fill_(7.0 + get_rank())
    SameStatisticsHook().before_val_epoch(SimpleNamespace(model=model, hooks=[ema]))
    return model.running_mean, ema.ema_model.running_mean


def _member(rank, world_size, port, results, function, args):
    torch.set_num_threads(1)
    os.chdir(results)  # mmengine leaves a folder where it evaluates
    sys.stdout = open(f'{results}/said{rank}.txt', 'a', buffering=1)  # noqa: SIM115
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    if function is not train:
        torch_dist.init_process_group('gloo')
    result = (
        function(*args, world_size, rank) if function is take_steps else function(*args, 'pytorch')
    )
    torch.save(result, f'{results}/{rank}.pth')
    torch_dist.destroy_process_group()


_CONTEXT = multiprocessing.get_context('forkserver')


def run_group(function, args, folder, world_size=2, code=0):
    """Call one of the functions above in a group; return what it gives in each process.

    A function that ends its process gives nothing; all processes must end with the given code.
    """
    _CONTEXT.set_forkserver_preload([__name__, 'interrupted_run'])
    port = free_port()
    members = [
        _CONTEXT.Process(target=_member, args=(rank, world_size, port, str(folder), function, args))
        for rank in range(world_size)
    ]
    with pytest.MonkeyPatch.context() as patch:
        # The server ignores the path that it is given (Python 3.11), but not its environment.
        patch.setenv('PYTHONPATH', os.pathsep.join(filter(None, sys.path)))
        for member in members:
            member.start()
    for member in members:
        member.join(90)
        if member.is_alive():  # a hanging group must fail the test, not stop it
            member.kill()
    assert [member.exitcode for member in members] == [code] * world_size
    results = [folder / f'{rank}.pth' for rank in range(world_size)]
    return [torch.load(path, weights_only=False) for path in results if path.exists()]
