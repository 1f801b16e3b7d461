"""Launchers, errors that all processes of a group see, and two processes that work as one."""

import os
import shutil
import signal

import pytest
import torch
import torch.distributed as torch_dist
from coco_folder import write_coco_folder
from detector_step import tiny_batch
from free_port import free_port
from mmengine.config import Config
from process_group import detector, evaluate, resume, run_group, share, take_steps, train
from tiny_detector import plain_text, run_config
from torch import nn

from mmdet_mobileformer.checkpoints import load_checkpoint_as_data
from mmdet_mobileformer.engine import CPUDistributedDataParallel
from mmdet_mobileformer.engine.distributed import init_distributed, on_main_process
from mmdet_mobileformer.engine.resuming.find import require_resumable
from mmdet_mobileformer.errors import UserError

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


@pytest.mark.parametrize('kind', ['retinanet', 'e2e', 'anchored'])
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


MAX_EPOCHS = 4
LAST = f'epoch_{MAX_EPOCHS}.pth'
TERMINATED = 128 + signal.SIGTERM


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Two steps of two processes an epoch, and one image more to validate for the first."""
    return write_coco_folder(tmp_path_factory.mktemp('data') / 'coco', num_train=8, num_val=3)


@pytest.fixture(scope='module')
def uninterrupted(data, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('uninterrupted')
    train_in_two(data, work_dir)
    return work_dir


def train_in_two(data, work_dir, terminate_at=0, seed=4):
    """Train in two processes, of which the second alone is told to end at its given step."""
    cfg = Config(run_config(data, work_dir, MAX_EPOCHS))
    cfg.randomness = dict(seed=seed, diff_rank_seed=True)  # drop path and flips of its own in each
    cfg.auto_scale_lr = dict(enable=False, base_batch_size=8)
    cfg.val_dataloader.batch_size = 1
    cfg.val_dataloader.sampler.round_up = False
    cfg.custom_hooks = [dict(type='SecondToldHook', folder=str(work_dir), step=terminate_at)]
    (config := work_dir / 'config.py').write_text(plain_text(cfg))
    flags = ('--resume', '--auto-scale-lr', '--ema-momentum', '0.1')
    run_group(train, (config, flags), work_dir, code=TERMINATED if terminate_at else 0)


def of_both(work_dir, name):
    """What each process has written, a line each."""
    return [(work_dir / f'{name}{rank}.txt').read_text().splitlines() for rank in range(2)]


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_sigterm_to_one_of_two_processes_changes_nothing(data, uninterrupted, tmp_path):
    order = of_both(uninterrupted, 'order')
    assert len(order[0]) == 2 * MAX_EPOCHS and order[0] != order[1]
    # Within an epoch; and, two steps later, within a validation, whose end is awaited. A resumed
    # run keeps to the seed that it began with.
    for seed, step, moment in ((4, 3, (3, 1)), (5, 2, (4, 0))):
        train_in_two(data, tmp_path, terminate_at=step, seed=seed)
        assert of_both(tmp_path, 'order') == [steps[: moment[0]] for steps in order]
        path = tmp_path / 'interrupted.pth'
        assert (tmp_path / 'last_checkpoint').read_text() == str(path)
        assert [other.name for other in tmp_path.glob('interrupted*')] == [path.name]
        saved = require_resumable(str(path))
        assert (saved['meta']['iter'], saved['resume_state']['inner_iter']) == moment
    train_in_two(data, tmp_path, seed=5)
    assert of_both(tmp_path, 'order') == order
    said = [sum('continues from' in line for line in lines) for lines in of_both(tmp_path, 'said')]
    assert said == [2, 0]  # the first process searches for both
    ends = [load_checkpoint_as_data(folder / LAST) for folder in (tmp_path, uninterrupted)]
    for part in ('state_dict', 'ema_state_dict', 'optimizer'):
        assert_same(*(end[part] for end in ends))
    assert_same(*(torch.load(tmp_path / f'weights{rank}.pth') for rank in range(2)))
    states = [end['resume_state']['random_states'] for end in ends]
    assert_same(*([state['torch'] for state in ranks] for ranks in states))
    assert not torch.equal(states[0][0]['torch'], states[0][1]['torch'])


def test_learning_rate_is_scaled_by_the_images_of_both_processes(uninterrupted):
    saved = load_checkpoint_as_data(uninterrupted / LAST)
    (group,) = saved['optimizer']['param_groups']
    assert group['initial_lr'] == pytest.approx(1e-3 * (2 * 2) / 8)


def test_processes_validate_with_the_statistics_of_the_first(tmp_path):
    for mean, averaged in run_group(share, (), tmp_path):
        assert torch.equal(mean, torch.tensor([3.0, 3.0]))
        assert torch.equal(averaged, torch.tensor([7.0, 7.0]))


def test_processes_resume_from_what_the_first_finds_and_all_see(uninterrupted, tmp_path):
    folders = [tmp_path / 'first', tmp_path / 'second']
    for folder, names in zip(folders, (('epoch_3.pth', LAST), ('epoch_3.pth',)), strict=True):
        folder.mkdir()
        for name in names:
            shutil.copyfile(uninterrupted / name, folder / name)
    (folders[1] / 'other.pth').touch()
    asked = ('epoch_3.pth', 'auto', 'other.pth')
    first, second = run_group(resume, (folders, asked), tmp_path)
    assert first == second  # one machine never trains without the other
    assert first[0] == 'epoch_3.pth'
    assert LAST in first[1] and 'of rank 1 do not see this file' in first[1]
    assert 'other.pth: there is no such file' in first[2]
