"""What tools/train.py and tools/test.py add to every config, this project's or not.

So that no config has to ask for it, each of mmengine's and mmdet's parts that loses work or hides
an error is replaced by the part of this package that is derived from it:

==========================================  ========================================
mmengine, mmcv, mmdet                       here
==========================================  ========================================
CheckpointHook                              DurableCheckpointHook, TerminationHook
EpochBasedTrainLoop, its batch samplers     ResumableTrainLoop, ResumableBatchSampler
OptimWrapper, AmpOptimWrapper               FiniteOptimWrapper, FiniteAmpOptimWrapper
HungarianAssigner                           FiniteHungarianAssigner
LoadImageFromFile, PackDetInputs            LoadWholeImage, PackAnyDetInputs
activation_checkpointing                    RecomputeHook
(nothing)                                   FiniteLossHook, CheckpointFitHook
==========================================  ========================================

Other parts that a config names are left alone.
"""

from __future__ import annotations

import os

from mmengine.config import Config

from mmdet_mobileformer.engine.config_tree import SPLITS, walk

_OPTIM_WRAPPERS = {'OptimWrapper': 'FiniteOptimWrapper', 'AmpOptimWrapper': 'FiniteAmpOptimWrapper'}


def harden_training(cfg: Config) -> None:
    """Let a training survive interruption and stop at numbers that are not finite, in place."""
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint')
    if checkpoint is None or _names(checkpoint, 'CheckpointHook'):
        # Without one mmengine takes its own with these settings.
        checkpoint = dict(checkpoint or dict(interval=1), type='DurableCheckpointHook')
        cfg.setdefault('default_hooks', {})
        cfg.default_hooks.checkpoint = checkpoint
        _add_hook(cfg, 'TerminationHook')
    if _names(cfg.train_cfg, 'EpochBasedTrainLoop') or cfg.train_cfg.get('by_epoch'):
        cfg.train_cfg.pop('by_epoch', None)
        cfg.train_cfg.type = 'ResumableTrainLoop'
        loader = cfg.train_dataloader
        loader.batch_sampler = dict(
            type='ResumableBatchSampler',
            batch_sampler=loader.get('batch_sampler'),
            drop_last=loader.pop('drop_last', False),
        )
    wrapper = cfg.optim_wrapper
    wrapper.type = _OPTIM_WRAPPERS.get(wrapper.get('type', 'OptimWrapper'), wrapper.get('type'))
    for _, node in walk(cfg.model):
        if _names(node, 'HungarianAssigner'):
            node['type'] = 'FiniteHungarianAssigner'
    _add_hook(cfg, 'FiniteLossHook')
    modules = cfg.pop('activation_checkpointing', None)
    if modules:
        _add_hook(cfg, 'RecomputeHook', modules=modules)


def harden_loading(cfg: Config, skip_bad_images: bool = False) -> None:
    """Let no broken image and no checkpoint of another detector pass unnoticed, in place.

    Args:
        cfg: The config.
        skip_bad_images: Pass over images that cannot be read and list them at the end, in
            ``bad_images.txt`` of the work directory too; otherwise the first one stops the run.
    """
    _add_hook(cfg, 'CheckpointFitHook')
    report_file = os.path.join(cfg.work_dir, 'bad_images.txt')
    for split in SPLITS:
        for _, node in walk((cfg.get(f'{split}_dataloader') or {}).get('dataset') or {}):
            if _names(node, 'PackDetInputs'):
                node['type'] = 'PackAnyDetInputs'
            if _names(node, 'LoadImageFromFile'):
                # With its scope, so that a config of another project (mmpretrain's) finds it.
                node['type'] = 'mmdet.LoadWholeImage'
                if skip_bad_images:
                    node['on_error'] = 'replace' if split == 'train' else 'blank'
                    node['report_file'] = report_file
    if skip_bad_images:
        _add_hook(cfg, 'BadImageReportHook', report_file=report_file)
        cfg.data_check = dict(cfg.get('data_check') or {}, bad_images='skip')


def require_in_checkpoint(cfg: Config, part: str) -> None:
    """Stop, when the weights are loaded, if the checkpoint lacks a part of the detector."""
    _add_hook(cfg, 'CheckpointFitHook')
    hook = next(hook for hook in cfg.custom_hooks if _names(hook, 'CheckpointFitHook'))
    hook['needed'] = sorted({part, *hook.get('needed', ())})


def set_ema(cfg: Config, momentum: float) -> None:
    """Evaluate and save an exponential moving average of the weights beside the weights.

    Args:
        cfg: The config; an EMAHook that it has is replaced.
        momentum: Share of the new weights in each step, after a start with larger ones.
    """
    cfg.custom_hooks = [h for h in cfg.get('custom_hooks') or [] if not _names(h, 'EMAHook')]
    _add_hook(
        cfg,
        'EMAHook',
        ema_type='ExpMomentumEMA',
        momentum=momentum,
        update_buffers=True,
        priority=49,
    )


def _add_hook(cfg: Config, name: str, **settings: object) -> None:
    hooks = list(cfg.get('custom_hooks') or [])
    if not any(_names(hook, name) for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(type=name, **settings)]


def _names(node: dict, name: str) -> bool:
    """Whether a config names a class, with or without its registry's scope, or is given it."""
    kind = node.get('type')
    return (
        kind.split('.')[-1] == name
        if isinstance(kind, str)
        else (getattr(kind, '__name__', None) == name)
    )
