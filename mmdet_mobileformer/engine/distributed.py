"""Several processes, with and without GPUs.

The engine is PyTorch's DistributedDataParallel under torchrun (or Slurm, or MPI), driven by
mmengine. What mmengine assumes and a CPU does not give is handled here and nowhere else: a current
CUDA device for the process group, and `device_ids` for DDP.
"""

import os
import subprocess
from typing import Any

import torch
import torch.distributed as torch_dist
from mmengine.config import Config
from mmengine.dist import barrier, broadcast, broadcast_object_list, init_dist, is_distributed
from mmengine.hooks import EMAHook, Hook
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import HOOKS, MODEL_WRAPPERS
from mmengine.runner import Runner
from torch import nn

from mmdet_mobileformer.errors import UserError


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """MMDistributedDataParallel for a model on the CPU.

    mmengine always hands DDP the number of a GPU, which DDP refuses for a model on the CPU.

    Args:
        module: The model, on the CPU.
        device_ids: What mmengine gives; not used.
        broadcast_buffers: As in DDP; False as in mmengine's default wrapper.
        **kwargs: As for MMDistributedDataParallel.
    """

    def __init__(
        self,
        module: nn.Module,
        device_ids: list[int] | None = None,
        broadcast_buffers: bool = False,
        **kwargs: Any,  # noqa: ANN401 (DDP's own arguments)
    ) -> None:
        super().__init__(module=module, broadcast_buffers=broadcast_buffers, **kwargs)


def leave_group() -> None:
    """Wait for all processes of the group, and leave it.

    One that ends within the group may be aborted by a connection that another has closed, and
    torchrun ends those that still write when the first one is done.
    """
    if is_distributed():
        barrier()
        torch_dist.destroy_process_group()


@HOOKS.register_module()
class SameStatisticsHook(Hook):
    """Lets all processes validate with the running statistics that a checkpoint holds.

    Each process moves the statistics of its own images, and the first one's are saved: without this
    a validation's figures would be those of no checkpoint.
    """

    priority = 'VERY_HIGH'  # before the EMA lends its weights

    def before_val_epoch(self, runner: Runner) -> None:
        """Take the first process's buffers, those of the averaged weights too."""
        if not is_distributed():
            return
        averaged = [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]
        for model in (runner.model, *averaged):
            for buffer in model.buffers():
                broadcast(buffer, src=0)


def init_distributed(cfg: Config, launcher: str) -> None:
    """Join the process group and prepare the config for this machine, before the Runner is built.

    With GPUs this is mmengine's `init_dist` with the config's backend; without, the backend is gloo
    and the model is wrapped in :class:`CPUDistributedDataParallel`. Nothing happens for 'none'.

    Args:
        cfg: The config; ``env_cfg.dist_cfg`` and ``model_wrapper_cfg`` may change.
        launcher: 'none', 'pytorch' (torchrun), 'slurm' or 'mpi'.

    Raises:
        UserError: If the launcher's environment variables are missing.
    """
    cfg.launcher = launcher
    if launcher == 'none':
        return
    dist_cfg = cfg.setdefault('env_cfg', {}).setdefault('dist_cfg', dict(backend='nccl'))
    _require_environment(launcher)
    if torch.cuda.is_available():
        if not is_distributed():
            init_dist(launcher, **dist_cfg)
        return
    dist_cfg['backend'] = 'gloo'
    wrapper_cfg = cfg.get('model_wrapper_cfg') or dict(
        find_unused_parameters=cfg.get('find_unused_parameters', False)
    )
    if wrapper_cfg.get('type') in (None, 'MMDistributedDataParallel'):
        cfg.model_wrapper_cfg = dict(wrapper_cfg, type='CPUDistributedDataParallel')
    if not is_distributed():
        _export_ranks(launcher)
        torch_dist.init_process_group('gloo')


def on_main_process(function: Any, *args: Any) -> Any:  # noqa: ANN401 (whatever function gives)
    """Call a function on the first process only and give its result to every process.

    A :class:`UserError` is raised in every process, so that they all end together.
    """
    result: list[Any] = [None, None]
    if not is_distributed() or torch_dist.get_rank() == 0:
        try:
            result[0] = function(*args)
        except UserError as error:
            result[1] = str(error)
    broadcast_object_list(result)
    if result[1] is not None:
        raise UserError(result[1])
    return result[0]


_REQUIRED = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'MASTER_ADDR'),
}
_STARTERS = {
    'pytorch': 'torchrun, as tools/dist_train.sh and tools/dist_test.sh do',
    'slurm': 'srun',
    'mpi': 'mpirun, with MASTER_ADDR set',
}


def _require_environment(launcher: str) -> None:
    missing = [name for name in _REQUIRED[launcher] if name not in os.environ]
    if missing:
        raise UserError(
            f'--launcher {launcher} needs {", ".join(missing)} in the environment; '
            f'start it by {_STARTERS[launcher]}, or leave --launcher out for one process.'
        )


def _export_ranks(launcher: str) -> None:
    """Translate the variables of Slurm or Open MPI into those of torch.distributed."""
    env = os.environ
    env.setdefault('MASTER_PORT', '29500')
    if launcher == 'slurm':
        env['RANK'], env['WORLD_SIZE'] = env['SLURM_PROCID'], env['SLURM_NTASKS']
        env['LOCAL_RANK'] = env.get('SLURM_LOCALID', '0')
        if 'MASTER_ADDR' not in env:
            hosts = subprocess.check_output(
                ['scontrol', 'show', 'hostnames', env['SLURM_NODELIST']], text=True
            )
            env['MASTER_ADDR'] = hosts.split()[0]
    elif launcher == 'mpi':
        env['RANK'], env['WORLD_SIZE'] = env['OMPI_COMM_WORLD_RANK'], env['OMPI_COMM_WORLD_SIZE']
        env['LOCAL_RANK'] = env.get('OMPI_COMM_WORLD_LOCAL_RANK', '0')
