"""Train a detector: ``python tools/train.py CONFIG``; see ``--help`` for the options."""

import argparse
import re
import sys

from mmdet_mobileformer.data_check.check import run_data_check
from mmdet_mobileformer.engine.acceleration import AccelerationHook
from mmdet_mobileformer.engine.distributed import init_distributed, leave_group, on_main_process
from mmdet_mobileformer.errors import run_tool
from mmdet_mobileformer.launch import data_flags, train_flags
from mmdet_mobileformer.launch.arguments import add_common_arguments, build_runner, load_run_config
from mmdet_mobileformer.launch.hardening import harden_loading, harden_training
from mmdet_mobileformer.launch.pretrained import check_pretrained


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train a detector')
    parser.add_argument('config', help='config file')
    add_common_arguments(parser)
    parser.add_argument(
        '--from-scratch',
        action='store_true',
        help='start from random weights: no pretrained file, normalisation statistics learn',
    )
    parser.add_argument(
        '--amp',
        choices=['auto', 'fp16', 'bf16'],
        help='automatic mixed precision; alone: fp16 on a GPU, bf16 on the CPU',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from this checkpoint; alone: the newest whole one of the work directory',
    )
    parser.add_argument(
        '--ema',
        type=float,
        metavar='MOMENTUM',
        help='average the weights over the training, evaluate and save the average; default 0.0002',
    )
    parser.add_argument(
        '--skip-bad-images',
        action='store_true',
        help='pass over images that cannot be read and list them at the end, instead of stopping',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate from the config's base batch size to the real one",
    )
    parser.add_argument(
        '--compile',
        action='store_true',
        help='compile the detector, which takes minutes and pays in long runs',
    )
    return parser.parse_args(_with_values(sys.argv[1:]))


def _with_values(words: list[str]) -> list[str]:
    """Give --amp and --ema their values where no value follows, as in mmdet's `--amp CONFIG`."""
    bare = {'--amp': ('auto', r'auto|fp16|bf16'), '--ema': ('0.0002', r'[\d.]+(e-?\d+)?')}
    words, following = list(words), [*words[1:], '']
    for index, (word, after) in enumerate(zip(words, following, strict=True)):
        if word in bare and not re.fullmatch(bare[word][1], after):
            words[index] = f'{word}={bare[word][0]}'
    return words


def main() -> None:
    """Train as the command line says."""
    args = parse_args()
    cfg = load_run_config(args)
    if args.classes:
        data_flags.set_classes(cfg, data_flags.annotated_classes(cfg))
    if args.from_scratch:
        train_flags.train_from_scratch(cfg)
    if args.amp:
        train_flags.set_amp(cfg, args.amp)
    if args.auto_scale_lr:
        train_flags.set_auto_scale_lr(cfg)
    if args.ema is not None:
        train_flags.set_ema(cfg, args.ema)
    harden_training(cfg)
    harden_loading(cfg, args.skip_bad_images)
    init_distributed(cfg, args.launcher)
    if args.resume:
        train_flags.set_resume(cfg, args.resume)
    check_pretrained(cfg)
    on_main_process(run_data_check, cfg, ('train', 'val') if cfg.get('val_cfg') else ('train',))
    runner = build_runner(cfg)
    if args.compile:
        runner.register_hook(AccelerationHook(compile_model=True))
    runner.train()
    leave_group()


if __name__ == '__main__':
    run_tool(main)
