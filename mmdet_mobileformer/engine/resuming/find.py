"""Finding the checkpoint to resume from: the newest that is whole."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdet_mobileformer.checkpoints import load_checkpoint_as_data
from mmdet_mobileformer.checkpoints.writing import PARTIAL_SUFFIX
from mmdet_mobileformer.errors import UserError

_NEEDED = ('meta', 'state_dict', 'optimizer', 'message_hub')


def find_resume_point(work_dir: str, out_dir: str | None = None) -> tuple[str | None, list[str]]:
    """Find the newest whole checkpoint of a run.

    Looks at every ``*.pth`` in the work directory and in the folder of ``out_dir``; best
    checkpoints, which hold no optimiser, cannot be resumed from. Newest is what was written last;
    where ``last_checkpoint`` names no file of these folders (they were copied), it is what has
    trained the most iterations.

    Args:
        work_dir: The run's work directory; it need not exist.
        out_dir: Of the checkpoint hook, which adds the work directory's name to it.

    Returns:
        The checkpoint, None where there is none; and a sentence for each newer file that is not
        whole.
    """
    folders = [Path(work_dir)]
    if out_dir:
        folders.append(Path(out_dir) / folders[0].resolve().name)
    found = (path for folder in folders for path in sorted(folder.glob('*.pth*')))
    paths = {path.resolve(): path for path in found if path.is_file()}
    pointer = folders[0] / 'last_checkpoint'
    in_order = pointer.is_file() and Path(pointer.read_text().strip()).resolve() in paths
    newest, newest_age, passed_over = None, (-1, False), []
    for path in sorted(paths.values(), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if path.name.endswith('.pth' + PARTIAL_SUFFIX):
            passed_over.append(f'{path}: its writing was interrupted.')
        if path.suffix != '.pth' or path.name.startswith('best_'):
            continue
        try:
            checkpoint = require_resumable(str(path))
        except UserError as error:
            passed_over.append(str(error))
            continue
        # Of the same iteration, the one after the validation.
        validated = (checkpoint.get('resume_state') or {}).get('validated', False)
        age = checkpoint['meta']['iter'], validated
        if age > newest_age:
            newest, newest_age = str(path), age
        if in_order:
            break
    return newest, passed_over


def require_resumable(path: str) -> Mapping[str, Any]:
    """Read a checkpoint to resume from, after comparing every byte with its checksums.

    Raises:
        UserError: If it is damaged, incomplete or cannot be resumed from.
    """
    if not os.path.isfile(path):
        raise UserError(
            f'--resume {path}: there is no such file; name a checkpoint, or give --resume alone '
            'for the newest of the work directory.'
        )
    require_whole(path)
    checkpoint = load_checkpoint_as_data(path)
    missing = [name for name in _NEEDED if name not in checkpoint]
    if missing:
        raise UserError(f'{path} cannot be resumed from: it has no {", ".join(missing)}.')
    return checkpoint


def require_whole(path: str) -> None:
    """Compare every byte of a checkpoint in PyTorch's format with its checksums.

    Raises:
        UserError: If it is damaged or incomplete.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise UserError(f'{path} is not whole ({error}).') from None
    if damaged:
        raise UserError(f'{path} is damaged (the checksum of {damaged} is wrong).')
