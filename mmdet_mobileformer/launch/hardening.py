"""What tools/train.py and tools/test.py put into configs from elsewhere; this project's name it.

Parts that a config names and :data:`OURS` does not are left alone, and so is a training's
``test_dataloader``: mmdet's API, which the saved config serves, looks for LoadImageFromFile there.
"""

import copy
import os
from collections.abc import Sequence

from mmengine.config import Config

from mmdet_mobileformer.config_tree import names_class, walk

# Parts of mmengine, mmcv and mmdet that lose work or hide an error, and this package's, which are
# derived from them.
OURS = {
    'CheckpointHook': 'DurableCheckpointHook',
    'EpochBasedTrainLoop': 'ResumableTrainLoop',
    'NamingIterBasedTrainLoop': 'IterBasedTrainLoop',  # of earlier saved configs
    'OptimWrapper': 'FiniteOptimWrapper',
    'AmpOptimWrapper': 'FiniteAmpOptimWrapper',
    'HungarianAssigner': 'FiniteHungarianAssigner',
    'LoadImageFromFile': 'mmdet.LoadWholeImage',  # mmpretrain's configs find it by the scope
    'DetVisualizationHook': 'SkippingVisualizationHook',  # with --skip-bad-images
}


def harden_training(cfg: Config) -> list[str]:
    """Let a training survive interruption and stop at numbers that are not finite, in place.

    Beside :data:`OURS` it puts in TerminationHook, FiniteLossHook, SameStatisticsHook, and
    RecomputeHook in the place of ``activation_checkpointing``.

    Returns:
        What was replaced and added, each as words for a message.
    """
    hooks = cfg.setdefault('default_hooks', {})
    # Without one mmengine takes its own with these settings.
    checkpoint = hooks.get('checkpoint') or dict(type='CheckpointHook', interval=1)
    done = _replace(checkpoint)
    if names_class(checkpoint, 'DurableCheckpointHook'):
        hooks['checkpoint'] = checkpoint
        done += add_hook(cfg, 'TerminationHook')
    by_epoch = cfg.train_cfg.pop('by_epoch', None)
    if by_epoch is not None:
        loop = 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop'
        cfg.train_cfg.setdefault('type', loop)
    cfg.optim_wrapper.setdefault('type', 'OptimWrapper')
    assigners = (node for _, node in walk(cfg.model) if names_class(node, 'HungarianAssigner'))
    for node in (cfg.train_cfg, cfg.optim_wrapper, *assigners):
        done += _replace(node)
    done += add_hook(cfg, 'FiniteLossHook') + add_hook(cfg, 'SameStatisticsHook')
    modules = cfg.pop('activation_checkpointing', None)
    if modules:
        done += add_hook(cfg, 'RecomputeHook', modules=modules)
    return done


def harden_loading(
    cfg: Config,
    splits: Sequence[str] = ('train', 'val'),
    skip_bad_images: bool = False,
    report_name: str = 'bad_images.txt',
) -> list[str]:
    """Let no broken image and no checkpoint of another detector pass unnoticed, in place.

    Args:
        cfg: The config.
        splits: The loaders that are going to be used.
        skip_bad_images: Skip images that cannot be read and list them at the end, in a file of the
            work directory too; otherwise the first one stops the run.
        report_name: Name of that file.

    Returns:
        What was replaced and added, each as words for a message.
    """
    report_file = os.path.join(cfg.work_dir, report_name)
    done = add_hook(cfg, 'CheckpointFitHook')
    for split in splits:
        if f'{split}_dataloader' in cfg:  # a config may use one loader for two splits
            cfg[f'{split}_dataloader'] = copy.deepcopy(cfg[f'{split}_dataloader'])
        # Everything within the data set, and what hooks bring for the last epochs.
        hooks = cfg.get('custom_hooks') if split == 'train' else None
        for _, node in walk([(cfg.get(f'{split}_dataloader') or {}).get('dataset'), hooks]):
            if names_class(node, 'LoadImageFromFile'):
                done += _replace(node)
            if skip_bad_images and names_class(node, 'LoadWholeImage'):
                node['on_error'] = 'replace' if split == 'train' else 'blank'
                node['report_file'] = report_file
    if skip_bad_images:
        add_hook(cfg, 'BadImageReportHook', report_file=report_file)
        for hook in _hooks(cfg):
            if names_class(hook, 'DetVisualizationHook'):
                _replace(hook)
        cfg.data_check = dict(cfg.get('data_check') or {}, bad_images='skip')
    return done


def _replace(node: dict) -> list[str]:
    for theirs, ours in OURS.items():
        if names_class(node, theirs):
            node['type'] = ours
            return [f'{ours.removeprefix("mmdet.")} for {theirs}']
    return []


def require_in_checkpoint(cfg: Config, part: str) -> None:
    """Stop, when the weights are loaded, if the checkpoint lacks a part of the detector."""
    add_hook(cfg, 'CheckpointFitHook')
    hook = next(hook for hook in _hooks(cfg) if names_class(hook, 'CheckpointFitHook'))
    hook['needed'] = sorted({part, *hook.get('needed', ())})


def add_hook(cfg: Config, name: str, **settings: object) -> list[str]:
    """Add a custom hook to a config unless it names one of this class; give the name if added."""
    if any(names_class(hook, name) for hook in _hooks(cfg)):
        return []
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type=name, **settings)]
    return [name]


def _hooks(cfg: Config) -> list[dict]:
    default = (cfg.get('default_hooks') or {}).values()
    return [hook for hook in (*default, *(cfg.get('custom_hooks') or [])) if hook]
