"""What tools/predict.py does: detect in pictures or a video, draw, and write the detections."""

import argparse
import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Self

import cv2
import numpy as np
import torch
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from rich.console import Console
from rich.progress import track

from mmdet_mobileformer.checkpoints.writing import write_durably
from mmdet_mobileformer.errors import UserError, listing
from mmdet_mobileformer.launch.data_layouts import BESIDE_IMAGES
from mmdet_mobileformer.launch.detector import (
    TrainedDetector,
    load_detector,
    split_words,
)
from mmdet_mobileformer.launch.frames import Frame, Pictures, Video, open_frames


def predict(args: argparse.Namespace) -> None:
    """Detect as the command line says.

    Args:
        args: Of tools/predict.py.

    Raises:
        UserError: If the detector or the pictures are not there, or no picture can be read.
    """
    words, inputs = split_words(args.words)
    if not inputs:
        raise UserError(
            f'{" ".join(words)} names no picture; give WORK_DIR, CONFIG CHECKPOINT or FILE.onnx, '
            'and behind it pictures, a folder, a video or the number of a camera.'
        )
    if args.batch_size < 1:
        raise UserError(f'--batch-size {args.batch_size} must be at least 1.')
    frames = open_frames(inputs)
    folder = args.out_dir or (None if args.json else 'predictions')
    own = isinstance(frames, Pictures) and os.path.realpath(frames.folder)
    if folder and os.path.realpath(folder) == own:
        raise UserError(f'--out-dir {folder} holds the pictures themselves; name another folder.')
    detector = load_detector(words, args, args.device)
    shown = _labels(args.classes, detector.classes)
    ids = _CocoIds(frames, detector.classes)

    count, results = 0, []
    begin = time.perf_counter()
    with _Pictures(folder, frames, detector, args.score_thr) as pictures:
        for frame, sample in _detections(detector, frames, args.batch_size):
            found = sample.pred_instances
            if shown is not None:
                sample.pred_instances = found[torch.isin(found.labels, shown)]
            pictures.add(frame, sample)
            if args.json:
                results += ids.results(frame, sample)
            count += 1
    seconds = time.perf_counter() - begin
    if args.json:
        write_durably(args.json, json.dumps(results).encode())
        print(f'{args.json}: {len(results)} detections; {ids.origin}')
    if folder and count:
        print(f'{pictures.path}: what scores {args.score_thr:g} or more')
    if not count:
        raise UserError(f'no picture of {" ".join(inputs)} could be read.')
    skipped = getattr(frames, 'skipped', 0)
    note = f', {skipped} skipped' if skipped else ''
    print(f'{count} images in {seconds:.1f} s ({count / seconds:.1f} images/s){note}')


def _labels(names: str | None, classes: tuple[str, ...]) -> torch.Tensor | None:
    """Labels of the classes that ``--classes a,b`` names."""
    if not names:
        return None
    unknown = [name for name in names.split(',') if name not in classes]
    if unknown:
        raise UserError(
            f'--classes: the detector does not know {listing(unknown)}; it knows '
            f'{listing(classes)}.'
        )
    return torch.tensor([classes.index(name) for name in names.split(',')])


