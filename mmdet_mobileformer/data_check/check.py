"""The check of a run's data before its first iteration.

Every annotation file is read once and its boxes are checked as arrays, so that COCO's 860 000 boxes
take seconds beyond the reading itself. What would stop a run later, or spoil it silently, is an
error; what mmdet handles in a way that may surprise is a warning:

========================================================  =======
annotation file or image folder missing, broken JSON,      error
not COCO's layout, a missing or wrongly typed field
duplicate ids, a category id or image id not in the file   error
image missing, unreadable, of another size than annotated  error
image name leading out of the folder                       error
class names unknown, missing, doubled or in another order  error
``num_classes`` of a head not the number of classes         error
evaluator reading another annotation file than the data    error
box not four finite numbers; no box left; most boxes       error
reaching out of their images (another box format)
class folders missing, unequal in splits, or too many      error
annotation of an image that the file does not list         warning
box that mmdet drops: under 1 pixel wide or high, of no    warning
area, or outside its image
box that reaches out of its image                          warning
category that is listed, but has no annotation             note
========================================================  =======

A run that leaves categories of the file out on purpose says so in its config:
``data_check = dict(other_categories='ignore')`` turns those into a note. With
``bad_images='skip'``, which --skip-bad-images sets, unreadable images are warnings.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from mmengine.config import Config
from mmengine.logging import print_log

from mmdet_mobileformer.config_tree import (
    annotation_path,
    dataset_classes,
    image_folder,
    is_coco_dataset,
    is_coco_metric,
    walk_datasets,
    walk_evaluators,
    walk_heads,
)
from mmdet_mobileformer.data_check.class_folders import check_class_folders
from mmdet_mobileformer.data_check.coco_file import Needs, check_coco_file
from mmdet_mobileformer.data_check.findings import Findings
from mmdet_mobileformer.data_check.images import check_folder, check_images


def check_data(cfg: Config, splits: Iterable[str]) -> Findings:
    """Check annotation files, images, classes and head sizes of a config.

    Args:
        cfg: The config after all command line overrides.
        splits: The loaders that the run will use, of 'train', 'val' and 'test'.

    Returns:
        The findings; nothing is raised or logged here.
    """
    findings, splits = Findings(), tuple(splits)
    uses, class_counts = {}, {}
    settings = cfg.get('data_check') or {}
    ignore_others = settings.get('other_categories') == 'ignore'
    skip_bad_images = settings.get('bad_images') == 'skip'
    for split in splits:
        evaluated = split != 'train' and _check_evaluators(cfg, split, findings)
        for path, dataset in walk_datasets(cfg, split):
            if not is_coco_dataset(dataset) or dataset.get('backend_args'):
                findings.notes.append(
                    f'{path} is not checked: only data sets in COCO format on local disks are.'
                )
                continue
            classes = dataset_classes(dataset)
            class_counts.setdefault(len(classes), path)
            key = (annotation_path(dataset), image_folder(dataset), classes)
            use = 'training' if split == 'train' else 'figures' if evaluated else 'images'
            uses.setdefault(key, (dataset, set()))[1].add(use)
    for (_, _, classes), (dataset, kinds) in uses.items():
        needs = Needs(classes, 'training' in kinds, 'figures' in kinds, ignore_others)
        _check_dataset(dataset, needs, skip_bad_images, findings)
    _check_head_sizes(cfg, class_counts, findings)
    check_class_folders(cfg, splits, findings)
    return findings


def run_data_check(cfg: Config, splits: Iterable[str]) -> None:
    """Check the data, log warnings and notes, and stop at errors.

    Raises:
        UserError: With all errors.
    """
    findings = check_data(cfg, splits)
    for kind, sentences in (('warning', findings.warnings), ('note', findings.notes)):
        for sentence in sentences:
            print_log(f'Data check, {kind}: {sentence}')
    findings.raise_errors()
    print_log('Data check: no errors.')


def _check_evaluators(cfg: Config, split: str, findings: Findings) -> bool:
    """Check that COCO metrics read the data's annotations, and say whether they compute figures."""
    files = {os.path.realpath(annotation_path(data)) for _, data in walk_datasets(cfg, split)}
    metrics = [metric for metric in walk_evaluators(cfg, split) if is_coco_metric(metric)]
    for metric in metrics:
        ann_file = metric.get('ann_file')
        if ann_file and files and os.path.realpath(ann_file) not in files:
            findings.errors.append(
                f'{split}_evaluator.ann_file of {cfg.filename} is {ann_file}, which is no '
                f'annotation file of {split}_dataloader; name the same file, or point --data-root '
                'at the data.'
            )
    return any(not metric.get('format_only') for metric in metrics)


def _check_dataset(dataset: dict, needs: Needs, skip_bad_images: bool, findings: Findings) -> None:
    ann_file, folder = annotation_path(dataset), image_folder(dataset)
    coco = check_coco_file(ann_file, needs, findings)
    folder_there = check_folder(folder, findings)
    if coco is not None:
        if folder_there:
            check_images(coco.images, ann_file, folder, findings, skip_bad_images)
        drops_empty = (dataset.get('filter_cfg') or {}).get('filter_empty_gt', False)
        if needs.trained and not coco.num_usable:
            (findings.errors if drops_empty else findings.warnings).append(
                f'{ann_file} has no box that mmdet would use among {coco.num_annotations} '
                'annotations; boxes must be [x, y, width, height] in pixels, at least 1 pixel wide '
                'and high, inside their images and of positive area.'
            )


def _check_head_sizes(cfg: Config, class_counts: dict[int, str], findings: Findings) -> None:
    """Compare ``num_classes`` of every head with the number of class names (count to a path)."""
    if len(class_counts) > 1:
        counts = ', '.join(f'{path} has {count}' for count, path in class_counts.items())
        findings.errors.append(
            f'the data sets of {cfg.filename} have different numbers of classes ({counts}); '
            'give all the same metainfo.classes, or use --classes auto.'
        )
        return
    for count, dataset_path in class_counts.items():
        for path, head in walk_heads(cfg.model):
            if head['num_classes'] != count:
                findings.errors.append(
                    f'{path}.num_classes of {cfg.filename} is {head["num_classes"]}, but '
                    f'{dataset_path} has {count} classes; set num_classes={count}, or '
                    'metainfo.classes to the right names, or use --classes auto.'
                )
