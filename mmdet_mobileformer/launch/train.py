"""What tools/train.py does."""

import argparse

from mmengine.dist import is_main_process

from mmdet_mobileformer.data_check.check import run_data_check
from mmdet_mobileformer.engine.acceleration import AccelerationHook
from mmdet_mobileformer.engine.distributed import init_distributed, leave_group, on_main_process
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch import data_flags, train_flags
from mmdet_mobileformer.launch.arguments import load_run_config
from mmdet_mobileformer.launch.cfg_options import options_explained
from mmdet_mobileformer.launch.hardening import harden_loading, harden_training
from mmdet_mobileformer.launch.pretrained import check_pretrained, set_pretrained
from mmdet_mobileformer.launch.runner import build_runner
from mmdet_mobileformer.launch.schedule import set_epochs
from mmdet_mobileformer.launch.work_dir import hold_work_dir


def train(args: argparse.Namespace) -> None:
    """Train as the command line says.

    Args:
        args: Of tools/train.py.

    Raises:
        UserError: If anything on the command line, in the config or in the data cannot work.
    """
    if args.from_scratch and args.pretrained:
        raise UserError(
            f'--pretrained {args.pretrained} contradicts --from-scratch; leave one of them out.'
        )
    cfg = load_run_config(args)
    if args.classes:
        data_flags.set_classes(cfg, data_flags.annotated_classes(cfg))
    if args.epochs is not None:
        set_epochs(cfg, args.epochs)
    taken = set_pretrained(cfg, args.pretrained) if args.pretrained else None
    if args.from_scratch:
        train_flags.train_from_scratch(cfg)
    if args.amp or args.amp_dtype:
        train_flags.set_amp(cfg, args.amp_dtype or 'auto')
    if args.auto_scale_lr:
        train_flags.set_auto_scale_lr(cfg)
    if args.ema or args.ema_momentum is not None:
        momentum = 0.0002 if args.ema_momentum is None else args.ema_momentum
        train_flags.set_ema(cfg, momentum)
    put_in = harden_training(cfg)
    put_in += harden_loading(cfg, skip_bad_images=args.skip_bad_images)
    init_distributed(cfg, args.launcher)
    on_main_process(hold_work_dir, cfg.work_dir)
    if taken and is_main_process():
        print(taken)
    if args.resume:
        train_flags.set_resume(cfg, args.resume)
    check_pretrained(cfg)
    on_main_process(run_data_check, cfg, ('train', 'val') if cfg.get('val_cfg') else ('train',))
    with options_explained(args.cfg_options):
        runner = build_runner(cfg, training=True)
        if put_in:
            parts = ', '.join(dict.fromkeys(put_in))
            runner.logger.info(f'Put into the config (see docs/robustness.md): {parts}.')
        if args.compile:
            runner.register_hook(AccelerationHook(compile_model=True))
        runner.train()
    leave_group()
