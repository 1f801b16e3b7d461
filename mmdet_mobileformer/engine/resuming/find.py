"""Finding the checkpoint to resume from: the newest that is whole."""

import os
import zipfile
from pathlib import Path

from mmdet_mobileformer.checkpoints import load_checkpoint_as_data
from mmdet_mobileformer.errors import UserError

_NEEDED = ('meta', 'state_dict', 'optimizer', 'message_hub')


def find_resume_point(work_dir: str, out_dir: str | None = None) -> tuple[str | None, list[str]]:
    """Find the newest whole checkpoint of a run.

    Looks at every ``*.pth`` in the work directory and in the folder of ``out_dir``, first at the
    one whose name ``last_checkpoint`` holds (whatever its folder, which may have been copied), then
    at what was written last. Best checkpoints, which hold no optimiser, cannot be resumed from.

    Args:
        work_dir: The run's work directory; it need not exist.
        out_dir: Of the checkpoint hook, which adds the work directory's name to it.

    Returns:
        The checkpoint or None, and a sentence for each one before it that is not whole.
    """
    folders = [Path(work_dir)]
    if out_dir:
        folders.append(Path(out_dir) / folders[0].resolve().name)
    paths = [path for folder in folders for path in folder.glob('*.pth') if path.is_file()]
    pointer = folders[0] / 'last_checkpoint'
    named = Path(pointer.read_text().strip()).name if pointer.is_file() else None
    passed_over = []
    for path in sorted(paths, key=lambda p: (p.name == named, p.stat().st_mtime_ns), reverse=True):
        if not path.name.startswith('best_'):
            try:
                require_resumable(str(path))
                return str(path), passed_over
            except UserError as error:
                passed_over.append(str(error))
    return None, passed_over


def require_resumable(path: str) -> None:
    """Check that a file is there, whole, and holds what resuming needs.

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
