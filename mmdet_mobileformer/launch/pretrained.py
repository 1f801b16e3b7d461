"""Pretrained weights that a config names: there before anything is built, or a stop."""

import os
import re

from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from mmdet_mobileformer.checkpoints import load_checkpoint_as_data, select_state_dict
from mmdet_mobileformer.config_tree import walk
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.hardening import require_in_checkpoint


def check_pretrained(cfg: Config) -> None:
    """Stop if a file that an ``init_cfg`` of type Pretrained names is missing.

    A run that continues from a whole detector (``load_from``, or a checkpoint to resume) does not
    need the file: its ``init_cfg`` is dropped instead, in place, and the checkpoint must have that
    part of the detector. Addresses (``https://``, ``torchvision://``) are left to mmengine.

    Raises:
        UserError: If a file is missing; the message says how to get it or to train without.
    """
    resumed = cfg.get('resume') and not cfg.get('load_from') and os.path.isdir(cfg.work_dir)
    replaced = cfg.get('load_from') or (resumed and find_latest_checkpoint(cfg.work_dir))
    for path, node in walk(cfg.model, 'model'):
        init_cfg = node.get('init_cfg')
        for item in init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]:
            if _missing(item) and replaced:
                node['init_cfg'] = None
                for part in path.split('.')[1:2]:  # none for the whole detector
                    require_in_checkpoint(cfg, part)
            elif _missing(item):
                raise UserError(_advice(f'{path}.init_cfg', item['checkpoint'], cfg.filename))


def set_pretrained(cfg: Config, path: str) -> str:
    """Let every backbone begin with the weights of a file, whatever the config says.

    Args:
        cfg: The config, changed in place.
        path: A converted ImageNet checkpoint, a detector's (its ``backbone.*`` is taken), or a
            state dict of the backbone.

    Returns:
        A sentence that says what is taken from the file.

    Raises:
        UserError: If the file cannot be read as data, the config loads other weights over those, or
            there is no backbone.
    """
    if cfg.get('load_from'):
        raise UserError(
            f'--pretrained {path} would be overwritten by load_from={cfg.load_from} of '
            f'{cfg.filename}; leave one of them out (--cfg-options load_from=None).'
        )
    _, weights = select_state_dict(load_checkpoint_as_data(path), path)
    whole = any(name.startswith('backbone.') for name in weights)
    init_cfg = dict(type='Pretrained', checkpoint=path, **dict(prefix='backbone.') if whole else {})
    backbones = [node for name, node in walk(cfg.model) if name.endswith('backbone')]
    if not backbones:
        raise UserError(f'--pretrained {path}: the model of {cfg.filename} has no backbone.')
    for backbone in backbones:
        backbone['init_cfg'] = init_cfg
        if 'pretrained' in backbone:
            backbone['pretrained'] = None
    rest = sorted({name.split('.')[0] for name in weights} - {'backbone'}) if whole else ()
    left_out = f'; its {", ".join(rest)} stays out' if rest else ''
    return f'--pretrained: the backbone begins with the weights of {path}{left_out}.'


def _missing(init_cfg: dict | None) -> bool:
    if not init_cfg or init_cfg.get('type') != 'Pretrained':
        return False
    checkpoint = init_cfg['checkpoint']
    return '://' not in checkpoint and not os.path.isfile(os.path.expanduser(checkpoint))


def _advice(path: str, checkpoint: str, config: str | None) -> str:
    variant = re.fullmatch(r'mobile_former_(\w+)\.pth', os.path.basename(checkpoint))
    get = 'put it there'
    if variant:
        get = (
            f'get it by `python tools/convert_checkpoint.py --download {variant[1]}`, or '
            "convert the authors' file that you have with the same tool"
        )
    return (
        f'the pretrained weights {checkpoint}, which {path} of {config} names, do not exist; '
        f'{get}, or train without them by --from-scratch.'
    )