def _detections(
    detector: TrainedDetector, frames: Pictures | Video, batch_size: int
) -> Iterator[tuple[Frame, DetDataSample]]:
    """Each frame with its detections, on the CPU; shows progress with the time left."""
    pipeline = detector.pipeline()
    total = -(-len(frames) // batch_size) or None
    progress = Console(stderr=True)
    for batch in track(_batches(frames, batch_size), 'Detecting', total=total, console=progress):
        items = [pipeline(dict(img=frame.image, img_id=0)) for frame in batch]
        data = {key: [item[key] for item in items] for key in ('inputs', 'data_samples')}
        with torch.no_grad():
            samples = detector.model.test_step(data)
        yield from zip(batch, [sample.cpu() for sample in samples], strict=True)


def _batches(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    frames = iter(frames)
    while batch := list(islice(frames, size)):
        yield batch


class _Pictures:
    """Writes pictures, or a video, with labelled boxes by mmdet's visualiser.

    Attributes:
        path: What is written: the folder or the video.
    """

    def __init__(
        self,
        folder: str | None,
        frames: Pictures | Video,
        detector: TrainedDetector,
        score_thr: float,
    ) -> None:
        self.folder, self.path, self.score_thr = folder, folder, score_thr
        self._video = frames if isinstance(frames, Video) else None
        self._writer: cv2.VideoWriter | None = None
        if folder:
            os.makedirs(folder, exist_ok=True)
            self.visualizer = VISUALIZERS.build(dict(type='DetLocalVisualizer', name='predict'))
            # A label may stand outside the image, which mmengine would warn of.
            warnings.filterwarnings('ignore', message='.*is out of bounds, the drawn')
            self.visualizer.dataset_meta = dict(classes=detector.classes, palette=detector.palette)
            if self._video:
                self.path = os.path.join(folder, self._video.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.release()  # also after Ctrl-C, so that the video can be played

    def add(self, frame: Frame, sample: DetDataSample) -> None:
        """Draw a frame's detections, the surest on top, and write it."""
        if not self.folder:
            return
        found = sample.pred_instances
        drawn = DetDataSample(pred_instances=found[found.scores.argsort()])
        self.visualizer.add_datasample(
            frame.name,
            np.ascontiguousarray(frame.image[..., ::-1]),
            drawn,
            draw_gt=False,
            pred_score_thr=self.score_thr,
        )
        picture = np.ascontiguousarray(self.visualizer.get_image()[..., ::-1])
        if self._video:
            self._write_frame(picture)
            return
        path = os.path.join(self.folder, frame.name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not cv2.imwrite(path, picture):
            raise UserError(f'{path} cannot be written; name another folder by --out-dir.')

    def _write_frame(self, picture: np.ndarray) -> None:
        if self._writer is None:
            code = cv2.VideoWriter_fourcc(*'mp4v')
            size = picture.shape[1], picture.shape[0]
            self._writer = cv2.VideoWriter(self.path, code, self._video.fps, size)
            if not self._writer.isOpened():
                raise UserError(f'{self.path} cannot be written; name another folder by --out-dir.')
        self._writer.write(picture)


class _CocoIds:
    """Numbers of images and categories in COCO's format of results.

    Pictures of a folder in COCO layout take those of its annotation file
    (``annotations/instances_<folder>.json`` beside the folder, or Roboflow's inside it); others are
    counted from 1.

    Attributes:
        origin: Where they come from, for the user.
    """

    def __init__(self, frames: Pictures | Video, classes: tuple[str, ...]) -> None:
        self.images: dict[str, int] = {}
        self.categories = list(range(1, len(classes) + 1))
        self.origin = 'images and categories are numbered from 1'
        if not isinstance(frames, Pictures):
            return
        folder = Path(frames.folder)
        beside = folder.parent / 'annotations' / f'instances_{folder.name}.json'
        path = next(filter(Path.is_file, (beside, folder / BESIDE_IMAGES)), None)
        if path is None:
            return
        data = json.loads(path.read_text(encoding='utf-8'))
        ids = {category['name']: category['id'] for category in data['categories']}
        if all(name in ids for name in classes):
            self.categories = [ids[name] for name in classes]
            self.images = {image['file_name']: image['id'] for image in data['images']}
            self.origin = f'ids are those of {path}'

    def results(self, frame: Frame, sample: DetDataSample) -> list[dict]:
        """Detections of an image, boxes as (x, y, width, height) in pixels."""
        image = self.images.setdefault(frame.name, 1 + max(self.images.values(), default=0))
        found = sample.pred_instances
        return [
            dict(
                image_id=image,
                category_id=self.categories[label],
                bbox=[x1, y1, x2 - x1, y2 - y1],
                score=score,
            )
            for (x1, y1, x2, y2), score, label in zip(
                found.bboxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
            )
        ]
