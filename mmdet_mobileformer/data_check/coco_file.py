"""The check of one COCO annotation file: layout, categories, boxes."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmdet_mobileformer.data_check.findings import Findings, listing

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
    """

    classes: Sequence[str]
    trained: bool
    evaluated: bool
    ignore_others: bool = False


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
    annotated = needs.trained or needs.evaluated
    data = _read(ann_file, annotated, findings)
    if data is None:
        return None
    images, categories = data['images'], data['categories']
    annotations = data['annotations'] if annotated else []
    fields = {**_ANNOTATION_FIELDS, **(_CROWD_FIELD if needs.evaluated else {})}
    sound = [
        _check_fields(ann_file, 'images', images, _IMAGE_FIELDS, findings),
        _check_fields(ann_file, 'categories', categories, _CATEGORY_FIELDS, findings),
        _check_fields(ann_file, 'annotations', annotations, fields, findings),
    ]
    if not all(sound):
        return None
    for kind, entries in (('image', images), ('annotation', annotations), ('category', categories)):
        doubled = _doubled(entry['id'] for entry in entries)
        if doubled:
            findings.errors.append(
                f'{ann_file} has {kind} ids that are not unique: {listing(doubled)}; give every '
                f'{kind} its own id.'
            )
    empty = [i['id'] for i in images if not (i['width'] > 0 and i['height'] > 0)]
    if empty:
        findings.errors.append(
            f'{ann_file}: {len(empty)} images have no positive width and height (ids '
            f'{listing(empty)}); correct or remove them.'
        )
    _check_categories(ann_file, categories, annotations, needs, findings)
    usable = _check_boxes(ann_file, images, annotations, findings)
    return CocoFile(images, len(annotations), usable)


def _read(ann_file: str, annotated: bool, findings: Findings) -> dict | None:
    if not os.path.isfile(ann_file):
        findings.errors.append(
            f'the annotation file {ann_file} does not exist; point --data-root at the folder that '
            'holds annotations/, or set ann_file.'
        )
        return None
    try:
        with open(ann_file, encoding='utf-8') as file:
            data = json.load(file)
    except (ValueError, RecursionError) as error:  # wrong JSON or wrong UTF-8 is a ValueError
        findings.errors.append(
            f'{ann_file} is not valid JSON ({error}); get or write the file again.'
        )
        return None
    except OSError as error:
        findings.errors.append(f'{ann_file} cannot be read ({error}); mend its permissions.')
        return None
    wanted = ('images', 'categories', 'annotations')[: 3 if annotated else 2]
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
    ann_file: str, kind: str, entries: list, fields: dict[str, tuple], findings: Findings
) -> bool:
    """Check that every entry is a dict whose fields are there and of their types."""
    sound = all(isinstance(entry, dict) for entry in entries)
    if not sound:
        findings.errors.append(
            f'{ann_file}: {kind} must be a list of objects; convert the file to COCO format.'
        )
        return False
    for name, types in fields.items():
        kinds = {type(entry.get(name)) for entry in entries} - set(types)
        if kinds:
            wrong = [entry for entry in entries if type(entry.get(name)) in kinds]
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
    remedy = 'set metainfo.classes and num_classes, use --classes auto, or correct --data-root'
    doubled = _doubled(category['name'] for category in categories) + _doubled(classes)
    if doubled:
        findings.errors.append(
            f'category names are not unique in {ann_file} or metainfo.classes: {listing(doubled)}; '
            'give every category its own name.'
        )
    for category_id in sorted(set(counts) - set(names)):
        findings.errors.append(
            f'{ann_file} has {counts[category_id]} annotations of category id {category_id}, which '
            'its list of categories does not hold; add it there or remove them.'
        )
    others = [i for i, name in names.items() if name not in classes and counts[i]]
    if others and needs.ignore_others:
        findings.notes.append(
            f'{ann_file}: annotations of {listing(names[i] for i in others)} are left out.'
        )
    for category_id in [] if needs.ignore_others else others:
        findings.errors.append(
            f'{ann_file} has {counts[category_id]} annotations of category {names[category_id]!r}, '
            f'which metainfo.classes does not hold; {remedy}; data_check.other_categories=ignore '
            'leaves such categories out.'
        )
    unknown = [name for name in classes if name not in names.values()]
    if unknown:
        findings.errors.append(
            f'metainfo.classes has names that are no category of {ann_file}: {listing(unknown)}; '
            f'{remedy}.'
        )
    in_order = [name for name in names.values() if name in classes]
    if not unknown and not doubled and in_order != list(classes):
        findings.errors.append(
            f'metainfo.classes is in another order than the categories of {ann_file}, by which '
            f'mmdet numbers the labels ({listing(in_order)}); put metainfo.classes in that order, '
            'the same for training and validation.'
        )
    unused = [name for category, name in names.items() if not counts[category]]
    if unused and annotations:
        findings.notes.append(f'{ann_file} lists categories without annotation: {listing(unused)}.')


