"""``--cfg-options``: merged into the config where they fit, else one sentence."""

import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from numbers import Number
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from mmdet_mobileformer.errors import UserError

# Settings at the top of a config that others than the Runner read.
_READ_ELSEWHERE = (
    *('activation_checkpointing', 'auto_scale_lr', 'custom_imports', 'data_check'),
    *('default_scope', 'find_unused_parameters', 'model_wrapper_cfg', 'runner_type'),
    *('tta_model', 'tta_pipeline'),
)
_WORDS_FOR_NUMBERS = ('auto', 'dynamic')


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Merge settings into a config, in place; one that nothing reads is a warning.

    Args:
        cfg: The config.
        options: Values by dotted key.

    Raises:
        UserError: If a value is of another type than the config's, or its key leads nowhere.
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


@contextmanager
def options_explained(options: Mapping[str, Any] | None) -> Iterator[None]:
    """Blame a setting that a class does not take on the option that brought it.

    Raises:
        UserError: In the place of Python's TypeError.
    """
    try:
        yield
    except TypeError as error:
        name = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        keys = [key for key in options or {} if name and name[1] in key.split('.')]
        if not keys:
            raise
        raise UserError(f'--cfg-options {keys[0]}: {str(error).splitlines()[-1]}.') from error


def settle_workers(cfg: Config) -> None:
    """Drop what torch's loaders take with worker processes only where there are none, in place."""
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader and not loader.get('num_workers', 0):
            if loader.get('persistent_workers'):
                loader['persistent_workers'] = False
            loader.pop('prefetch_factor', None)


def _check(cfg: Config, key: str, value: Any) -> str | None:  # noqa: ANN401 (config values)
    """Warn of a key that is new and looks misspelt.

    Raises:
        UserError: If the value's type is not that of the config's.
    """
    node: Any = cfg
    parts = key.split('.')
    for index, part in enumerate(parts):
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(
                    f'--cfg-options {key}={value}: {".".join(parts[:index])} is a list of '
                    f'{len(node)} in {cfg.filename}; name one by its number, counted from 0.'
                )
            node = node[int(part)]
        elif isinstance(node, (dict, Config)):
            if part not in node:
                return _unknown(node, parts[: index + 1], top=not index)
            node = node[part]
        elif node is None:
            return None
        else:
            raise UserError(
                f'--cfg-options {key}={value}: {".".join(parts[:index])} is {node!r} in '
                f'{cfg.filename} and has no {part}.'
            )
    wanted = _wanted(node, value)
    if wanted:
        raise UserError(
            f'--cfg-options {key}={value}: {value!r} is no {wanted}, as which {cfg.filename} has '
            f'{key}={_shown(node)}.'
        )
    return None


def _unknown(node: Any, parts: list[str], top: bool) -> str | None:  # noqa: ANN401 (dict, Config)
    known = list(node)
    if top:
        known += [*_READ_ELSEWHERE, *inspect.signature(Runner.__init__).parameters]
        if parts[-1] in known:
            return None
    near = get_close_matches(parts[-1], known, n=1, cutoff=0.6 if top else 0.75)
    meant = '.'.join([*parts[:-1], *near])
    if near:
        return f'the config has no {".".join(parts)}; did you mean {meant}?'
    return f'the config has no {parts[-1]}, and nothing reads it' if top else None


def _wanted(present: Any, value: Any) -> str | None:  # noqa: ANN401 (config values)
    """What a value should be and is not; lists may stand for single values, and text for lists."""
    if present is None or value is None:
        return None
    if isinstance(present, dict):
        # Without a class's name it may stand for a name, as a backbone's `arch` does.
        fits = isinstance(value, dict) or (isinstance(value, str) and 'type' not in present)
        return None if fits else 'group of settings'
    if isinstance(present, bool):
        return None if isinstance(value, bool) or value in (0, 1) else 'True or False'
    if isinstance(present, Number):
        fits = isinstance(value, (Number, list, tuple)) and not isinstance(value, bool)
        return None if fits or value in _WORDS_FOR_NUMBERS else 'number'
    if isinstance(present, (list, tuple)) and present and isinstance(present[0], dict):
        items = value.values() if isinstance(value, dict) else value
        fits = isinstance(value, (list, tuple, dict)) and all(isinstance(i, dict) for i in items)
        return None if fits else 'list of settings (name one by its number: KEY.0.type=...)'
    return None


def _shown(value: Any) -> str:  # noqa: ANN401 (config values)
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
