"""The rendered shapes as a data set in the standard COCO layout."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from mmengine.utils import ProgressBar
from pycocotools import mask as mask_utils

from .shapes import CLASSES, Instance, render_scene

SPLITS = ('train', 'val')
MIN_SIDE = 64
MAX_SIDE = 4096
PROGRESS_STEP = 25  # images
# A set is known by this and its parameters; raise it when the drawn scenes change.
DESCRIPTION = 'mmdet_mobileformer shapes'
VERSION = '1'


@dataclass(frozen=True)
class ShapesSpec:
    """What a shapes data set is made of.

    Raises:
        ValueError: If a number is out of its range.
    """

    num_train: int = 400  # images for training
    num_val: int = 100  # images for validation
    width: int = 320  # pixels
    height: int = 240  # pixels
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ('num_train', 'num_val'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name}={getattr(self, name)}: a split needs at least 1 image')
        for name in ('width', 'height'):
            if not MIN_SIDE <= getattr(self, name) <= MAX_SIDE:
                raise ValueError(
                    f'{name}={getattr(self, name)}: an image is {MIN_SIDE} to '
                    f'{MAX_SIDE} pixels on a side'
                )
        if self.seed < 0:
            raise ValueError(f'seed={self.seed}: a seed is 0 or more')

    def num_images(self, split: str) -> int:
        """Number of images of ``'train'`` or ``'val'``."""
        return dict(train=self.num_train, val=self.num_val)[split]


def _image_folder(split: str) -> str:
    return f'{split}2017'


def _annotation_file(split: str) -> str:
    return f'annotations/instances_{split}2017.json'


def _file_name(index: int) -> str:
    return f'{index + 1:012d}.jpg'


def to_coco_annotation(instance: Instance) -> dict:
    """The part of a COCO annotation that follows from the visible mask.

    The segmentation is run-length encoded, since no polygon is exact for a mask with holes: as a
    string for an instance and, as in COCO, as a list of counts for a crowd. ``area`` counts the
    mask's pixels, and ``bbox`` (x, y, width, height) is the tight box of its pixels.
    """
    rle = mask_utils.encode(np.asfortranarray(instance.mask, np.uint8))
    if instance.is_crowd:
        # runs in column order, beginning with a run of zeros
        pixels = instance.mask.flatten(order='F')
        edges = np.flatnonzero(np.diff(pixels, prepend=False, append=pixels[-1]))
        counts = np.diff([0, *edges, pixels.size]).tolist()
    else:
        counts = rle['counts'].decode('ascii')
    return dict(
        category_id=instance.label + 1,
        iscrowd=int(instance.is_crowd),
        area=int(mask_utils.area(rle)),
        bbox=mask_utils.toBbox(rle).tolist(),
        segmentation=dict(size=list(instance.mask.shape), counts=counts),
    )


def _write_split(folder: Path, spec: ShapesSpec, split: str) -> Iterator[None]:
    """Write one split's images and annotation file; yields once an image."""
    images, annotations = [], []
    (folder / _image_folder(split)).mkdir()
    for index in range(spec.num_images(split)):
        image, instances = render_scene(spec.seed, split, index, (spec.width, spec.height))
        path = folder / _image_folder(split) / _file_name(index)
        if not cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 95]):
            raise OSError(f'cannot write {path}: is the disk full?')
        images.append(dict(id=index + 1, file_name=path.name, width=spec.width, height=spec.height))
        for instance in instances:
            annotations.append(
                dict(id=len(annotations) + 1, image_id=index + 1, **to_coco_annotation(instance))
            )
        yield
    content = dict(
        info=dict(description=DESCRIPTION, version=VERSION, split=split, parameters=asdict(spec)),
        licenses=[],
        images=images,
        annotations=annotations,
        categories=[
            dict(id=i + 1, name=name, supercategory='shape') for i, name in enumerate(CLASSES)
        ],
    )
    (folder / _annotation_file(split)).write_text(json.dumps(content), encoding='utf-8')


def _is_complete(root: Path, spec: ShapesSpec) -> bool:
    """Whether ``root`` already holds this very set.

    Raises:
        FileExistsError: If it holds anything else.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    remedy = 'choose another folder, or delete this one first'
    for split in SPLITS:
        try:
            info = json.loads((root / _annotation_file(split)).read_text(encoding='utf-8'))['info']
        except (OSError, ValueError, KeyError, TypeError):
            info = {}
        if not isinstance(info, dict) or info.get('description') != DESCRIPTION:
            raise FileExistsError(f'{root} exists and is no complete shapes data set; {remedy}')
        if (info.get('version'), info.get('parameters')) != (VERSION, asdict(spec)):
            raise FileExistsError(
                f'{root} holds a shapes data set of other parameters (version '
                f'{info.get("version")}, {info.get("parameters")}); {remedy}'
            )
        present = {path.name for path in (root / _image_folder(split)).glob('*.jpg')}
        missing = {_file_name(i) for i in range(spec.num_images(split))} - present
        if missing:
            raise FileExistsError(
                f'{root / _image_folder(split)} lacks {len(missing)} of its '
                f'{spec.num_images(split)} images; {remedy}'
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
    if _is_complete(root, spec):
        return False
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{root.name}-', dir=root.parent) as scratch:
        folder = Path(scratch) / root.name  # made by mkdir, so with the user's own permissions
        (folder / 'annotations').mkdir(parents=True)
        total = sum(map(spec.num_images, SPLITS))
        progress = ProgressBar(total)
        written = chain.from_iterable(_write_split(folder, spec, split) for split in SPLITS)
        for done, _ in enumerate(written, start=1):
            # in steps, so that a log file does not get one bar an image
            if done % PROGRESS_STEP == 0 or done == total:
                progress.update(done - progress.completed)
        print()
        if root.exists():
            root.rmdir()  # empty, or this fails and leaves everything as it was
        folder.rename(root)
    return True
