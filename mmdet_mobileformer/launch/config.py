"""From a tool's command line to a config: read, with ``--cfg-options`` merged and checked."""

import argparse
import inspect
import os
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from mmdet.utils import register_all_modules, setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.cpu_memory import keep_freed_memory
from mmdet_mobileformer.launch.data_flags import set_classwise, set_data_root
from mmdet_mobileformer.launch.safe_loading import load_checkpoints_as_data
from mmdet_mobileformer.launch.work_dir import default_work_dir

# Settings at the top of a config that others than the Runner read.
_READ_ELSEWHERE = (
    *('activation_checkpointing', 'auto_scale_lr', 'custom_imports', 'data_check'),
    *('default_scope', 'find_unused_parameters', 'model_wrapper_cfg', 'runner_type'),
    *('tta_model', 'tta_pipeline'),
)
_WORDS_FOR_NUMBERS = ('auto', 'dynamic')


def load_config(args: argparse.Namespace) -> Config:
    """Read the config that ``args.config`` names and merge ``args.cfg_options``.

    The process is prepared for running it: what mmdet registers, how checkpoints are read, memory,
    numbers below 1e-38 as zeros.

    Raises:
        UserError: If the config file, or one that it builds on, does not exist, or a module that it
            imports.
    """
    if not torch.cuda.is_available():
        keep_freed_memory()
    # Attention far from a query's box is tiny; with numbers below 1e-38 CPUs are far slower.
    torch.set_flush_denormal(True)
    setup_cache_size_limit_of_dynamo()
    register_all_modules(init_default_scope=False)
    load_checkpoints_as_data(getattr(args, 'trust_checkpoint', False))
    try:
        cfg = Config.fromfile(args.config)
    except FileNotFoundError as error:
        raise UserError(
            f'the config {args.config} cannot be read: {error} (looked from {os.getcwd()}).'
        ) from None
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
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(args)
    cfg.work_dir = (
        args.work_dir
        or cfg.get('work_dir')
        or default_work_dir(args.config, cfg.get('data_root'), args.data_root)
    )
    _settle_workers(cfg)
    if args.data_root:
        set_data_root(cfg, args.data_root)
    if args.classwise:
        set_classwise(cfg)
    return cfg


def _settle_workers(cfg: Config) -> None:
    """Drop what torch's loaders take with worker processes only where there are none, in place."""
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader and not loader.get('num_workers', 0):
            loader.update(persistent_workers=False)
            loader.pop('prefetch_factor', None)


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Merge settings by dotted key into a config, in place; one that nothing reads is a warning.

    Raises:
        UserError: If a key leads nowhere, or text would replace a number or a bool.
    """
    for key, value in options.items():
        warning = _check(cfg, key, value)
        if warning and int(os.environ.get('RANK') or 0) == 0:
            print(f'warning: --cfg-options {key}={value}: {warning}', file=sys.stderr)
    try:
        cfg.merge_from_dict(dict(options))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        words = ' '.join(f'{key}={value}' for key, value in options.items())
        raise UserError(
            f'--cfg-options {words} does not fit {cfg.filename}: {" ".join(str(error).split())}.'
        ) from None


def _check(cfg: Config, key: str, value: Any) -> str | None:  # noqa: ANN401 (config values)
    """What looks wrong with a key that is new; a key that leads nowhere is left to the merging."""
    node: Any = cfg
    parts = key.split('.')
    for index, part in enumerate(parts):
        if isinstance(node, (dict, Config)):
            if part not in node:
                return _unknown(list(node), parts[: index + 1])
            node = node[part]
        elif isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return None
    text = isinstance(value, str) and value not in _WORDS_FOR_NUMBERS
    if text and isinstance(node, (bool, int, float)):
        kind = 'True or False' if isinstance(node, bool) else 'number'
        raise UserError(
            f'--cfg-options {key}={value}: {value!r} is no {kind}; {cfg.filename} has {node}.'
        )
    return None


def _unknown(known: list[str], parts: list[str]) -> str | None:
    top = len(parts) == 1
    if top:
        known += [*_READ_ELSEWHERE, *inspect.signature(Runner.__init__).parameters]
        if parts[0] in known:
            return None
    near = get_close_matches(parts[-1], known, n=1, cutoff=0.6 if top else 0.75)
    if near:
        return f'the config has no {".".join(parts)}; did you mean {".".join(parts[:-1] + near)}?'
    return f'the config has no {parts[0]}, and nothing reads it' if top else None
