"""The check of image classification data: one folder of images for each class."""

from __future__ import annotations

import os
from collections.abc import Iterable

from mmengine.config import Config

from mmdet_mobileformer.config_tree import class_folder_root, walk_class_folders
from mmdet_mobileformer.data_check.findings import Findings


def check_class_folders(cfg: Config, splits: Iterable[str], findings: Findings) -> None:
    """Check the folders of mmpretrain's data sets: there, the same in all splits, not too many.

    mmpretrain numbers the classes by the sorted names of the folders, so a folder that only one
    split has would shift the labels of the other without a word.

    Args:
        cfg: The config after all command line overrides.
        splits: The loaders that the run will use.
        findings: Takes what is found.
    """
    folders = {}
    for split in splits:
        for path, dataset in walk_class_folders(cfg, split):
            root = class_folder_root(dataset)
            if not os.path.isdir(root):
                findings.errors.append(
                    f'the image folder {root} of {path} does not exist; point --data-root at the '
                    'folder that holds train/ and val/ with one folder for each class.'
                )
                continue
            folders[root] = {entry.name for entry in os.scandir(root) if entry.is_dir()}
            if not folders[root]:
                findings.errors.append(
                    f'{root} of {path} holds no folders; it needs one for each class with its '
                    'images inside.'
                )
    if folders:
        _check_same(folders, findings)
        _check_sizes(cfg, folders, findings)


def _check_same(folders: dict[str, set[str]], findings: Findings) -> None:
    for root, names in folders.items():
        first_root, first = next(iter(folders.items()))
        only = sorted(names ^ first)
        if only:
            more = f' and {len(only) - 3} more' if len(only) > 3 else ''
            findings.errors.append(
                f'{first_root} and {root} must hold the same class folders, by whose order labels '
                f'are numbered; only one of them has {", ".join(only[:3])}{more}.'
            )


def _check_sizes(cfg: Config, folders: dict[str, set[str]], findings: Findings) -> None:
    size = (cfg.model.get('head') or {}).get('num_classes')
    mixed = (cfg.get('data_preprocessor') or {}).get('num_classes', size)
    if size is None:
        return
    if mixed != size:
        findings.errors.append(
            f'data_preprocessor.num_classes of {cfg.filename} is {mixed}, but '
            f'model.head.num_classes is {size}; set both to the same number.'
        )
    for root, names in folders.items():
        if len(names) > size:
            findings.errors.append(
                f'{root} holds {len(names)} class folders, but model.head.num_classes of '
                f'{cfg.filename} is {size}; set it and data_preprocessor.num_classes to '
                f'{len(names)}.'
            )
        elif len(names) < size:
            findings.notes.append(f'{root} holds {len(names)} of the {size} classes.')
