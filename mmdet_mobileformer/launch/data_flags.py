"""Command line flags that rewrite a config's data: another folder, its classes, AP by class.

All functions change the config in place and work on any mmdet config, this project's or not.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from mmdet.visualization.palette import get_palette
from mmengine.config import Config
from mmengine.logging import print_log

from mmdet_mobileformer.config_tree import (
    SPLITS,
    DataSource,
    data_sources,
    is_coco_metric,
    walk,
    walk_evaluators,
    walk_heads,
)
from mmdet_mobileformer.errors import UserError, listing
from mmdet_mobileformer.launch.data_layouts import coco_layout, find_annotations, how_to_convert


def set_data_root(cfg: Config, data_root: str) -> None:
    """Point every loader and evaluator at another folder in COCO format.

    A file or folder that the config names relative to its own root is looked for under the new one;
    where that is not there, the layouts that :func:`find_annotations` knows are. Data sets without
    an annotation file (ImageNet's) take the new root and keep the folder under it.

    Raises:
        UserError: If the folder does not exist, is in a layout that has to be converted, or a data
            set of the config is not in COCO format.
    """
    if not os.path.isdir(data_root):
        raise UserError(f'--data-root {data_root} is not a folder; name one in COCO layout.')
    if 'data_root' in cfg:
        cfg.data_root = data_root
    for split in SPLITS:
        for _, node in walk((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            if 'data_root' in node and not node.get('ann_file'):
                node['data_root'] = data_root
        moved = {}
        for source in data_sources(cfg, split):
            if not source.is_coco:
                raise UserError(
                    f'--data-root needs data sets in COCO format, but {source.path}.type of '
                    f'{cfg.filename} is {source.config["type"]}; use a config with CocoDataset.'
                )
            before = source.ann_file
            _move_dataset(source, data_root)
            moved[os.path.normpath(before)] = source.ann_file
        for evaluator in walk_evaluators(cfg, split):
            if moved and evaluator.get('ann_file'):
                old = os.path.normpath(evaluator['ann_file'])
                evaluator['ann_file'] = moved.get(old, next(iter(moved.values())))


def _move_dataset(source: DataSource, data_root: str) -> None:
    dataset = source.config
    ann_file, prefix = dataset['ann_file'], dict(dataset.get('data_prefix') or {})
    images = prefix.get('img', '')
    kept = not os.path.isabs(ann_file) and os.path.isfile(os.path.join(data_root, ann_file))
    if not (kept and not os.path.isabs(images) and os.path.isdir(os.path.join(data_root, images))):
        found = find_annotations(data_root, source.split)
        advice = None if kept or found else how_to_convert(data_root)
        if advice:
            raise UserError(advice)
        found_file, images = found or coco_layout(source.split)
        ann_file = ann_file if kept else found_file
    prefix['img'] = images
    dataset.update(data_root=data_root, ann_file=ann_file, data_prefix=prefix)


def annotated_classes(cfg: Config) -> tuple[str, ...]:
    """Category names in the annotation file of the first data set, in the file's order.

    Left out, with a note, are categories without annotation that only name the others: their
    supercategory, which Roboflow lists as a category, or the background.

    Raises:
        UserError: If there is no such file or it is not a COCO annotation file.
    """
    ann_file = next((source.ann_file for source in data_sources(cfg)), None)
    if ann_file is None:
        raise UserError(
            f'--classes auto finds no data set with an annotation file in {cfg.filename}.'
        )
    categories, used = read_categories(ann_file)
    parents = {c.get('supercategory') for c in categories if c.get('supercategory') != c['name']}
    names = [category['name'] for category in categories]
    unused = [
        category['name']
        for category in categories
        if category['id'] not in used
        and (category['name'] in parents or category['name'].strip('_ ').lower() == 'background')
    ]
    if unused:
        print_log(
            f'--classes auto leaves {listing(unused)} of {ann_file} out: it stands for the other '
            'categories or the background, and nothing is annotated with it.'
        )
    return tuple(name for name in names if name not in unused)


def read_categories(ann_file: str) -> tuple[list[dict], set]:
    """Categories of an annotation file, and the ids of those that have an annotation.

    Raises:
        UserError: If it cannot be read or is no COCO annotation file.
    """
    try:
        content = json.loads(Path(ann_file).read_text(encoding='utf-8'))
        used = {annotation.get('category_id') for annotation in content.get('annotations') or []}
        return [dict(c, id=c['id'], name=c['name']) for c in content['categories']], used
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'the categories of {ann_file} cannot be read ({type(error).__name__}: {error}); it '
            'must be a COCO annotation file (JSON with images, annotations and categories): name '
            'its folder by --data-root.'
        ) from None


def set_classes(cfg: Config, classes: Sequence[str]) -> None:
    """Give all data sets these class names in label order, with a palette, and size every head."""
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
    metrics = [m for s in ('val', 'test') for m in walk_evaluators(cfg, s) if is_coco_metric(m)]
    if not metrics:
        raise UserError(f'--classwise needs a COCO metric, and {cfg.filename} has none.')
    for metric in metrics:
        metric['classwise'] = True
