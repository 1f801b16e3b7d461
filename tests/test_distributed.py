"""Launchers, errors that all processes of a group see, and two processes that work as one."""

import os

import pytest
import torch
import torch.distributed as torch_dist
from coco_folder import write_coco_folder
from detector_step import tiny_batch
from free_port import free_port
from mmengine.config import Config
from process_group import detector, evaluate, run_group, take_steps
from torch import nn

from mmdet_mobileformer.engine import CPUDistributedDataParallel
from mmdet_mobileformer.engine.distributed import init_distributed, on_main_process
from mmdet_mobileformer.engine.errors import UserError

VARIABLES = {
    'pytorch': dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0'),
    'slurm': dict(SLURM_PROCID='0', SLURM_NTASKS='1', SLURM_NODELIST='here'),
    'mpi': dict(OMPI_COMM_WORLD_RANK='0', OMPI_COMM_WORLD_SIZE='1'),
}


@pytest.fixture
def environment(monkeypatch):
    """A function that leaves only the given launcher's variables; they are restored afterwards."""
    names = {name for variables in VARIABLES.values() for name in variables}

    def keep(launcher, **others):
        for name in names | {'MASTER_ADDR', 'MASTER_PORT'}:
            monkeypatch.setenv(name, '')  # so that what the code sets is removed again
            monkeypatch.delenv(name)
        for name, value in {**VARIABLES.get(launcher, {}), **others}.items():
            monkeypatch.setenv(name, value)

    yield keep
    if torch_dist.is_initialized():
        torch_dist.destroy_process_group()


@pytest.mark.parametrize('launcher', VARIABLES)
def test_missing_environment_is_a_sentence(environment, launcher):
    environment(None)
    with pytest.raises(UserError, match=f'--launcher {launcher} needs'):
        init_distributed(Config(), launcher)


def test_one_process_changes_nothing(environment):
    environment(None)
    cfg = Config(dict(env_cfg=dict(dist_cfg=dict(backend='nccl'))))
    init_distributed(cfg, 'none')
    assert cfg.launcher == 'none' and cfg.env_cfg.dist_cfg.backend == 'nccl'
    assert not torch_dist.is_initialized()
    assert on_main_process(lambda value: value + 1, 1) == 2


@pytest.mark.parametrize('launcher', VARIABLES)
def test_every_launcher_joins_a_group_without_a_gpu(environment, launcher, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    environment(launcher, MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    cfg = Config(dict(find_unused_parameters=True))
    init_distributed(cfg, launcher)
    assert torch_dist.get_backend() == 'gloo' and torch_dist.get_world_size() == 1
    assert os.environ['LOCAL_RANK'] == '0'
    assert cfg.model_wrapper_cfg.type == 'CPUDistributedDataParallel'
    assert cfg.model_wrapper_cfg.find_unused_parameters is True
    model = CPUDistributedDataParallel(nn.Linear(2, 1), device_ids=[0])
    assert not model.broadcast_buffers
    assert torch.isfinite(model(torch.ones(1, 2))).all()

    def fail():
        raise UserError('the data is wrong')

    with pytest.raises(UserError, match='the data is wrong'):
        on_main_process(fail)


def batches(num_steps=3):
    """Batches of four images; those of one process have no objects in the second batch."""
    made = []
    for step in range(num_steps):
        batch = tiny_batch(3, size=(64, 64), num_images=4)
        generator = torch.Generator().manual_seed(step)
        batch['inputs'] = [
            torch.randint(0, 256, image.shape, generator=generator, dtype=torch.uint8)
            for image in batch['inputs']
        ]
        for sample in batch['data_samples'][1::2] if step == 1 else []:
            sample.gt_instances = sample.gt_instances[:0]
        batch['data_samples'][0].gt_instances = batch['data_samples'][0].gt_instances[:1]
        made.append(batch)
    return made


@pytest.mark.parametrize('kind', ['retinanet', 'e2e'])
def test_two_processes_take_the_steps_of_one(kind, tmp_path):
    # All parameters must be used in every step, or DistributedDataParallel would raise.
    weights, _ = take_steps(kind, batches())
    (first, _), (second, _) = run_group(take_steps, (kind, batches()), tmp_path)
    start = detector(kind).state_dict()
    moved = 0
    for name, value in weights.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name], value, rtol=0, atol=1e-5), name
        moved = max(moved, (value.float() - start[name].float()).abs().max().item())
    assert moved > 1e-3  # the steps were large enough to tell them apart


def test_two_processes_evaluate_as_one(tmp_path):
    data = write_coco_folder(tmp_path / 'coco', num_val=5)
    figures = evaluate(data, tmp_path / 'one')
    groups = run_group(evaluate, (data, tmp_path / 'two'), tmp_path)
    assert figures == groups[0] == groups[1]
    assert max(figures.values()) > 0  # something was found
