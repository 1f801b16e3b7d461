"""--epochs scales the whole schedule; a warm-up takes a tenth of the run at most."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.schedule import set_epochs

CONFIGS = Path(__file__).parents[1] / 'configs'


def scaled(epochs, *schedules, max_epochs=12, **loop):
    cfg = Config(
        dict(
            train_cfg=dict(max_epochs=max_epochs, **loop),
            param_scheduler=list(schedules),
            custom_hooks=[dict(type='PipelineSwitchHook', switch_epoch=10)],
        )
    )
    set_epochs(cfg, epochs)
    return cfg


def rates(schedules, epochs, epoch_length):
    """Learning rate of each iteration, as mmengine steps the schedules."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    built = [
        PARAM_SCHEDULERS.build(
            dict(item), default_args=dict(optimizer=optimizer, epoch_length=epoch_length)
        )
        for item in schedules
    ]
    found = []
    for _ in range(epochs):
        for _ in range(epoch_length):
            found.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            for schedule in built:
                if not schedule.by_epoch:
                    schedule.step()
        for schedule in built:
            if schedule.by_epoch:
                schedule.step()
    return found


WARMUP = dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500)
STEPS = dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1)


@pytest.mark.parametrize(
    ('epochs', 'epoch_length', 'warmup', 'steps'),
    [(24, 250, 500, [16, 22]), (6, 30, 18, [4, 6]), (3, 100, 30, [2, 3])],
)
def test_steps_and_warmup(epochs, epoch_length, warmup, steps):
    cfg = scaled(epochs, WARMUP, STEPS, val_interval=1)
    assert cfg.train_cfg.max_epochs == epochs
    rate = rates(cfg.param_scheduler, epochs, epoch_length)
    assert rate[0] == pytest.approx(0.001)
    assert rate[warmup - 2] < 1 and rate[warmup - 1] == pytest.approx(1)
    drops = [i for i in range(warmup, len(rate)) if rate[i] < 0.5 * rate[i - 1]]
    assert drops == [step * epoch_length for step in steps if step < epochs]


def test_cosine_ends_with_the_run():
    cosine = dict(
        type='CosineAnnealingLR', begin=0, end=12, eta_min_ratio=0.01, convert_to_iter_based=True
    )
    cfg = scaled(5, cosine)
    rate = rates(cfg.param_scheduler, 5, 20)
    assert rate[0] == 1 and rate[50] == pytest.approx(0.505)
    assert rate[-1] == pytest.approx(0.01, abs=0.001)


def test_warmup_of_epochs_stays_in_proportion():
    warmup = dict(type='QuadraticWarmupLR', begin=0, end=3, convert_to_iter_based=True)
    assert scaled(6, warmup).param_scheduler[0].end == 1.5
    made_by_epochs = scaled(6, WARMUP).param_scheduler[0]
    assert made_by_epochs.end == 0.6
    again = scaled(60, made_by_epochs, max_epochs=6).param_scheduler[0]
    assert (again.type, again.end, again.iterations) == ('WarmupLR', 6, 500)


def test_what_falls_from_the_beginning_is_no_warmup():
    decay = dict(type='LinearLR', start_factor=1.0, end_factor=0.1, begin=0, end=12)
    assert scaled(6, decay).param_scheduler[0].end == 6


def test_validation_and_hooks_follow():
    cfg = scaled(3, val_interval=4, val_begin=8, dynamic_intervals=[(10, 1)])
    loop = cfg.train_cfg
    assert (loop.val_interval, loop.val_begin, loop.dynamic_intervals) == (1, 2, [(2, 1)])
    assert cfg.custom_hooks[0].switch_epoch == 2
    assert scaled(120, val_interval=4).train_cfg.val_interval == 4


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda path: path.stem)
def test_every_config_scales(path):
    cfg = Config.fromfile(path)
    set_epochs(cfg, 2)
    rate = rates(cfg.param_scheduler, 2, 40)
    top = max(rate)
    assert top > 0.95  # a cosine falls during the warm-up
    assert rate.index(top) <= 8


def test_what_cannot_be_scaled_is_a_sentence():
    with pytest.raises(UserError, match='--epochs 0 must be at least 1'):
        scaled(0)
    with pytest.raises(UserError, match='trains 90000 iterations'):
        scaled(3, max_epochs=None, max_iters=90000)
