"""What a run was trained and validated on, so that it is not resumed with something else."""

import os
import zlib
from typing import Any

from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmdet_mobileformer.errors import UserError, listing

_SAMPLED = 1000  # images whose names are looked at; evenly spaced


def describe_data(runner: Runner) -> dict[str, dict[str, Any]]:
    """Classes, number of images and a digest of their names and sizes, for training and validation.

    Folders do not count, so that data may be moved.
    """
    found = {}
    for split, loop in (('train', runner.train_loop), ('val', runner.val_loop)):
        if loop is not None:
            dataset = loop.dataloader.dataset
            classes = tuple((getattr(dataset, 'metainfo', None) or {}).get('classes') or ())
            found[split] = dict(classes=classes, images=len(dataset), digest=_digest(dataset))
    return found


def _digest(dataset: Dataset) -> int:
    digest = 0
    # Data sets that combine or repeat others give the information of the image behind.
    for index in range(0, len(dataset), max(1, len(dataset) // _SAMPLED)):
        info = dataset.get_data_info(index) if hasattr(dataset, 'get_data_info') else {}
        name = os.path.basename(str(info.get('img_path')))
        digest = zlib.crc32(f'{name} {info.get("width")} {info.get("height")}'.encode(), digest)
    return digest


def require_same_data(saved: dict[str, dict[str, Any]], present: dict[str, dict[str, Any]]) -> None:
    """Stop where a run would be resumed with other classes or other images.

    Args:
        saved: What :func:`describe_data` gave when the checkpoint was written.
        present: What it gives now.

    Raises:
        UserError: If anything differs; the message says what.
    """
    for split in [split for split in saved if split in present]:
        before, now = saved[split], present[split]
        if tuple(before['classes']) != now['classes']:
            what = (
                f'the classes {listing(before["classes"], form=str)}, and the data has '
                f'{listing(now["classes"], form=str)}'
            )
        elif before['images'] != now['images']:
            what = f'{before["images"]} images ({split}), and there are {now["images"]}'
        elif before['digest'] != now['digest']:
            what = f'other images ({split}), by their names and sizes'
        else:
            continue
        raise UserError(
            f'--resume continues a run, and this run had {what}; resume it with its own data, or '
            'begin a new run from its weights by --cfg-options load_from=CHECKPOINT in another '
            '--work-dir, without --resume.'
        )
