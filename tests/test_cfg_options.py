"""--cfg-options that fit, that are misspelt, and that are of another type."""

import pytest
from mmengine.config import Config

from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.cfg_options import (
    merge_options,
    options_explained,
    settle_workers,
)
from mmdet_mobileformer.launch.runner import check_vis_backends


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
        ('train_cfg.max_epochs', 'many', "'many' is no number"),
        ('train_cfg.max_epochs', True, 'True is no number'),
        ('train_cfg', 3, '3 is no group of settings'),
        ('train_dataloader.persistent_workers', 'yes', "'yes' is no True or False"),
        ('train_dataloader.dataset.pipeline', 'none', 'is no list of settings'),
        ('train_dataloader.dataset.pipeline', ['dict(a=1)'], r'number: KEY\.0\.type'),
        ('train_dataloader.dataset.pipeline.2.scale', 1, 'is a list of 2'),
        ('train_cfg.max_epochs.of', 1, 'train_cfg.max_epochs is 12 in .* and has no of'),
    ],
)
def test_a_value_of_another_type_is_a_sentence(cfg, key, value, said):
    with pytest.raises(UserError, match=said):
        merge_options(cfg, {key: value})


def test_a_setting_that_a_class_does_not_take_is_blamed_on_its_option():
    with (
        pytest.raises(UserError, match=r'--cfg-options train_cfg.max_epoch: .*unexpected keyword'),
        options_explained({'a.b': 1, 'train_cfg.max_epoch': 3}),
    ):
        (lambda: None)(max_epoch=3)
    with pytest.raises(TypeError), options_explained({'a.b': 1}):
        (lambda: None)(max_epoch=3)


def test_loaders_without_workers_keep_none(cfg):
    merge_options(cfg, {'train_dataloader.num_workers': 0})
    settle_workers(cfg)
    assert not cfg.train_dataloader.persistent_workers
    assert 'prefetch_factor' not in cfg.train_dataloader
    assert cfg.val_dataloader.persistent_workers and cfg.val_dataloader.prefetch_factor == 4


def test_a_visualizer_that_needs_what_is_not_installed(cfg, monkeypatch):
    monkeypatch.setattr('mmdet_mobileformer.launch.runner.find_spec', lambda name: None)
    cfg.visualizer = dict(vis_backends=[dict(type='LocalVisBackend')])
    check_vis_backends(cfg)
    cfg.visualizer.vis_backends.append(dict(type='TensorboardVisBackend'))
    with pytest.raises(UserError, match='pip install tensorboard'):
        check_vis_backends(cfg)
