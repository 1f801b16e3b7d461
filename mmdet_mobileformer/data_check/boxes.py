"""The check of the boxes of one COCO annotation file."""

import math

import numpy as np

from mmdet_mobileformer.data_check.findings import Findings
from mmdet_mobileformer.errors import listing


def check_boxes(
    ann_file: str, images: list[dict], annotations: list[dict], findings: Findings
) -> int:
    """Check all boxes, and return how many of them mmdet takes as targets.

    Args:
        ann_file: Path of the annotation file.
        images: Its images, whose fields are sound.
        annotations: Its annotations, whose fields are sound but for the content of ``bbox``.
        findings: Takes what is found.
    """
    wrong = [a['id'] for a in annotations if not (_is_box(a['bbox']) and math.isfinite(a['area']))]
    if wrong:
        findings.errors.append(
            f'{ann_file}: {len(wrong)} boxes are not four finite numbers [x, y, width, height], or '
            f'their areas are not finite (annotation ids {listing(wrong)}); correct or remove them.'
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
    return int((~dropped & ~crowds).sum())


def _is_box(bbox: list) -> bool:
    return len(bbox) == 4 and all(type(v) in (int, float) and math.isfinite(v) for v in bbox)
