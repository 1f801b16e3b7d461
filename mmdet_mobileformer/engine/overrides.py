"""Command line flags that rewrite a config: other data, other classes, no pretrained weights.

All functions change the config in place and work on any mmdet config, this project's or not.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.visualization.palette import get_palette
from mmengine.config import Config
from mmengine.dist import all_gather_object

from mmdet_mobileformer.engine.config_tree import (
    SPLITS,
    annotation_path,
    is_coco_dataset,
    is_coco_metric,
    walk,
    walk_class_folders,
    walk_datasets,
    walk_evaluators,
    walk_heads,
)
from mmdet_mobileformer.engine.distributed import on_main_process
from mmdet_mobileformer.engine.errors import UserError
from mmdet_mobileformer.engine.resume import find_resume_point, require_resumable


def set_data_root(cfg: Config, data_root: str) -> None:
    """Point every loader and evaluator at another folder in COCO layout.

    A file or folder that the config names relative to its own root is looked for under the new one;
    where that is not there, COCO's standard names are taken:
    ``annotations/instances_train2017.json`` and ``train2017/`` for training, those of ``val2017``
    for validation and test. Data sets of image classification (one folder a class) take the
    new root and keep the folder under it.

    Args:
        cfg: The config.
        data_root: The folder.

    Raises:
        UserError: If the folder does not exist, or a data set is not in COCO format.
    """
    if not os.path.isdir(data_root):
        raise UserError(f'--data-root {data_root} is not a folder; name one in COCO layout.')
    if 'data_root' in cfg:
        cfg.data_root = data_root
    for split in SPLITS:
        for _, dataset in walk_class_folders(cfg, split):
            dataset['data_root'] = data_root
        annotations = {}
        for path, dataset in walk_datasets(cfg, split):
            if not is_coco_dataset(dataset):
                raise UserError(
                    f'--data-root needs data sets in COCO format, but {path}.type of '
                    f'{cfg.filename} is {dataset["type"]}; use a config with CocoDataset.'
                )
            before = annotation_path(dataset)
            _move_dataset(dataset, data_root, 'train2017' if split == 'train' else 'val2017')
            annotations[os.path.normpath(before)] = annotation_path(dataset)
        if split == 'train' or not annotations:
            continue
        for evaluator in walk_evaluators(cfg, split):
            if evaluator.get('ann_file'):
                old = os.path.normpath(evaluator['ann_file'])
                evaluator['ann_file'] = annotations.get(old, next(iter(annotations.values())))


def _move_dataset(dataset: dict, data_root: str, standard: str) -> None:
    ann_file, prefix = dataset['ann_file'], dict(dataset.get('data_prefix') or {})
    images = prefix.get('img', '')
    here = not os.path.isabs(ann_file) and os.path.isfile(os.path.join(data_root, ann_file))
    if not here:
        ann_file = f'annotations/instances_{standard}.json'
    folder_here = not os.path.isabs(images) and os.path.isdir(os.path.join(data_root, images))
    if not (here and folder_here):
        images = f'{standard}/'
    dataset['data_root'] = data_root
    dataset['ann_file'] = ann_file
    dataset['data_prefix'] = {**prefix, 'img': images}


def annotated_classes(cfg: Config) -> tuple[str, ...]:
    """Category names in the annotation file of the first data set, in the file's order.

    Raises:
        UserError: If there is no such file or it is not a COCO annotation file.
    """
    for split in SPLITS:
        for _, dataset in walk_datasets(cfg, split):
            ann_file = annotation_path(dataset)
            try:
                with open(ann_file, encoding='utf-8') as file:
                    return tuple(category['name'] for category in json.load(file)['categories'])
            except OSError:
                raise UserError(
                    f'--classes auto cannot read the annotation file {ann_file}; '
                    'name its folder by --data-root.'
                ) from None
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f'--classes auto finds no categories in {ann_file}; it must be a COCO '
                    'annotation file (JSON with images, annotations and categories).'
                ) from None
    raise UserError(f'--classes auto finds no data set with an annotation file in {cfg.filename}.')


def set_classes(cfg: Config, classes: Sequence[str]) -> None:
    """Give all data sets these class names, with a palette, and size every head to them.

    Args:
        cfg: The config.
        classes: Category names in label order.

    Raises:
        UserError: If there is no name.
    """
    if not classes:
        raise UserError('--classes auto found no category; the annotation file lists none.')
    # Plain integers: the config is written to the work directory as text.
    palette = [tuple(map(int, color)) for color in get_palette('random', len(classes))]
    for split in SPLITS:
        for _, dataset in walk_datasets(cfg, split):
            dataset['metainfo'] = dict(
                dataset.get('metainfo') or {}, classes=tuple(classes), palette=palette
            )
    for _, head in walk_heads(cfg.model):
        head['num_classes'] = len(classes)


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
        learning = dict(norm_eval=False, frozen_stages=-1)
        defaults = _defaults(node) if path.split('.')[-1] == 'backbone' else {}
        for name, value in learning.items():
            if name in node or name in defaults:
                node[name] = value
        if isinstance(node.get('norm_cfg'), dict) and 'requires_grad' in node['norm_cfg']:
            node['norm_cfg']['requires_grad'] = True


def _without_pretrained(init_cfg: Any) -> Any:  # noqa: ANN401 (dict, list of dicts or None)
    if isinstance(init_cfg, (list, tuple)):
        return [item for item in init_cfg if item.get('type') != 'Pretrained'] or None
    return None if (init_cfg or {}).get('type') == 'Pretrained' else init_cfg


def _defaults(module: dict) -> dict[str, Any]:
    kind = module.get('type')
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    if kind is None:
        return {}
    return dict(inspect.signature(kind.__init__).parameters)


def set_classwise(cfg: Config) -> None:
    """Make every COCO metric report the AP of each class as well.

    Raises:
        UserError: If the config has no COCO metric.
    """
    found = False
    for split in ('val', 'test'):
        for evaluator in walk_evaluators(cfg, split):
            if is_coco_metric(evaluator):
                evaluator['classwise'] = found = True
    if not found:
        raise UserError(f'--classwise needs a COCO metric, and {cfg.filename} has none.')


def set_amp(cfg: Config, dtype: str) -> None:
    """Train under automatic mixed precision.

    Args:
        cfg: The config.
        dtype: 'fp16', 'bf16', or 'auto' for fp16 on a GPU and bf16 on the CPU.

    Raises:
        UserError: For fp16 without a GPU, where it has neither speed nor loss scaling.
    """
    if dtype == 'auto':
        dtype = 'fp16' if torch.cuda.is_available() else 'bf16'
    if dtype == 'bf16':
        cfg.optim_wrapper.type = 'BFloat16OptimWrapper'
        for name in ('loss_scale', 'dtype', 'use_fp64'):  # of AmpOptimWrapper
            cfg.optim_wrapper.pop(name, None)
        return
    if not torch.cuda.is_available():
        raise UserError('--amp fp16 needs a GPU; use --amp bf16 on the CPU.')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.dtype = 'float16'
    cfg.optim_wrapper.loss_scale = 'dynamic'


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


def set_resume(cfg: Config, checkpoint: str) -> None:
    """Resume from a checkpoint, or with 'auto' from the newest whole one of the work directory.

    Says which that is and what it passed over; where there is none, training begins anew. Of
    several processes the first one searches, and all must see what it found.

    Args:
        cfg: The config, with ``work_dir``.
        checkpoint: A file, or 'auto'.

    Raises:
        UserError: If the file does not exist, is not whole or cannot be resumed from.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    path = on_main_process(_resumed, cfg.work_dir, hook.get('out_dir'), checkpoint)
    blind = [rank for rank, seen in enumerate(all_gather_object(_is_there(path))) if not seen]
    if blind:
        raise UserError(
            f'--resume {path}: the processes of rank {", ".join(map(str, blind))} do not see this '
            'file; all machines need one work directory, or a copy of the checkpoint there.'
        )
    cfg.resume = path is not None
    if path:
        cfg.load_from = path


def _resumed(work_dir: str, out_dir: str | None, checkpoint: str) -> str | None:
    if checkpoint != 'auto':
        require_resumable(checkpoint)
        return checkpoint
    point = find_resume_point(work_dir, out_dir)
    for sentence in point.passed_over:
        print(f'--resume passes over: {sentence}', flush=True)
    found = f'continues from {point.path}, the newest whole checkpoint'
    print(f'--resume {found if point.path else f"finds none in {work_dir}"}.', flush=True)
    return point.path


def _is_there(path: str | None) -> bool:
    return path is None or os.path.isfile(path)
