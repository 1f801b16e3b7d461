"""The check of a run's data before its first iteration.

Every annotation file is read once and its boxes are checked as arrays, so that COCO's 860 000 boxes
take seconds beyond the reading itself; all images are opened, or as many as half a minute allows.
What would stop a run later, or spoil it silently, is an error: files that are missing or no COCO
annotations, doubled ids, images that are missing, unreadable, outside the folder or of another
size, classes that are not those of the data and the heads in number, names and order, boxes in
another format, nothing to learn, an evaluator that reads other annotations than the data.
What mmdet handles in a way that may surprise is a warning: boxes that it drops, boxes that reach
out of their images, annotations of unlisted images, more objects than the detector can find.

A config's ``data_check`` is a dict of two settings, the second of which tools set:

- ``other_categories='ignore'``: the run leaves categories of the file out on purpose (a note).
- ``bad_images='skip'``: the run skips unreadable images (--skip-bad-images; warnings).
"""

import os
from collections.abc import Iterable

from mmengine.config import Config
from mmengine.logging import print_log

from mmdet_mobileformer.config_tree import (
    DataSource,
    data_sources,
    is_coco_metric,
    walk_evaluators,
    walk_heads,
)
from mmdet_mobileformer.data_check.coco_file import check_coco_file
from mmdet_mobileformer.data_check.findings import Findings
from mmdet_mobileformer.data_check.images import check_files, open_images


def check_data(cfg: Config, splits: Iterable[str]) -> Findings:
    """Check annotation files, images, classes and head sizes of a config.

    Args:
        cfg: The config after all command line overrides.
        splits: The loaders that the run will use, of 'train', 'val' and 'test'.

    Returns:
        The findings; nothing is raised here.
    """
    findings = Findings()
    settings = cfg.get('data_check') or {}
    # Loaders that read the same files with the same classes share one check.
    shared: dict[tuple, list[DataSource]] = {}
    evaluated = set()
    for split in splits:
        sources = list(data_sources(cfg, split))
        if split != 'train' and _check_evaluators(cfg, split, sources, findings):
            evaluated.add(split)
        for source in sources:
            if source.is_coco and not source.config.get('backend_args'):
                key = (source.ann_file, source.folder, source.classes)
                shared.setdefault(key, []).append(source)
            else:
                findings.notes.append(
                    f'{source.path} is not checked: only data sets in COCO format on local disks '
                    'are.'
                )
    image_sets = []
    for (ann_file, folder, classes), sources in shared.items():
        images = check_coco_file(
            ann_file,
            classes,
            findings,
            trained=any(source.split == 'train' for source in sources),
            evaluated=any(source.split in evaluated for source in sources),
            drops_empty=(sources[0].config.get('filter_cfg') or {}).get('filter_empty_gt', False),
            ignore_others=settings.get('other_categories') == 'ignore',
            limits=_limits(cfg),
        )
        if not os.path.isdir(folder):
            findings.errors.append(
                f'the image folder {folder} does not exist; point --data-root at the folder that '
                'holds it, or set data_prefix.img.'
            )
        elif images is not None:
            image_sets.append(check_files(images, ann_file, folder, findings))
    _check_classes(cfg, [sources[0] for sources in shared.values()], findings)
    open_images(image_sets, findings, settings.get('bad_images') == 'skip')
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


def _limits(cfg: Config) -> dict[str, int]:
    """Settings of the config that limit how many objects the detector finds in an image."""
    test_cfg = cfg.model.get('test_cfg') or {}
    limits = {
        'model.num_queries': cfg.model.get('num_queries'),
        'model.test_cfg.max_per_img': test_cfg.get('max_per_img'),
        'model.test_cfg.rcnn.max_per_img': (test_cfg.get('rcnn') or {}).get('max_per_img'),
    }
    return {name: value for name, value in limits.items() if value and value > 0}


def _check_evaluators(
    cfg: Config, split: str, sources: list[DataSource], findings: Findings
) -> bool:
    """Check that COCO metrics read the data's annotations, and say whether they compute figures."""
    files = {os.path.realpath(source.ann_file) for source in sources}
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


def _check_classes(cfg: Config, sources: list[DataSource], findings: Findings) -> None:
    """Compare ``num_classes`` of every head with the number of class names."""
    counts = {len(source.classes): source for source in reversed(sources)}
    if len(counts) > 1:
        different = ', '.join(f'{source.path} has {count}' for count, source in counts.items())
        findings.errors.append(
            f'the data sets of {cfg.filename} have different numbers of classes ({different}); '
            'give all the same metainfo.classes, or use --classes auto.'
        )
        return
    for count, source in counts.items():
        for path, head in walk_heads(cfg.model):
            if head['num_classes'] != count:
                findings.errors.append(
                    f'{path}.num_classes of {cfg.filename} is {head["num_classes"]}, but '
                    f'{source.path} has {count} classes; set num_classes={count}, or '
                    'metainfo.classes to the right names, or use --classes auto.'
                )
