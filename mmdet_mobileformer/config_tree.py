"""Finding things in a config at any depth: datasets behind wrappers, heads, evaluators."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config

SPLITS = ('train', 'val', 'test')

# Parts of a model whose `num_classes` does not count the data set's categories.
_OTHER_CLASSES = ('data_preprocessor', 'backbone', 'neck', 'rpn_head', 'semantic_head')


def walk(node: Any, path: str = '') -> Iterator[tuple[str, dict]]:  # noqa: ANN401 (config values)
    """Yield every dict in a config value with its dotted path, outermost first."""
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            yield from walk(value, f'{path}.{key}' if path else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from walk(value, f'{path}[{index}]')


def names_class(node: dict, name: str) -> bool:
    """Whether a config names a class, with or without its registry's scope, or is given it."""
    kind = node.get('type')
    if isinstance(kind, str):
        return kind.split('.')[-1] == name
    return getattr(kind, '__name__', None) == name


def walk_datasets(cfg: Config, split: str) -> Iterator[tuple[str, dict]]:
    """Yield the data sets of a loader that read an annotation file, behind any wrappers.

    Args:
        cfg: The config.
        split: 'train', 'val' or 'test'.

    Yields:
        Dotted path and config of each.
    """
    loader = cfg.get(f'{split}_dataloader') or {}
    for path, node in walk(loader.get('dataset') or {}, f'{split}_dataloader.dataset'):
        if 'ann_file' in node and 'type' in node:
            yield path, node


def walk_class_folders(cfg: Config, split: str) -> Iterator[tuple[str, dict]]:
    """Yield the data sets of a loader that are folders with one folder of images for each class.

    Args:
        cfg: The config.
        split: 'train', 'val' or 'test'.

    Yields:
        Dotted path and config of each (mmpretrain's CustomDataset without an annotation file).
    """
    loader = cfg.get(f'{split}_dataloader') or {}
    for path, node in walk(loader.get('dataset') or {}, f'{split}_dataloader.dataset'):
        kind = str(node.get('type')).split('.')[-1]
        if kind == 'CustomDataset' and not node.get('ann_file') and node.get('with_label', True):
            yield path, node


def class_folder_root(dataset: dict) -> str:
    """The folder whose folders are the classes, joined with ``data_root`` as mmpretrain does."""
    prefix = dataset.get('data_prefix') or ''
    prefix = prefix.get('img_path', '') if isinstance(prefix, dict) else prefix
    return os.path.join(dataset.get('data_root') or '', prefix)


def walk_evaluators(cfg: Config, split: str) -> Iterator[dict]:
    """Yield the config of each metric of 'val' or 'test'."""
    evaluators = cfg.get(f'{split}_evaluator') or []
    for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
        if 'metrics' in evaluator:  # an Evaluator around metrics
            metrics = evaluator['metrics']
            yield from metrics if isinstance(metrics, (list, tuple)) else [metrics]
        else:
            yield evaluator


def walk_heads(model: dict) -> Iterator[tuple[str, dict]]:
    """Yield every part of a model config whose ``num_classes`` counts the data set's categories.

    Yields:
        Dotted path from ``model`` and config of each; region proposals, semantic segmentation and
        the backbone count something else and are left out.
    """
    for path, node in walk(model, 'model'):
        if 'num_classes' in node and not set(path.split('.')) & set(_OTHER_CLASSES):
            yield path, node


def is_coco_dataset(dataset: dict) -> bool:
    """Whether a data set's config names mmdet's CocoDataset, or a class derived from it.

    Those that read their files in a way of their own (LVIS, COCO's panoptic ones) are no such.
    """
    kind = dataset['type']
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    return (
        isinstance(kind, type)
        and issubclass(kind, CocoDataset)
        and kind.load_data_list is CocoDataset.load_data_list
        and kind.parse_data_info is CocoDataset.parse_data_info
    )


def is_coco_metric(evaluator: dict) -> bool:
    """Whether a metric's config names mmdet's CocoMetric or a class derived from it."""
    kind = evaluator.get('type')
    kind = METRICS.get(kind) if isinstance(kind, str) else kind
    return isinstance(kind, type) and issubclass(kind, CocoMetric)


def dataset_classes(dataset: dict) -> tuple[str, ...]:
    """Class names of a data set, as mmdet takes them: from ``metainfo``, else its type's own."""
    kind = dataset['type']
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    return tuple(kind._load_metainfo(dataset.get('metainfo')).get('classes', ()))


def annotation_path(dataset: dict) -> str:
    """Path of a data set's annotation file, joined with ``data_root`` as mmdet does."""
    return os.path.join(dataset.get('data_root') or '', dataset['ann_file'])


def image_folder(dataset: dict) -> str:
    """Folder of a data set's images, joined with ``data_root`` as mmdet does."""
    prefix = (dataset.get('data_prefix') or {}).get('img', '')
    return os.path.join(dataset.get('data_root') or '', prefix)
