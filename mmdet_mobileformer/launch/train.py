"""What tools/train.py does, and its flags that rewrite a config: weights, precision, resuming.

The flags change any mmdet config in place, this project's or not.
"""

import argparse
import inspect
import os
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.dist import all_gather_object, is_main_process

from mmdet_mobileformer.config_tree import class_of, names_class, walk
from mmdet_mobileformer.data_check.check import run_data_check
from mmdet_mobileformer.engine.acceleration import AccelerationHook
from mmdet_mobileformer.engine.distributed import init_distributed, leave_group, on_main_process
from mmdet_mobileformer.engine.resuming.find import find_resume_point, require_resumable
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.config import load_run_config
from mmdet_mobileformer.launch.data_flags import annotated_classes, set_classes
from mmdet_mobileformer.launch.hardening import add_hook, harden_loading, harden_training
from mmdet_mobileformer.launch.pretrained import check_pretrained, set_pretrained
from mmdet_mobileformer.launch.runner import build_runner
from mmdet_mobileformer.launch.schedule import set_epochs
from mmdet_mobileformer.launch.work_dir import hold_work_dir


def train(args: argparse.Namespace) -> None:
    """Train as the command line of tools/train.py says.

    Raises:
        UserError: If anything on the command line, in the config or in the data cannot work.
    """
    cfg = load_run_config(args)
    if args.classes:
        set_classes(cfg, annotated_classes(cfg))
    if args.epochs is not None:
        set_epochs(cfg, args.epochs)
    taken = set_pretrained(cfg, args.pretrained) if args.pretrained else None
    if args.from_scratch:
        train_from_scratch(cfg)
    if args.amp or args.amp_dtype:
        set_amp(cfg, args.amp_dtype or 'auto')
    if args.auto_scale_lr:
        set_auto_scale_lr(cfg)
    if args.ema or args.ema_momentum is not None:
        set_ema(cfg, 0.0002 if args.ema_momentum is None else args.ema_momentum)
    put_in = harden_training(cfg)
    put_in += harden_loading(cfg, skip_bad_images=args.skip_bad_images)
    init_distributed(cfg, args.launcher)
    on_main_process(hold_work_dir, cfg.work_dir)
    if taken and is_main_process():
        print(taken)
    if args.resume:
        set_resume(cfg, args.resume)
    check_pretrained(cfg)
    on_main_process(run_data_check, cfg, ('train', 'val') if cfg.get('val_cfg') else ('train',))
    runner = build_runner(cfg, training=True)
    if put_in:
        parts = ', '.join(dict.fromkeys(put_in))
        runner.logger.info(f'Put into the config (see docs/robustness.md): {parts}.')
    if args.compile:
        runner.register_hook(AccelerationHook(compile_model=True))
    runner.train()
    leave_group()


def train_from_scratch(cfg: Config) -> None:
    """Drop every pretrained weight and let the normalisation learn.

    Removes ``load_from`` and each Pretrained ``init_cfg`` at any depth, and in the model sets
    ``norm_eval=False``, ``frozen_stages=-1`` and ``requires_grad=True`` of the norms, also where
    only a backbone's defaults say otherwise: fixed statistics of random weights would ruin the
    training.
    """
    cfg.load_from = None
    for path, node in walk(cfg.model):
        if 'init_cfg' in node:
            node['init_cfg'] = _without_pretrained(node['init_cfg'])
        if isinstance(node.get('pretrained'), str):
            node['pretrained'] = None
        settable = set(node)
        if path.split('.')[-1] == 'backbone':
            kind = class_of(node, MODELS)
            settable |= set(inspect.signature(kind).parameters) if kind else set()
        for name, value in dict(norm_eval=False, frozen_stages=-1).items():
            if name in settable:
                node[name] = value
        if isinstance(node.get('norm_cfg'), dict) and 'requires_grad' in node['norm_cfg']:
            node['norm_cfg']['requires_grad'] = True


def _without_pretrained(init_cfg: Any) -> Any:  # noqa: ANN401 (dict, list of dicts or None)
    if isinstance(init_cfg, (list, tuple)):
        return [item for item in init_cfg if item.get('type') != 'Pretrained'] or None
    return None if (init_cfg or {}).get('type') == 'Pretrained' else init_cfg


def set_amp(cfg: Config, dtype: str) -> None:
    """Train in 'fp16', 'bf16', or by 'auto' in fp16 on a GPU and in bf16 on the CPU.

    Raises:
        UserError: For fp16 without a GPU, where it has neither speed nor loss scaling.
    """
    if dtype == 'auto':
        dtype = 'fp16' if torch.cuda.is_available() else 'bf16'
    if dtype == 'fp16':
        if not torch.cuda.is_available():
            raise UserError('--amp-dtype fp16 needs a GPU; use bf16 on the CPU.')
        cfg.optim_wrapper.update(
            type='FiniteAmpOptimWrapper', dtype='float16', loss_scale='dynamic'
        )
        return
    cfg.optim_wrapper.type = 'BFloat16OptimWrapper'
    for name in ('loss_scale', 'dtype', 'use_fp64'):  # of AmpOptimWrapper
        cfg.optim_wrapper.pop(name, None)


def set_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate by the real batch size over ``auto_scale_lr.base_batch_size``.

    Raises:
        UserError: If the config does not say for which batch size its learning rate is.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise UserError(
            f'--auto-scale-lr needs auto_scale_lr.base_batch_size, which {cfg.filename} does '
            'not set; give it by --cfg-options auto_scale_lr.base_batch_size=16.'
        )
    cfg.auto_scale_lr.enable = True


def set_ema(cfg: Config, momentum: float) -> None:
    """Evaluate and save an exponential moving average of the weights beside the weights.

    An EMAHook of the config is replaced. ``momentum`` is the share of the new weights in each step,
    after a start with larger ones.
    """
    cfg.custom_hooks = [h for h in cfg.get('custom_hooks') or [] if not names_class(h, 'EMAHook')]
    average = dict(ema_type='ExpMomentumEMA', momentum=momentum, update_buffers=True)
    add_hook(cfg, 'EMAHook', **average, priority=49)


def set_resume(cfg: Config, checkpoint: str) -> None:
    """Resume from a checkpoint, or with 'auto' from the newest whole one of the work directory.

    Says which that is and what it passed over; where there is none, training begins anew. Of
    several processes the first one searches, and all must see what it found.

    Raises:
        UserError: If the file does not exist, is not whole or cannot be resumed from.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    path = on_main_process(_resumed, cfg.work_dir, hook.get('out_dir'), checkpoint)
    there = all_gather_object(path is None or os.path.isfile(path))
    blind = [str(rank) for rank, seen in enumerate(there) if not seen]
    if blind:
        raise UserError(
            f'--resume {path}: the processes of rank {", ".join(blind)} do not see this file; all '
            'machines need one work directory, or a copy of the checkpoint there.'
        )
    cfg.resume = path is not None
    if path:
        cfg.load_from = path


def _resumed(work_dir: str, out_dir: str | None, checkpoint: str) -> str | None:
    if checkpoint != 'auto':
        require_resumable(checkpoint)
        return checkpoint
    path, passed_over = find_resume_point(work_dir, out_dir)
    for sentence in passed_over:
        print(f'--resume passes over: {sentence}', flush=True)
    found = f'continues from {path}, the newest whole checkpoint'
    print(f'--resume {found if path else f"finds none in {work_dir}"}.', flush=True)
    return path
