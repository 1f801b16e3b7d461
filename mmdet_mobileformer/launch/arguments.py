"""What the tools have in common: from the command line to a config."""

import argparse
import os

import torch
from mmdet.utils import register_all_modules, setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.cfg_options import merge_options, settle_workers
from mmdet_mobileformer.launch.cpu_memory import keep_freed_memory
from mmdet_mobileformer.launch.data_flags import set_classwise, set_data_root
from mmdet_mobileformer.launch.runner import check_vis_backends
from mmdet_mobileformer.launch.safe_loading import load_checkpoints_as_data
from mmdet_mobileformer.launch.work_dir import default_work_dir


def load_config(args: argparse.Namespace) -> Config:
    """Read the config that ``args.config`` names and merge ``args.cfg_options``.

    The process is prepared for running it: what mmdet registers, how checkpoints are read, memory.

    Raises:
        UserError: If the config file, or one that it builds on, does not exist, or a module that it
            imports.
    """
    if not torch.cuda.is_available():
        keep_freed_memory()
    setup_cache_size_limit_of_dynamo()
    register_all_modules(init_default_scope=False)
    load_checkpoints_as_data(getattr(args, 'trust_checkpoint', False))
    if not os.path.isfile(args.config):
        raise UserError(f'the config {args.config} does not exist (looked from {os.getcwd()}).')
    try:
        cfg = Config.fromfile(args.config)
    except FileNotFoundError as error:
        raise UserError(f'the config {args.config} builds on a missing file: {error}.') from None
    except ImportError as error:
        cause: BaseException = error
        while cause.__cause__ or cause.__context__:  # mmengine wraps the module's own error
            cause = cause.__cause__ or cause.__context__
        raise UserError(
            f'the config {args.config} imports what cannot be imported ({cause}); install it '
            '(mmpretrain for ImageNet: see docs/pretraining.md).'
        ) from None
    if args.cfg_options:
        merge_options(cfg, args.cfg_options)
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    return cfg


def load_run_config(args: argparse.Namespace) -> Config:
    """:func:`load_config`, with the flags that training and testing share except ``--launcher``.

    ``--classes`` is left to the caller: training and testing know the classes from different files.

    Raises:
        UserError: If the config or the folder of ``--data-root`` does not exist or does not fit.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(args)
    cfg.work_dir = (
        args.work_dir
        or cfg.get('work_dir')
        or default_work_dir(args.config, cfg.get('data_root'), args.data_root)
    )
    settle_workers(cfg)
    check_vis_backends(cfg)
    if args.data_root:
        set_data_root(cfg, args.data_root)
    if args.classwise:
        set_classwise(cfg)
    return cfg
