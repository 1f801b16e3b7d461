"""Finding things in a config at any depth: datasets behind wrappers, heads, evaluators."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config
from mmengine.registry import Registry

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


@dataclass(frozen=True)
class DataSource:
    """A data set with an annotation file, as a loader of a config names it."""

    split: str  # the loader: 'train', 'val' or 'test'
    path: str  # dotted path in the config
    config: dict  # the data set's own; the properties follow what is changed in it

    @property
    def kind(self) -> type | None:
        """The class that the config names, None where the registry does not know it."""
        return class_of(self.config, DATASETS)

    @property
    def is_coco(self) -> bool:
        """Whether it is mmdet's CocoDataset, or derived from it and read in its way.

        LVIS and COCO's panoptic data sets are read in ways of their own.
        """
        return (
            self.kind is not None
            and issubclass(self.kind, CocoDataset)
            and self.kind.load_data_list is CocoDataset.load_data_list
            and self.kind.parse_data_info is CocoDataset.parse_data_info
        )

    @property
    def ann_file(self) -> str:
        """Path of the annotation file, joined with ``data_root`` as mmdet does."""
        return os.path.join(self.config.get('data_root') or '', self.config['ann_file'])

    @property
    def folder(self) -> str:
        """Folder of the images, joined with ``data_root`` as mmdet does."""
        prefix = (self.config.get('data_prefix') or {}).get('img', '')
        return os.path.join(self.config.get('data_root') or '', prefix)

    @property
    def metainfo(self) -> dict[str, Any]:
        """What mmdet takes as such: the config's, over that of the data set's class."""
        return self.kind._load_metainfo(self.config.get('metainfo'))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(self.metainfo.get('classes', ()))


def data_sources(cfg: Config, *splits: str) -> Iterator[DataSource]:
    """Yield the data sets with an annotation file, by default of all splits, behind wrappers."""
    for split in splits or SPLITS:
        loader = cfg.get(f'{split}_dataloader') or {}
        for path, node in walk(loader.get('dataset') or {}, f'{split}_dataloader.dataset'):
            if 'ann_file' in node and 'type' in node:
                yield DataSource(split, path, node)


def pipeline_of(cfg: Config, split: str) -> list[dict]:
    """Transforms of a split's data set, the outermost ones behind wrappers; empty without any."""
    loader = cfg.get(f'{split}_dataloader') or {}
    found = (node['pipeline'] for _, node in walk(loader.get('dataset')) if node.get('pipeline'))
    return next(found, [])


def walk_evaluators(cfg: Config, split: str) -> Iterator[dict]:
    """Yield the config of each metric of 'val' or 'test', and of what is around them."""
    yield from (node for _, node in walk(cfg.get(f'{split}_evaluator')) if 'type' in node)


def walk_heads(model: dict) -> Iterator[tuple[str, dict]]:
    """Yield path and config of every part whose ``num_classes`` counts the data's categories.

    Region proposals, semantic segmentation and the backbone count something else.
    """
    for path, node in walk(model, 'model'):
        if 'num_classes' in node and not set(path.split('.')) & set(_OTHER_CLASSES):
            yield path, node


def is_coco_metric(evaluator: dict) -> bool:
    """Whether a metric's config names mmdet's CocoMetric or a class derived from it."""
    kind = class_of(evaluator, METRICS)
    return kind is not None and issubclass(kind, CocoMetric)


def class_of(node: dict, registry: Registry) -> type | None:
    """The class that a config names, None where the registry does not know it."""
    kind = node.get('type')
    kind = registry.get(kind) if isinstance(kind, str) else kind
    return kind if isinstance(kind, type) else None
