"""The rendered shapes as a data set in the standard COCO layout."""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_utils
from rich.console import Console
from rich.progress import track

from .shapes import CLASSES, Instance, render_scene

SPLITS = ('train', 'val')
# A set is known by this and its parameters; raise it when the drawn scenes change.
DESCRIPTION = 'mmdet_mobileformer shapes'
VERSION = '1'


@dataclass(frozen=True)
class ShapesSpec:
    """What a shapes data set is made of."""

    num_train: int = 400  # images for training
    num_val: int = 100  # images for validation
    width: int = 320  # pixels
    height: int = 240  # pixels
    seed: int = 0

    def num_images(self, split: str) -> int:
        """Number of images of ``'train'`` or ``'val'``."""
        return dict(train=self.num_train, val=self.num_val)[split]

    def info(self, split: str) -> dict[str, Any]:
        """What an annotation file says of the set."""
        return dict(description=DESCRIPTION, version=VERSION, split=split, parameters=asdict(self))


def to_coco_annotation(instance: Instance) -> dict[str, Any]:
    """The part of a COCO annotation that follows from the visible mask.

    The segmentation is run-length encoded, since no polygon is exact for a mask with holes.
    ``area`` counts the mask's pixels, and ``bbox`` (x, y, width, height) is the tight box of them.
    """
    rle = mask_utils.encode(np.asfortranarray(instance.mask, np.uint8))
    return dict(
        category_id=instance.label + 1,
        iscrowd=int(instance.is_crowd),
        area=int(mask_utils.area(rle)),
        bbox=mask_utils.toBbox(rle).tolist(),
        segmentation=dict(rle, counts=rle['counts'].decode('ascii')),
    )


def _annotation_file(root: Path, split: str) -> Path:
    return root / f'annotations/instances_{split}2017.json'


def _write_split(root: Path, spec: ShapesSpec, split: str) -> None:
    """Write one split's images and annotation file."""
    images, annotations = [], []
    folder = root / f'{split}2017'
    folder.mkdir()
    numbers = range(1, spec.num_images(split) + 1)
    for number in track(numbers, f'Rendering {folder.name}', console=Console(stderr=True)):
        image, instances = render_scene(spec.seed, split, number - 1, (spec.width, spec.height))
        path = folder / f'{number:012d}.jpg'
        if not cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 95]):
            raise OSError(f'cannot write {path}: is the disk full?')
        images.append(dict(id=number, file_name=path.name, width=spec.width, height=spec.height))
        for instance in instances:
            annotations.append(
                dict(id=len(annotations) + 1, image_id=number, **to_coco_annotation(instance))
            )
    content = dict(
        info=spec.info(split),
        licenses=[],
        images=images,
        annotations=annotations,
        categories=[
            dict(id=i + 1, name=name, supercategory='shape') for i, name in enumerate(CLASSES)
        ],
    )
    _annotation_file(root, split).write_text(json.dumps(content), encoding='utf-8')


def _is_there(root: Path, spec: ShapesSpec) -> bool:
    """Whether ``root`` already holds this very set.

    Raises:
        FileExistsError: If it holds anything else.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = [json.loads(_annotation_file(root, split).read_text())['info'] for split in SPLITS]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found != [spec.info(split) for split in SPLITS]:
        raise FileExistsError(
            f'{root} holds something else than the shapes of {spec}; choose another folder, or '
            'delete this one first'
        )
    return True


def write_shapes_dataset(root: str | Path, spec: ShapesSpec | None = None) -> bool:
    """Write a shapes data set in COCO's layout: ``{train,val}2017/`` and ``annotations/``.

    The set is written to a temporary folder and renamed to ``root`` when complete.

    Args:
        root: Folder of the set; missing or empty, or holding the same set already.
        spec: What to write; the default is 400 + 100 images of 320×240.

    Returns:
        True if the set was written, False if it was there already.

    Raises:
        FileExistsError: If ``root`` exists and holds something else.
    """
    root, spec = Path(root).absolute(), spec or ShapesSpec()
    if _is_there(root, spec):
        return False
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as scratch:
        folder = Path(scratch) / root.name  # made by mkdir, so with the user's own permissions
        (folder / 'annotations').mkdir(parents=True)
        for split in SPLITS:
            _write_split(folder, spec, split)
        if root.exists():
            root.rmdir()  # empty, or this fails and leaves everything as it was
        folder.rename(root)
    return True
