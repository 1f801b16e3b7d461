"""The check of one COCO annotation file: layout, categories, crowds."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mmdet_mobileformer.data_check.boxes import check_boxes
from mmdet_mobileformer.data_check.findings import Findings
from mmdet_mobileformer.errors import listing

LARGE_FILE = 50  # MiB; about a second

_IMAGE_FIELDS = {
    'id': (int, str),
    'file_name': (str,),
    'width': (int, float),
    'height': (int, float),
}
_CATEGORY_FIELDS = {'id': (int,), 'name': (str,)}
_ANNOTATION_FIELDS = {
    'id': (int, str),
    'image_id': (int, str),
    'category_id': (int,),
    'bbox': (list,),
    'area': (int, float),
}
_CROWD_FIELD = {'iscrowd': (int, bool)}  # pycocotools cannot evaluate without it; training can


@dataclass(frozen=True)
class Needs:
    """What a run needs of an annotation file.

    Attributes:
        classes: The config's class names in label order.
        trained: Whether the file is trained on.
        evaluated: Whether COCO's evaluation will read it, which needs ``iscrowd``.
        ignore_others: Whether categories beside ``classes`` are left out on purpose.
        classes_of: The checkpoint that the classes were taken from; None: they are the config's.
    """

    classes: Sequence[str]
    trained: bool
    evaluated: bool
    ignore_others: bool = False
    classes_of: str | None = None


@dataclass(frozen=True)
class CocoFile:
    """What later checks need of an annotation file.

    Attributes:
        images: The entries of its images.
        num_annotations: Number of its annotations.
        num_usable: Number of those whose box mmdet uses.
    """

    images: list[dict]
    num_annotations: int
    num_usable: int


def check_coco_file(ann_file: str, needs: Needs, findings: Findings) -> CocoFile | None:
    """Check an annotation file.

    Args:
        ann_file: Its path.
        needs: What the run needs of it; only a run without both training and evaluation, which
            writes predictions alone, does without annotations.
        findings: Takes what is found.

    Returns:
        The file's content for later checks, or None where its layout is wrong.
    """
    fields = {'images': _IMAGE_FIELDS, 'categories': _CATEGORY_FIELDS}
    if needs.trained or needs.evaluated:
        fields['annotations'] = _ANNOTATION_FIELDS | (_CROWD_FIELD if needs.evaluated else {})
    data = _read(ann_file, fields, findings)
    if data is None:
        return None
    sound = [_check_fields(ann_file, kind, data[kind], fields[kind], findings) for kind in fields]
    if not all(sound):
        return None
    images, categories = data['images'], data['categories']
    annotations = data['annotations'] if 'annotations' in fields else []
    for kind, entries in (('image', images), ('annotation', annotations), ('category', categories)):
        doubled = _doubled(entry['id'] for entry in entries)
        if doubled:
            findings.error(
                f'{ann_file} has {kind} ids that are not unique: {listing(doubled)}; give every '
                f'{kind} its own id.'
            )
    empty = [i['id'] for i in images if not (i['width'] > 0 and i['height'] > 0)]
    if empty:
        findings.error(
            f'{ann_file}: {len(empty)} images have no positive width and height (ids '
            f'{listing(empty)}); correct or remove them.'
        )
    _check_categories(ann_file, categories, annotations, needs, findings)
    if annotations and all(annotation.get('iscrowd') for annotation in annotations):
        _report_crowds(f'all {len(annotations)} annotations of {ann_file}', needs, findings)
    usable = check_boxes(ann_file, images, annotations, findings)
    return CocoFile(images, len(annotations), usable)


def read_json(path: str) -> Any:  # noqa: ANN401 (whatever the JSON holds)
    """Read a JSON file, and say so where that takes several seconds.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no JSON, or not in UTF-8.
    """
    size = os.path.getsize(path) / 2**20
    if size > LARGE_FILE:
        print(f'Reading {path} ({size:.0f} MiB).', flush=True)
    try:
        with open(path, encoding='utf-8') as file:
            return json.load(file)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def _read(ann_file: str, wanted: Iterable[str], findings: Findings) -> dict | None:
    """The file's content, with all the wanted lists."""
    if not os.path.isfile(ann_file):
        findings.error(
            f'the annotation file {ann_file} does not exist; point --data-root at the folder that '
            'holds annotations/, or set ann_file.'
        )
        return None
    try:
        data = read_json(ann_file)
    except ValueError as error:
        findings.error(f'{ann_file} is not valid JSON ({error}); get or write the file again.')
        return None
    except OSError as error:
        findings.error(f'{ann_file} cannot be read ({error}); correct its permissions.')
        return None
    lists = data if isinstance(data, dict) else {}
    missing = [key for key in wanted if not isinstance(lists.get(key), list)]
    if missing:
        findings.error(
            f'{ann_file} is not a COCO annotation file: it has no list of {", ".join(missing)}; '
            'convert it to COCO format, or point --data-root at such a folder.'
        )
        return None
    return data


