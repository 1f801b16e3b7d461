"""--cfg-options that fit, that are misspelt, and that do not fit."""

import pytest
from mmengine.config import Config

from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.config import _settle_workers, merge_options


@pytest.fixture
def cfg():
    loader = dict(num_workers=2, persistent_workers=True, prefetch_factor=4)
    return Config(
        dict(
            train_cfg=dict(max_epochs=12),
            optim_wrapper=dict(optimizer=dict(lr=1e-3), loss_scale='dynamic'),
            train_dataloader=dict(loader, dataset=dict(pipeline=[dict(type='A'), dict(scale=1)])),
            val_dataloader=dict(loader),
            metric=['bbox', 'segm'],
            load_from=None,
        ),
    )


FITTING = {
    'train_cfg.max_epochs': 3,
    'optim_wrapper.optimizer.lr': 1,
    'optim_wrapper.loss_scale': 512.0,
    'train_dataloader.persistent_workers': False,
    'train_dataloader.dataset.pipeline.1.scale': [640, 480],
    'train_dataloader.dataset.indices': 40,
    'metric': 'bbox',
    'load_from': 'a.pth',
    'randomness.seed': 0,
    'auto_scale_lr.base_batch_size': 16,
}


@pytest.mark.parametrize('key', FITTING)
def test_what_fits_is_merged_in_silence(cfg, capsys, key):
    merge_options(cfg, {key: FITTING[key]})
    node = cfg
    for part in key.split('.'):
        node = node[int(part)] if part.isdigit() else node[part]
    assert node == FITTING[key]
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ('key', 'said'),
    [
        ('optim_wraper.optimizer.lr', 'did you mean optim_wrapper?'),
        ('train_cfg.max_epoch', 'did you mean train_cfg.max_epochs?'),
        ('random', 'did you mean randomness?'),
        ('quux', 'the config has no quux, and nothing reads it'),
    ],
)
def test_an_invented_key_is_a_warning_that_names_the_nearest(cfg, capsys, key, said):
    merge_options(cfg, {key: 1})
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ('key', 'value', 'said'),
    [
        ('train_cfg.max_epochs', 'many', "'many' is no number; .* has 12"),
        ('train_dataloader.persistent_workers', 'no', "'no' is no True or False"),
        ('train_dataloader.dataset.pipeline.2.scale', 1, 'does not fit .*Index 2 exceeds'),
        ('train_cfg.max_epochs.of', 1, 'does not fit'),
    ],
)
def test_what_does_not_fit_is_a_sentence(cfg, key, value, said):
    with pytest.raises(UserError, match=said):
        merge_options(cfg, {key: value})


def test_loaders_without_workers_keep_none(cfg):
    merge_options(cfg, {'train_dataloader.num_workers': 0})
    _settle_workers(cfg)
    assert not cfg.train_dataloader.persistent_workers
    assert 'prefetch_factor' not in cfg.train_dataloader
    assert cfg.val_dataloader.persistent_workers and cfg.val_dataloader.prefetch_factor == 4
