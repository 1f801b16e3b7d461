"""What tools/train.py and tools/test.py add to every config, this project's or not.

So that no config has to ask for it, each of mmengine's and mmdet's parts that loses work or hides
an error is replaced by the part of this package that is derived from it:

==========================================  ========================================
mmengine, mmcv, mmdet                       here
==========================================  ========================================
CheckpointHook                              DurableCheckpointHook, TerminationHook
EpochBasedTrainLoop, its batch samplers     ResumableTrainLoop, ResumableBatchSampler
IterBasedTrainLoop                          NamingIterBasedTrainLoop
OptimWrapper, AmpOptimWrapper               FiniteOptimWrapper, FiniteAmpOptimWrapper
HungarianAssigner                           FiniteHungarianAssigner
LoadImageFromFile, PackDetInputs            LoadWholeImage, PackAnyDetInputs
activation_checkpointing                    RecomputeHook
(nothing)                                   FiniteLossHook, CheckpointFitHook,
                                            SameStatisticsHook
==========================================  ========================================

Other parts that a config names are left alone.
"""

from __future__ import annotations

import os

from mmengine.config import Config

from mmdet_mobileformer.config_tree import SPLITS, names_class, walk
from mmdet_mobileformer.errors import UserError

_OPTIM_WRAPPERS = {'OptimWrapper': 'FiniteOptimWrapper', 'AmpOptimWrapper': 'FiniteAmpOptimWrapper'}


def harden_training(cfg: Config) -> None:
    """Let a training survive interruption and stop at numbers that are not finite, in place.

    Raises:
        UserError: If checkpoints are to be written to a remote storage.
    """
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint')
    if checkpoint is None or names_class(checkpoint, 'CheckpointHook'):
        # Without one mmengine takes its own with these settings.
        checkpoint = dict(checkpoint or dict(interval=1), type='DurableCheckpointHook')
        if checkpoint.get('backend_args') or checkpoint.get('file_client_args'):
            raise UserError(
                f'default_hooks.checkpoint of {cfg.filename} asks for a remote storage, to which '
                'checkpoints cannot be written durably; leave backend_args and file_client_args '
                'out, and copy the files afterwards.'
            )
        cfg.setdefault('default_hooks', {})
        cfg.default_hooks.checkpoint = checkpoint
        add_hook(cfg, 'TerminationHook')
    if names_class(cfg.train_cfg, 'EpochBasedTrainLoop') or cfg.train_cfg.get('by_epoch'):
        cfg.train_cfg.pop('by_epoch', None)
        cfg.train_cfg.type = 'ResumableTrainLoop'
        loader = cfg.train_dataloader
        loader.batch_sampler = dict(
            type='ResumableBatchSampler',
            batch_sampler=loader.get('batch_sampler'),
            drop_last=loader.pop('drop_last', False),
        )
    elif names_class(cfg.train_cfg, 'IterBasedTrainLoop') or cfg.train_cfg.get('by_epoch') is False:
        cfg.train_cfg.pop('by_epoch', None)
        cfg.train_cfg.type = 'NamingIterBasedTrainLoop'
    cfg.optim_wrapper.setdefault('type', 'OptimWrapper')
    for name, ours in _OPTIM_WRAPPERS.items():
        if names_class(cfg.optim_wrapper, name):
            cfg.optim_wrapper.type = ours
    for _, node in walk(cfg.model):
        if names_class(node, 'HungarianAssigner'):
            node['type'] = 'FiniteHungarianAssigner'
    add_hook(cfg, 'FiniteLossHook')
    add_hook(cfg, 'SameStatisticsHook')
    modules = cfg.pop('activation_checkpointing', None)
    if modules:
        add_hook(cfg, 'RecomputeHook', modules=modules)


def harden_loading(
    cfg: Config, skip_bad_images: bool = False, report_name: str = 'bad_images.txt'
) -> None:
    """Let no broken image and no checkpoint of another detector pass unnoticed, in place.

    Args:
        cfg: The config.
        skip_bad_images: Pass over images that cannot be read and list them at the end, in a file
            of the work directory too; otherwise the first one stops the run.
        report_name: Name of that file.
    """
    add_hook(cfg, 'CheckpointFitHook')
    report_file = os.path.join(cfg.work_dir, report_name)
    places = {split: (cfg.get(f'{split}_dataloader') or {}).get('dataset') for split in SPLITS}
    # Hooks may bring another pipeline for the last epochs of training.
    for split, place in [*places.items(), ('train', list(cfg.get('custom_hooks') or []))]:
        for _, node in walk(place):
            if names_class(node, 'PackDetInputs'):
                node['type'] = 'PackAnyDetInputs'
            if names_class(node, 'LoadImageFromFile'):
                # With its scope, so that a config of another project (mmpretrain's) finds it.
                node['type'] = 'mmdet.LoadWholeImage'
                if skip_bad_images:
                    node['on_error'] = 'replace' if split == 'train' else 'blank'
                    node['report_file'] = report_file
    if skip_bad_images:
        add_hook(cfg, 'BadImageReportHook', report_file=report_file)
        cfg.data_check = dict(cfg.get('data_check') or {}, bad_images='skip')


def require_in_checkpoint(cfg: Config, part: str) -> None:
    """Stop, when the weights are loaded, if the checkpoint lacks a part of the detector."""
    add_hook(cfg, 'CheckpointFitHook')
    hook = next(hook for hook in cfg.custom_hooks if names_class(hook, 'CheckpointFitHook'))
    hook['needed'] = sorted({part, *hook.get('needed', ())})


def add_hook(cfg: Config, name: str, **settings: object) -> None:
    """Add a custom hook to a config unless it names one of this class."""
    hooks = list(cfg.get('custom_hooks') or [])
    if not any(names_class(hook, name) for hook in hooks):
        cfg.custom_hooks = [*hooks, dict(type=name, **settings)]
