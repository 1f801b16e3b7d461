"""Images that cannot be read: named, and passed over where the user wants that."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.registry import TRANSFORMS
from mmdet.structures import DetDataSample
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from PIL import Image

from mmdet_mobileformer.errors import LocalError, listing

ON_ERROR = ('stop', 'replace', 'blank')


@TRANSFORMS.register_module()
class LoadWholeImage(LoadImageFromFile):
    """mmcv's LoadImageFromFile, which takes no part of an image for the whole.

    OpenCV fills what a truncated file lacks with grey and says nothing. Not for a
    ``test_dataloader`` in a config: mmdet's DetInferencer looks there for mmcv's by its name.

    Args:
        on_error: What a missing, broken or truncated image does: 'stop' raises an error; 'replace'
            lets the data set draw another image (training only); 'blank' gives a black image of the
            annotated size, in which nothing can be found, so that an evaluation counts its objects
            as missed.
        report_file: Text file to which 'replace' and 'blank' add the image's path and the reason.
        **kwargs: As for mmcv's LoadImageFromFile.

    Raises:
        ValueError: If ``on_error`` is another word, or needs ``report_file``.
    """

    def __init__(
        self, on_error: str = 'stop', report_file: str | None = None, **kwargs: object
    ) -> None:
        if on_error not in ON_ERROR:
            raise ValueError(f'on_error must be one of {ON_ERROR}, not {on_error!r}')
        if on_error != 'stop' and report_file is None:
            raise ValueError(f'on_error={on_error!r} needs report_file')
        super().__init__(**kwargs)
        self.on_error = on_error
        self.report_file = report_file

    def transform(self, results: dict) -> dict | None:
        """Load ``results['img_path']``.

        Returns:
            The results with ``img`` (H, W, 3) as BGR, ``img_shape`` and ``ori_shape``; None to draw
            another image.

        Raises:
            LocalError: If the image cannot be read and ``on_error`` is 'stop'.
        """
        path = results['img_path']
        try:
            loaded = super().transform(results)
            problem = truncation(path) if os.path.isfile(path) else None
            if min(loaded['img'].shape[:2]) == 1:  # mirrored, torch takes no such array
                problem = 'it is one pixel wide or high'
        except Exception as error:
            problem = ' '.join(str(error).split()) or type(error).__name__
        if problem is None:
            return loaded
        if self.on_error == 'stop':
            raise LocalError(
                f'the image {path} cannot be read ({problem}); replace it, or skip such images '
                'by --skip-bad-images.'
            )
        # One short write at the end of a file is not torn by other processes' writes.
        with open(self.report_file, 'a', encoding='utf-8') as file:
            file.write(f'{path}\t{problem}\n')
        if self.on_error == 'replace':
            return None
        shape = (results['height'], results['width'])
        dtype = np.float32 if self.to_float32 else np.uint8
        return dict(results, img=np.zeros((*shape, 3), dtype), img_shape=shape, ori_shape=shape)


def read_image(path: str) -> np.ndarray:
    """Read an image file (H, W, 3) as BGR, turned by its EXIF orientation, as mmdet does.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is no whole image.
    """
    with open(path, 'rb') as file:
        content = file.read()
    pixels = mmcv.imfrombytes(content) if content else None
    if pixels is None:
        raise ValueError('its content is no image that can be decoded')
    problem = truncation(path)
    if problem:
        raise ValueError(problem)
    return pixels


def truncation(path: str) -> str | None:
    """Say what is wrong with a JPEG or PNG file that ends before its image does, else None.

    The end marks are looked for first; only a file without them is decoded a second time, strictly.
    """
    with open(path, 'rb') as file:
        content = file.read()
    if content.startswith(b'\xff\xd8'):
        # Within a scan (from its start mark FF DA) no end mark FF D9 can occur by chance.
        suspicious = content.rfind(b'\xff\xd9') < content.rfind(b'\xff\xda')
    else:
        suspicious = content.startswith(b'\x89PNG') and b'IEND' not in content[-64:]
    if suspicious:
        try:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
        except Exception as error:
            return str(error) or type(error).__name__
    return None


@HOOKS.register_module()
class BadImageReportHook(Hook):
    """Says at the end of a run which images could not be read.

    Args:
        report_file: The file of :class:`LoadWholeImage`; what an interrupted run found stays in it.
    """

    def __init__(self, report_file: str) -> None:
        self.report = Path(report_file)

    def before_train(self, runner: Runner) -> None:
        """Begin with an empty list, unless the run continues one."""
        if not runner._resume:
            self.before_test(runner)

    @master_only
    def before_test(self, runner: Runner) -> None:
        """Begin with an empty list."""
        self.report.unlink(missing_ok=True)

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Log the number of images and the first of them."""
        lines = self.report.read_text(encoding='utf-8') if self.report.is_file() else ''
        found = dict(line.split('\t', 1) for line in lines.splitlines())
        images = listing([f'{path} ({problem})' for path, problem in found.items()], 20, str)
        runner.logger.warning(
            f'Skipped {len(found)} images that cannot be read, all in {self.report}: {images}.'
            if found
            else 'No image had to be skipped.'
        )

    after_test = after_train


@HOOKS.register_module()
class SkippingVisualizationHook(DetVisualizationHook):
    """mmdet's DetVisualizationHook, which draws no image of a test that cannot be read.

    It reads the images itself, whatever the pipeline put in the place of an unreadable one.
    """

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[DetDataSample]
    ) -> None:
        """Draw all images of a batch."""
        if self.draw:
            readable = [sample for sample in outputs if _is_readable(sample.img_path)]
            super().after_test_iter(runner, batch_idx, data_batch, readable)


def _is_readable(path: str) -> bool:
    try:
        read_image(path)
    except Exception:
        return False
    return True
