"""The check of an annotation file's images: names, presence, content."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np

from mmdet_mobileformer.data_check.findings import MAX_LISTED, Findings
from mmdet_mobileformer.engine.images import read_image
from mmdet_mobileformer.errors import listing

SECONDS = 30  # for opening the images of all annotation files
BATCH = 16  # images between two looks at the clock; so many are opened in any case

# An annotation file, its image folder, and what it says of each image that is there.
ImageSet = tuple[str, str, list[dict]]


def leads_out(file_name: str) -> bool:
    """Whether an image name is absolute or climbs by '..', under POSIX or Windows rules."""
    paths = PurePosixPath(file_name), PureWindowsPath(file_name)
    return any(path.anchor or '..' in path.parts for path in paths)


def check_files(images: list[dict], ann_file: str, folder: str, findings: Findings) -> ImageSet:
    """Check the names of all images, and that they exist.

    Symbolic links inside the folder are followed: they are the user's own.

    Args:
        images: The entries of the annotation file's images.
        ann_file: Path of the annotation file.
        folder: The image folder, which exists.
        findings: Takes what is found.
    """
    if not images:
        findings.errors.append(f'{ann_file} lists no image; correct --data-root or ann_file.')
    outside = [image['file_name'] for image in images if leads_out(image['file_name'])]
    if outside:
        findings.errors.append(
            f'{ann_file} names {len(outside)} images outside the image folder {folder}: '
            f'{listing(outside, MAX_LISTED)}; names must be relative and without "..": put the '
            'images, or links to them, into the folder.'
        )
    inside = [image for image in images if not leads_out(image['file_name'])]
    present = _present([image['file_name'] for image in inside], folder)
    missing = [image['file_name'] for image in inside if image['file_name'] not in present]
    if missing:
        findings.errors.append(
            f'{len(missing)} of {len(inside)} images that {ann_file} names are not in {folder}: '
            f'{listing(missing, MAX_LISTED)}; correct --data-root, or complete the folder.'
        )
    return ann_file, folder, [i for i in inside if i['file_name'] in present]


def _present(names: list[str], folder: str) -> set[str]:
    """Names of the images that exist; one listing a folder is faster than one look an image."""
    found = set()
    for parent in {os.path.dirname(name) for name in names}:
        path = os.path.join(folder, parent)
        if os.path.isdir(path):
            found.update(os.path.normpath(os.path.join(parent, name)) for name in os.listdir(path))
    return {name for name in names if os.path.normpath(name) in found}


def open_images(image_sets: list[ImageSet], findings: Findings, skip_bad_images: bool) -> None:
    """Check that images can be read and are of the annotated size.

    All are opened if half a minute is enough, else a random sample, which begins with the same
    images in every run. The smallest set comes first, and each gets an equal share of what is left.
    """
    end = time.monotonic() + SECONDS
    image_sets = sorted(image_sets, key=lambda image_set: len(image_set[2]))
    for index, (ann_file, folder, entries) in enumerate(image_sets):
        share = (end - time.monotonic()) / (len(image_sets) - index)
        problems = list(_look_at_images(folder, entries, time.monotonic() + share))
        found = f'of {len(problems)} images opened in {folder}'
        unreadable = sorted(words for kind, words in problems if kind == 'unreadable')
        if unreadable:
            listed = listing(unreadable, MAX_LISTED, str)
            said = f'{len(unreadable)} {found} cannot be read: {listed}'
            if skip_bad_images:
                findings.warnings.append(f'{said}; the run skips them.')
            else:
                findings.errors.append(
                    f'{said}; replace them, remove them from {ann_file}, or let the run skip them '
                    'by --skip-bad-images.'
                )
        resized = sorted(words for kind, words in problems if kind == 'size')
        if resized:
            findings.errors.append(
                f'{len(resized)} {found} are of another size than {ann_file} says: '
                f'{listing(resized, MAX_LISTED, str)}; correct the entries and their boxes, or the '
                'images (an EXIF orientation counts).'
            )
        if len(problems) < len(entries):
            findings.notes.append(
                f'{len(problems)} of {len(entries)} images in {folder} were opened, a random '
                'sample: all would take more than half a minute.'
            )


def _look_at_images(folder: str, entries: list[dict], end: float) -> Iterator[tuple[str, str]]:
    """Open images until the time is over; yield what :func:`_look_at` says of each."""
    order = np.random.default_rng(0).permutation(len(entries))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # OpenCV decodes in parallel
        for first in range(0, len(order), BATCH):
            batch = [entries[i] for i in order[first : first + BATCH]]
            yield from pool.map(lambda entry: _look_at(folder, entry), batch)
            if time.monotonic() > end:
                return


def _look_at(folder: str, entry: dict) -> tuple[str, str]:
    """The kind of problem of an image ('' for none), and the words for it."""
    path = os.path.join(folder, entry['file_name'])
    try:
        height, width = read_image(path).shape[:2]
    except Exception as error:
        return 'unreadable', f'{path} ({" ".join(str(error).split())})'
    if (width, height) != (entry['width'], entry['height']):
        return 'size', f'{path} is {width}x{height}, not {entry["width"]}x{entry["height"]}'
    return '', ''
