"""Images to detect in: pictures, the pictures of a folder or a pattern, a video, a camera."""

import glob
import os
from collections.abc import Iterator
from itertools import count

import cv2
import numpy as np

from mmdet_mobileformer.engine.images import read_image
from mmdet_mobileformer.errors import UserError

PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg')


# A name (its path below the folder of all, or a number), and an image (H, W, 3) uint8 BGR.
Frame = tuple[str, np.ndarray]


class Pictures:
    """Picture files; those that cannot be read are skipped, each with a sentence.

    Attributes:
        skipped: How many could not be read.
    """

    def __init__(self, files: list[str]) -> None:
        self.files = files
        self.folder = os.path.commonpath([os.path.dirname(os.path.abspath(f)) for f in files])
        self.skipped = 0

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Frame]:
        for file in self.files:
            try:
                image = read_image(file)
            except (OSError, ValueError, cv2.error) as error:
                print(f'skipped {file}: it cannot be read ({" ".join(str(error).split())}).')
                self.skipped += 1
                continue
            yield os.path.relpath(os.path.abspath(file), self.folder), image


class Video:
    """A video file, or a camera by its number, which ends with Ctrl-C.

    Attributes:
        name: Of the video to write.
        fps: Frames a second.
        is_camera: Whether it has no end of its own.
    """

    def __init__(self, source: str) -> None:
        self.is_camera = source.isdecimal()
        self._capture = cv2.VideoCapture(int(source) if self.is_camera else source)
        if not self._capture.isOpened():
            raise UserError(f'the video or camera {source} cannot be opened by OpenCV.')
        stem = os.path.splitext(os.path.basename(source))[0]
        self.name = f'{"camera_" * self.is_camera}{stem}.mp4'
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or 25.0

    def __len__(self) -> int:
        return max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)  # 0: unknown

    def __iter__(self) -> Iterator[Frame]:
        for index in count():
            there, image = self._capture.read()
            if not there:
                return
            yield f'{index:06d}.jpg', image


def open_frames(words: list[str]) -> Pictures | Video:
    """A video file or a camera by its number; else pictures, folders and patterns of pictures.

    Raises:
        UserError: If there is nothing of that name, or no picture in it.
    """
    first, *others = words
    video = first.lower().endswith(VIDEOS) and os.path.isfile(first)
    if not others and (video or (first.isdecimal() and not os.path.exists(first))):
        return Video(first)
    files = []
    for word in words:
        if os.path.isdir(word):
            found = [os.path.join(word, name) for name in sorted(os.listdir(word))]
            found = [file for file in found if file.lower().endswith(PICTURES)]
        elif os.path.isfile(word):
            found = [word]
        else:
            found = [f for f in sorted(glob.glob(word, recursive=True)) if os.path.isfile(f)]
        if not found:
            raise UserError(
                f'{word} is no picture, and no folder or pattern of any ({", ".join(PICTURES)}; '
                f'looked from {os.getcwd()}).'
            )
        files += found
    return Pictures(files)
