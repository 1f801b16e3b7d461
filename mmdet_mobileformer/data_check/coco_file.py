"""The check of one COCO annotation file: layout, ids, categories, boxes."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdet_mobileformer.data_check.boxes import check_boxes
from mmdet_mobileformer.data_check.findings import Findings
from mmdet_mobileformer.errors import listing

_FIELDS = {
    'images': dict(id=(int, str), file_name=(str,), width=(int, float), height=(int, float)),
    'categories': dict(id=(int,), name=(str,)),
    'annotations': dict(
        id=(int, str), image_id=(int, str), category_id=(int,), bbox=(list,), area=(int, float)
    ),
}
_CROWD_FIELD = dict(iscrowd=(int, bool))  # pycocotools cannot evaluate without it; training can


@dataclass(frozen=True)
class Needs:
    """What a run needs of an annotation file.

    Attributes:
        classes: The run's class names in label order.
        trained: Whether the file is trained on.
        evaluated: Whether COCO's evaluation will read it, which needs ``iscrowd``. Without training
            and evaluation the run writes predictions alone, and needs no annotations.
        ignore_others: Whether categories beside ``classes`` are left out on purpose.
    """

    classes: Sequence[str]
    trained: bool
    evaluated: bool
    ignore_others: bool


@dataclass(frozen=True)
class CocoFile:
    """What later checks need of an annotation file.

    Attributes:
        images: The entries of its images.
        num_annotations: Number of its annotations.
        num_targets: Number of those that mmdet takes as targets.
    """

    images: list[dict]
    num_annotations: int
    num_targets: int


def check_coco_file(ann_file: str, needs: Needs, findings: Findings) -> CocoFile | None:
    """Check an annotation file.

    Returns:
        The file's content for later checks, or None where its layout is wrong.
    """
    fields = dict(_FIELDS)
    if not (needs.trained or needs.evaluated):
        del fields['annotations']
    elif needs.evaluated:
        fields['annotations'] = _FIELDS['annotations'] | _CROWD_FIELD
    data = _read(ann_file, fields, findings)
    if data is None:
        return None
    sound = [_check_fields(ann_file, kind, data[kind], fields[kind], findings) for kind in fields]
    if not all(sound):
        return None
    for kind in fields:
        doubled = _doubled(entry['id'] for entry in data[kind])
        if doubled:
            findings.errors.append(
                f'{ann_file}: ids of {kind} are not unique: {listing(doubled)}; give each its own.'
            )
    annotations = data['annotations'] if 'annotations' in fields else []
    _check_categories(ann_file, data['categories'], annotations, needs, findings)
    targets = check_boxes(ann_file, data['images'], annotations, findings)
    return CocoFile(data['images'], len(annotations), targets)


def _read(ann_file: str, wanted: Iterable[str], findings: Findings) -> dict | None:
    """The file's content, with all the wanted lists."""
    try:
        data = json.loads(Path(ann_file).read_text(encoding='utf-8'))
    except OSError as error:
        findings.errors.append(
            f'the annotation file {ann_file} cannot be read ({error.strerror}); point --data-root '
            'at the folder that holds annotations/, or set ann_file.'
        )
        return None
    except ValueError as error:
        findings.errors.append(
            f'{ann_file} is not valid JSON ({error}); get or write the file again.'
        )
        return None
    lists = data if isinstance(data, dict) else {}
    missing = [key for key in wanted if not isinstance(lists.get(key), list)]
    if missing:
        findings.errors.append(
            f'{ann_file} is not a COCO annotation file: it has no list of {", ".join(missing)}; '
            'convert it to COCO format, or point --data-root at such a folder.'
        )
        return None
    return data


def _check_fields(
    ann_file: str, kind: str, entries: list[dict], fields: dict[str, tuple], findings: Findings
) -> bool:
    """Check that the fields of every entry are there and of their types."""
    sound = True
    for name, types in fields.items():
        wrong = [entry for entry in entries if type(entry.get(name)) not in types]
        if wrong:
            findings.errors.append(
                f'{ann_file}: {len(wrong)} of {len(entries)} {kind} have no {name!r} of type '
                f'{" or ".join(t.__name__ for t in types)} (first with id '
                f'{wrong[0].get("id")!r}: {wrong[0].get(name)!r}); correct them.'
            )
            sound = False
    return sound


def _check_categories(
    ann_file: str,
    categories: list[dict],
    annotations: list[dict],
    needs: Needs,
    findings: Findings,
) -> None:
    classes = needs.classes
    names = {category['id']: category['name'] for category in categories}
    counts = Counter(annotation['category_id'] for annotation in annotations)
    source = 'the classes of the run'
    remedy = (
        'set metainfo.classes and num_classes, train with --classes auto, or correct --data-root '
        '(tools/test.py --classes auto takes the classes of the checkpoint)'
    )
    doubled = _doubled(category['name'] for category in categories) + _doubled(classes)
    if doubled:
        findings.errors.append(
            f'category names are not unique in {ann_file} or {source}: {listing(doubled)}; give '
            'every category its own name.'
        )
    for category_id in sorted(set(counts) - set(names)):
        findings.errors.append(
            f'{ann_file} has {counts[category_id]} annotations of category id {category_id}, which '
            'its list of categories does not hold; add it there or remove them.'
        )
    others = [name for i, name in names.items() if name not in classes and counts[i]]
    if others and needs.ignore_others:
        findings.notes.append(f'{ann_file}: annotations of {listing(others)} are left out.')
    elif others:
        findings.errors.append(
            f'{ann_file} has annotations of categories that are not among {source}: '
            f'{listing(others)}; {remedy}; --cfg-options data_check.other_categories=ignore leaves '
            'them out.'
        )
    unknown = [name for name in classes if name not in names.values()]
    if unknown:
        findings.errors.append(
            f'{source} name {listing(unknown)}, which {ann_file} does not: its categories are '
            f'{listing(names.values())}; {remedy}.'
        )
    common = [name for name in names.values() if name in classes]
    if not unknown and not doubled and common != list(classes):
        findings.errors.append(
            f'{source} are in another order than the categories of {ann_file}, by which mmdet '
            f'numbers the labels: {listing(classes)} instead of {listing(common)}; give both the '
            'same order, in training and validation.'
        )
    unused = [name for i, name in names.items() if name in classes and not counts[i]]
    if unused and annotations:
        findings.notes.append(f'{ann_file} lists categories without annotation: {listing(unused)}.')


def _doubled(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]