def _check_fields(
    ann_file: str, kind: str, entries: list, fields: dict[str, tuple], findings: Findings
) -> bool:
    """Check that every entry is a dict whose fields are there and of their types."""
    if not all(isinstance(entry, dict) for entry in entries):
        findings.error(
            f'{ann_file}: {kind} must be a list of objects; convert the file to COCO format.'
        )
        return False
    sound = True
    for name, types in fields.items():
        wrong = [entry for entry in entries if type(entry.get(name)) not in types]
        if wrong:
            findings.error(
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
    source = 'metainfo.classes'
    remedy = 'set metainfo.classes and num_classes, use --classes auto, or correct --data-root'
    in_order = 'put metainfo.classes in that order, the same for training and validation'
    if needs.classes_of:
        source = f'the classes of the checkpoint {needs.classes_of}'
        remedy = 'name the data that it was trained on by --data-root, or train on this data first'
        in_order = f"put the file's categories in the order {listing(classes)}"
    doubled = _doubled(category['name'] for category in categories) + _doubled(classes)
    if doubled:
        findings.error(
            f'category names are not unique in {ann_file} or {source}: {listing(doubled)}; give '
            'every category its own name.'
        )
    for category_id in sorted(set(counts) - set(names)):
        findings.error(
            f'{ann_file} has {counts[category_id]} annotations of category id {category_id}, which '
            'its list of categories does not hold; add it there or remove them.'
        )
    others = [name for i, name in names.items() if name not in classes and counts[i]]
    if others and needs.ignore_others:
        findings.note(f'{ann_file}: annotations of {listing(others)} are left out.')
    elif others:
        findings.error(
            f'{ann_file} has annotations of categories that are not among {source}: '
            f'{listing(others)}; {remedy}; --cfg-options data_check.other_categories=ignore leaves '
            'them out.'
        )
    unknown = [name for name in classes if name not in names.values()]
    if unknown:
        findings.error(
            f'{source} name {listing(unknown)}, which {ann_file} does not: its categories are '
            f'{listing(names.values())}; {remedy}.'
        )
    common = [name for name in names.values() if name in classes]
    if not unknown and not doubled and common != list(classes):
        findings.error(
            f'{source} are in another order than the categories of {ann_file}, by which mmdet '
            f'numbers the labels ({listing(common)}); {in_order}.'
        )
    unused = [name for i, name in names.items() if name in classes and not counts[i]]
    if unused and annotations:
        findings.note(f'{ann_file} lists categories without annotation: {listing(unused)}.')


def _report_crowds(all_of_them: str, needs: Needs, findings: Findings) -> None:
    remedy = 'set iscrowd to 0 where a box is around one object'
    if needs.trained:
        findings.error(
            f'{all_of_them} are crowds (iscrowd=1), which are no targets: the detector would learn '
            f'to find nothing; {remedy}.'
        )
    if needs.evaluated:
        findings.warning(
            f"{all_of_them} are crowds (iscrowd=1), which COCO's evaluation does not count: every "
            f'figure will be -1; {remedy}.'
        )


def is_background(name: str) -> bool:
    """Whether a category's name says that it stands for the background."""
    return name.strip('_ ').lower() == 'background'


def _doubled(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]
