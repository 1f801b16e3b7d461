"""Command line flags that rewrite a config's data: another folder, its classes, AP by class.

All functions change the config in place and work on any mmdet config, this project's or not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from mmdet.visualization.palette import get_palette
from mmengine.config import Config

from mmdet_mobileformer.config_tree import (
    SPLITS,
    data_sources,
    is_coco_metric,
    walk,
    walk_evaluators,
    walk_heads,
)
from mmdet_mobileformer.errors import UserError


def set_data_root(cfg: Config, data_root: str) -> None:
    """Point every loader and evaluator at another folder in COCO layout.

    A file or folder that the config names relative to its own root is looked for under the new one;
    where that is not there, COCO's standard names are taken:
    ``annotations/instances_train2017.json`` and ``train2017/`` for training, those of ``val2017``
    for validation and test. Data sets without an annotation file (ImageNet's) take the new root and
    keep the folder under it.

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
        for _, node in walk((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            if 'data_root' in node and not node.get('ann_file'):
                node['data_root'] = data_root
        annotations = {}
        for source in data_sources(cfg, split):
            if not source.is_coco:
                raise UserError(
                    f'--data-root needs data sets in COCO format, but {source.path}.type of '
                    f'{cfg.filename} is {source.config["type"]}; use a config with CocoDataset.'
                )
            before = source.ann_file
            _move_dataset(source.config, data_root, 'train2017' if split == 'train' else 'val2017')
            annotations[os.path.normpath(before)] = source.ann_file
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
    for source in data_sources(cfg):
        try:
            with open(source.ann_file, encoding='utf-8') as file:
                return tuple(category['name'] for category in json.load(file)['categories'])
        except OSError:
            raise UserError(
                f'--classes auto cannot read the annotation file {source.ann_file}; '
                'name its folder by --data-root.'
            ) from None
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f'--classes auto finds no categories in {source.ann_file}; it must be a COCO '
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
    for source in data_sources(cfg):
        source.config['metainfo'] = dict(
            source.config.get('metainfo') or {}, classes=tuple(classes), palette=palette
        )
    for _, head in walk_heads(cfg.model):
        head['num_classes'] = len(classes)


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
