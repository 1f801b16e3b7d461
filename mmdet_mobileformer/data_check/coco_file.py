"""The check of one COCO annotation file: layout, ids, categories, boxes."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

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


def check_coco_file(
    ann_file: str,
    classes: Sequence[str],
    findings: Findings,
    *,
    trained: bool,
    evaluated: bool,
    drops_empty: bool,
    ignore_others: bool,
    limits: dict[str, int],
) -> list[dict] | None:
    """Check an annotation file.

    Args:
        ann_file: Its path.
        classes: The run's class names in label order.
        findings: Takes what is found.
        trained: Whether the file is trained on.
        evaluated: Whether COCO's evaluation will read it, which needs ``iscrowd``. Without training
            and evaluation the run writes predictions alone, and needs no annotations.
        drops_empty: Whether a training leaves out images without annotations.
        ignore_others: Whether categories beside ``classes`` are left out on purpose.
        limits: Settings that limit how many objects the detector finds in an image.

    Returns:
        The entries of its images, or None where its layout is wrong.
    """
    fields = dict(_FIELDS)
    if not (trained or evaluated):
        del fields['annotations']
    elif evaluated:
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
    _check_categories(ann_file, data['categories'], annotations, classes, ignore_others, findings)
    targets = _check_boxes(ann_file, data['images'], annotations, findings)
    if trained and not targets and (annotations or drops_empty):
        findings.errors.append(
            f'{ann_file} has no box that mmdet would learn among {len(annotations)} annotations; '
            'boxes must be [x, y, width, height] in pixels, at least 1 pixel wide and high, inside '
            'their images, of positive area, and no crowds (iscrowd=1).'
        )
    if trained:
        wanted = {entry['id'] for entry in data['categories'] if entry['name'] in classes}
        learned = [target for target in targets if target['category_id'] in wanted]
        _check_crowding(ann_file, learned, limits, findings)
    return data['images']


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
    classes: Sequence[str],
    ignore_others: bool,
    findings: Findings,
) -> None:
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
    if others and ignore_others:
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


def _check_boxes(
    ann_file: str, images: list[dict], annotations: list[dict], findings: Findings
) -> list[dict]:
    """Check the boxes of sound annotations, and return those that mmdet takes as targets."""
    wrong = [a['id'] for a in annotations if not (_is_box(a['bbox']) and math.isfinite(a['area']))]
    if wrong:
        findings.errors.append(
            f'{ann_file}: {len(wrong)} boxes are not four finite numbers [x, y, width, height], or '
            f'their areas are not finite (annotation ids {listing(wrong)}); correct or remove them.'
        )
        return annotations
    sizes = {image['id']: (image['width'], image['height']) for image in images}
    stray = [a['id'] for a in annotations if a['image_id'] not in sizes]
    if stray:
        findings.warnings.append(
            f'{ann_file}: {len(stray)} annotations belong to images that it does not list '
            f'(annotation ids {listing(stray)}); mmdet leaves them out.'
        )
        annotations = [a for a in annotations if a['image_id'] in sizes]
    if not annotations:
        return []
    ids = np.array([a['id'] for a in annotations], dtype=object)
    boxes = np.array([a['bbox'] for a in annotations], dtype=np.float64)  # [x, y, width, height]
    areas = np.array([a['area'] for a in annotations], dtype=np.float64)
    limits = np.array([sizes[a['image_id']] for a in annotations], dtype=np.float64)
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
        said = (
            f'{ann_file}: {reaching.sum()} of {len(ids)} boxes reach out of their images by more '
            f'than 1 pixel (annotation ids {listing(ids[reaching])})'
        )
        if 2 * reaching.sum() > len(ids):
            findings.errors.append(f'{said}; they must be [x, y, width, height], not corners.')
        else:
            findings.warnings.append(f'{said}; is that meant?')
    crowds = np.array([bool(a.get('iscrowd')) for a in annotations])
    return [a for a, kept in zip(annotations, ~dropped & ~crowds, strict=True) if kept]


def _check_crowding(
    ann_file: str, targets: list[dict], limits: dict[str, int], findings: Findings
) -> None:
    """Check that no more than a hundredth of the objects is beyond what the detector can find."""
    counts = Counter(target['image_id'] for target in targets).values()
    limit, most = min(limits.values(), default=math.inf), max(counts, default=0)
    beyond = sum(max(count - limit, 0) for count in counts)
    if 100 * beyond > sum(counts):
        options = ' '.join(f'{name}={most}' for name, value in limits.items() if value < most)
        findings.warnings.append(
            f'{ann_file}: an image has up to {most} objects, but the detector finds at most '
            f'{limit}, so {beyond} of {sum(counts)} objects would be missed; train with '
            f'--cfg-options {options}.'
        )


def _is_box(bbox: list) -> bool:
    return len(bbox) == 4 and all(type(v) in (int, float) and math.isfinite(v) for v in bbox)


def _doubled(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]