def _check_boxes(
    ann_file: str, images: list[dict], annotations: list[dict], findings: Findings
) -> int:
    """Check all boxes and return how many mmdet uses."""
    wrong = [
        a['id'] for a in annotations if len(a['bbox']) != 4 or not all(map(_is_number, a['bbox']))
    ]
    if wrong:
        findings.errors.append(
            f'{ann_file}: {len(wrong)} boxes are not four numbers [x, y, width, height] '
            f'(annotation ids {listing(wrong)}); correct or remove them.'
        )
        return len(annotations)
    sizes = {image['id']: (image['width'], image['height']) for image in images}
    stray = [a['id'] for a in annotations if a['image_id'] not in sizes]
    if stray:
        findings.warnings.append(
            f'{ann_file}: {len(stray)} annotations belong to images that it does not list '
            f'(annotation ids {listing(stray)}); mmdet leaves them out.'
        )
        annotations = [a for a in annotations if a['image_id'] in sizes]
    if not annotations:
        return 0
    ids = np.array([a['id'] for a in annotations], dtype=object)
    boxes = np.array([a['bbox'] for a in annotations], dtype=np.float64)
    areas = np.array([a['area'] for a in annotations], dtype=np.float64)
    limits = np.array([sizes[a['image_id']] for a in annotations], dtype=np.float64)
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(areas)
    if not finite.all():
        findings.errors.append(
            f'{ann_file}: {(~finite).sum()} boxes or areas are not finite (annotation ids '
            f'{listing(ids[~finite])}); correct or remove them.'
        )
    return _check_finite_boxes(
        ann_file, ids[finite], boxes[finite], areas[finite], limits[finite], findings
    )


def _check_finite_boxes(
    ann_file: str,
    ids: np.ndarray,
    boxes: np.ndarray,
    areas: np.ndarray,
    limits: np.ndarray,
    findings: Findings,
) -> int:
    """Check boxes (B, 4) as [x, y, width, height] against image sizes (B, 2) as width, height."""
    low, size = boxes[:, :2], boxes[:, 2:]
    inside = np.minimum(low + size, limits) - np.maximum(low, 0)
    # The conditions of mmdet's CocoDataset.parse_data_info.
    dropped = (inside <= 0).any(axis=1) | (size < 1).any(axis=1) | (areas <= 0)
    reaching = ~dropped & ((low < -1) | (low + size > limits + 1)).any(axis=1)
    if dropped.any():
        findings.warnings.append(
            f'{ann_file}: mmdet leaves out {dropped.sum()} of {len(ids)} boxes, which are under 1 '
            f'pixel wide or high, of no area or outside their images (annotation ids '
            f'{listing(ids[dropped])}).'
        )
    if reaching.any():
        most = 2 * reaching.sum() > len(ids)
        (findings.errors if most else findings.warnings).append(
            f'{ann_file}: {reaching.sum()} of {len(ids)} boxes reach out of their images by more '
            f'than 1 pixel (annotation ids {listing(ids[reaching])}); '
            + ('they must be [x, y, width, height], not corners.' if most else 'is that meant?')
        )
    return int((~dropped).sum())


def _is_number(value: Any) -> bool:  # noqa: ANN401 (whatever the JSON holds)
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def _doubled(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]
