"""What tools/predict.py does: detect in pictures or a video, draw, and write the detections."""

import argparse
import json
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
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
from mmdet_mobileformer.launch.detector import TrainedDetector, load_detector
from mmdet_mobileformer.launch.frames import Pictures, Video, open_frames


def predict(args: argparse.Namespace) -> None:
    """Detect as the command line of tools/predict.py says.

    Raises:
        UserError: If the detector or the pictures are not there, or no picture can be read.
    """
    words, inputs = _split(args.words)
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
    images, categories, origin = _coco_ids(frames, detector.classes)

    count, results = 0, []
    begin = time.perf_counter()
    end = [KeyboardInterrupt] if getattr(frames, 'is_camera', False) else []
    with _Drawing(folder, frames, detector, args.score_thr) as drawing, suppress(*end):
        for name, image, sample in _detections(detector, frames, args.batch_size):
            if shown is not None:
                labels = sample.pred_instances.labels
                sample.pred_instances = sample.pred_instances[torch.isin(labels, shown)]
            drawing.add(name, image, sample)
            if args.json:
                image_id = images.setdefault(name, 1 + max(images.values(), default=0))
                results += _coco_results(image_id, categories, sample)
            count += 1
    seconds = time.perf_counter() - begin
    if args.json:
        write_durably(args.json, json.dumps(results).encode())
        print(f'{args.json}: {len(results)} detections; {origin}')
    if folder and count:
        print(f'{drawing.path}: what scores {args.score_thr:g} or more')
    if not count:
        raise UserError(f'no picture of {" ".join(inputs)} could be read.')
    skipped = getattr(frames, 'skipped', 0)
    note = f', {skipped} skipped' if skipped else ''
    print(f'{count} images in {seconds:.1f} s ({count / seconds:.1f} images/s){note}')


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Separate the words that name a detector from those behind them.

    One word where it is a folder or an exported file, else CONFIG CHECKPOINT; a checkpoint may
    follow a folder.
    """
    alone = words[0].endswith('.onnx') or Path(words[0]).is_dir()
    count = 1 if alone and not (len(words) > 2 and words[1].endswith('.pth')) else 2
    return words[:count], words[count:]


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
) -> Iterator[tuple[str, np.ndarray, DetDataSample]]:
    """Each frame with its detections, on the CPU; shows progress with the time left."""
    pipeline = detector.pipeline()
    remaining = iter(track(frames, 'Detecting', console=Console(stderr=True)))
    while batch := list(islice(remaining, batch_size)):
        items = [pipeline(dict(img=image, img_id=0)) for _, image in batch]
        data = {key: [item[key] for item in items] for key in ('inputs', 'data_samples')}
        with torch.no_grad():
            samples = detector.model.test_step(data)
        for (name, image), sample in zip(batch, samples, strict=True):
            yield name, image, sample.cpu()


class _Drawing:
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

    def add(self, name: str, image: np.ndarray, sample: DetDataSample) -> None:
        """Draw an image's detections, the surest on top, and write it."""
        if not self.folder:
            return
        found = sample.pred_instances
        self.visualizer.add_datasample(
            name,
            np.ascontiguousarray(image[..., ::-1]),
            DetDataSample(pred_instances=found[found.scores.argsort()]),
            draw_gt=False,
            pred_score_thr=self.score_thr,
            out_file=None if self._video else os.path.join(self.folder, name),
        )
        if self._video:
            self._write_frame(np.ascontiguousarray(self.visualizer.get_image()[..., ::-1]))

    def _write_frame(self, picture: np.ndarray) -> None:
        if self._writer is None:
            code = cv2.VideoWriter_fourcc(*'mp4v')
            size = picture.shape[1], picture.shape[0]
            self._writer = cv2.VideoWriter(self.path, code, self._video.fps, size)
            if not self._writer.isOpened():
                raise UserError(f'{self.path} cannot be written; name another folder by --out-dir.')
        self._writer.write(picture)


def _coco_ids(
    frames: Pictures | Video, classes: tuple[str, ...]
) -> tuple[dict[str, int], list[int], str]:
    """Numbers of images by name and of categories by label, and a phrase for where they come from.

    Pictures of a folder in COCO layout take those of its annotation file
    (``annotations/instances_<folder>.json`` beside the folder, or Roboflow's inside it); others are
    counted from 1.
    """
    if isinstance(frames, Pictures):
        folder = Path(frames.folder)
        beside = folder.parent / 'annotations' / f'instances_{folder.name}.json'
        for path in filter(Path.is_file, (beside, folder / BESIDE_IMAGES)):
            data = json.loads(path.read_text(encoding='utf-8'))
            ids = {category['name']: category['id'] for category in data['categories']}
            if all(name in ids for name in classes):
                images = {image['file_name']: image['id'] for image in data['images']}
                return images, [ids[name] for name in classes], f'ids are those of {path}'
    return {}, list(range(1, len(classes) + 1)), 'images and categories are numbered from 1'


def _coco_results(image_id: int, categories: list[int], sample: DetDataSample) -> list[dict]:
    """An image's detections as COCO has them, boxes as (x, y, width, height) in pixels."""
    found = sample.pred_instances
    columns = (values.tolist() for values in (found.bboxes, found.scores, found.labels))
    return [
        dict(
            image_id=image_id,
            category_id=categories[label],
            bbox=[x1, y1, x2 - x1, y2 - y1],
            score=score,
        )
        for (x1, y1, x2, y2), score, label in zip(*columns, strict=True)
    ]
