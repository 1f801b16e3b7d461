"""The check of an annotation file's images: names, presence, and a sample opened."""

from __future__ import annotations

import os
from pathlib import PurePosixPath, PureWindowsPath

import mmcv
import numpy as np

from mmdet_mobileformer.data_check.findings import Findings, listing
from mmdet_mobileformer.engine.images import truncation

NUM_SAMPLED = 16


def leads_out(file_name: str) -> bool:
    """Whether an image name is absolute or climbs by '..', under POSIX or Windows rules."""
    for path in (PurePosixPath(file_name), PureWindowsPath(file_name)):
        if path.anchor or '..' in path.parts:
            return True
    return False


def check_folder(folder: str, findings: Findings) -> bool:
    """Check that the image folder exists, and say whether it does."""
    if os.path.isdir(folder):
        return True
    findings.errors.append(
        f'the image folder {folder} does not exist; point --data-root at the folder that holds '
        'it, or set data_prefix.img.'
    )
    return False


def check_images(
    images: list[dict],
    ann_file: str,
    folder: str,
    findings: Findings,
    skip_bad_images: bool = False,
) -> None:
    """Check the names of all images, that they exist, and that a sample opens in its size.

    Symbolic links inside the folder are followed: they are the user's own.

    Args:
        images: The entries of the annotation file's images.
        ann_file: Path of the annotation file, for the messages.
        folder: The image folder, which exists.
        findings: Takes what is found.
        skip_bad_images: Whether the run passes over images that cannot be read.
    """
    outside = [image['file_name'] for image in images if leads_out(image['file_name'])]
    if outside:
        findings.errors.append(
            f'{ann_file} names {len(outside)} images outside the image folder {folder}: '
            f'{listing(outside, 20)}; names must be relative and without "..": put the images, or '
            'links to them, into the folder.'
        )
    if not images:
        findings.errors.append(f'{ann_file} lists no image; correct --data-root or ann_file.')
    inside = [image for image in images if not leads_out(image['file_name'])]
    present = _present(inside, folder)
    missing = [image['file_name'] for image in inside if image['file_name'] not in present]
    if missing:
        findings.errors.append(
            f'{len(missing)} of {len(inside)} images that {ann_file} names are not in {folder}: '
            f'{listing(missing, 20)}; correct --data-root, or complete the folder.'
        )
    inside = [image for image in inside if image['file_name'] in present]
    # Evenly spread and always the same, so that a repeated run says the same.
    sample = np.linspace(0, len(inside) - 1, min(NUM_SAMPLED, len(inside))).round().astype(int)
    for index in sample:
        _check_image(inside[index], ann_file, folder, findings, skip_bad_images)


def _present(images: list[dict], folder: str) -> set[str]:
    """Names of the images that exist; one listing a folder is faster than one look an image."""
    names = [image['file_name'] for image in images]
    found = set()
    for parent in {os.path.dirname(name) for name in names}:
        path = os.path.join(folder, parent)
        if os.path.isdir(path):
            found.update(os.path.normpath(os.path.join(parent, name)) for name in os.listdir(path))
    return {name for name in names if os.path.normpath(name) in found}


def _check_image(
    image: dict, ann_file: str, folder: str, findings: Findings, skip_bad_images: bool
) -> None:
    path = os.path.join(folder, image['file_name'])
    try:
        with open(path, 'rb') as file:
            content = file.read()
        # As mmdet's LoadImageFromFile decodes it, turned by its EXIF orientation.
        pixels = mmcv.imfrombytes(content) if content else None
        problem = None if pixels is not None else 'its content is no image that can be decoded'
    except Exception as error:
        problem = ' '.join(str(error).split())
    problem = problem or truncation(path)
    if problem:
        (findings.warnings if skip_bad_images else findings.errors).append(
            f'the image {path} cannot be opened ({problem}); replace it, remove it from '
            f'{ann_file}, or pass over such images by --skip-bad-images.'
        )
        return
    height, width = pixels.shape[:2]
    if (width, height) != (image['width'], image['height']):
        findings.errors.append(
            f'the image {path} is {width}x{height} pixels, but {ann_file} says '
            f'{image["width"]}x{image["height"]}; correct the entry and its boxes, or the image '
            '(an EXIF orientation counts).'
        )
