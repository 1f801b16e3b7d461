"""Work directories: one a training, and in the place of its config and checkpoint afterwards."""

import fcntl
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from mmdet_mobileformer.checkpoints.reading import load_checkpoint_as_data
from mmdet_mobileformer.engine.resuming.find import find_resume_point, require_whole
from mmdet_mobileformer.errors import UserError

# Open as long as the process lives, since closing one gives its lock back.
_held: list[IO[str]] = []


def default_work_dir(config: str, own_root: str | None, data_root: str | None) -> str:
    """``work_dirs/<config>``, with the name of ``--data-root`` behind it where it is another."""
    path = os.path.join('work_dirs', Path(config).stem)
    if not data_root or (own_root and os.path.realpath(own_root) == os.path.realpath(data_root)):
        return path
    return f'{path}-{os.path.basename(os.path.realpath(data_root))}'


def hold_work_dir(path: str) -> None:
    """Make a work directory this training's own, until its process ends.

    The lock is the system's: it ends with the process however that ends, and loader workers do not
    inherit it. Where the file system knows no locks, there is none.

    Raises:
        UserError: If another training holds it.
    """
    os.makedirs(path, exist_ok=True)
    file = open(os.path.join(path, '.lock'), 'a+', encoding='utf-8')  # noqa: SIM115 (held open)
    _held.append(file)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # what systems answer where it is taken
        file.seek(0)
        raise UserError(
            f'another training ({file.read().strip() or "of unknown number"}) runs in {path}; wait '
            'for its end, or give this one a folder of its own by --work-dir.'
        ) from None
    except OSError:
        return
    file.truncate(0)
    print(f'process {os.getpid()} on {socket.gethostname()}', file=file, flush=True)


def find_run(words: Sequence[str | None]) -> tuple[str, str]:
    """Config and checkpoint that the positional words of a tool mean.

    Args:
        words: WORK_DIR of a training, for the config that it saved and its best checkpoint, where
            there is none the newest whole one; or CONFIG CHECKPOINT as in mmdet, where WORK_DIR may
            stand for the config. None is passed over.

    Returns:
        Path of the config, and path or address of the checkpoint.

    Raises:
        UserError: If the words name no detector, there is no such checkpoint, or the work directory
            holds no config, no whole checkpoint, or several configs none of which is the
            checkpoint's.
    """
    words = [word for word in words if word is not None]
    place, *checkpoint = words or ['']
    if len(checkpoint) > 1 or not (checkpoint or os.path.isdir(place)):
        raise UserError(
            f'{" ".join(words) or "nothing"} does not name a detector (looked from {os.getcwd()}); '
            'give the work directory of a training, or CONFIG CHECKPOINT.'
        )
    if checkpoint and '://' not in checkpoint[0] and not os.path.isfile(checkpoint[0]):
        raise UserError(
            f'the checkpoint {checkpoint[0]} does not exist (looked from {os.getcwd()}).'
        )
    if not os.path.isdir(place):
        return place, checkpoint[0]
    configs = {path.stem: str(path) for path in sorted(Path(place).glob('*.py'))}
    if not configs:
        raise UserError(
            f'{place} holds no config (*.py), which a training saves there; give CONFIG CHECKPOINT.'
        )
    path = checkpoint[0] if checkpoint else _best_checkpoint(place)
    name = next(iter(configs)) if len(configs) == 1 else _config_name(path)
    if name not in configs:
        raise UserError(
            f'{place} holds several configs ({", ".join(configs)}), and {path} does not say to '
            'which it belongs; give CONFIG CHECKPOINT.'
        )
    return configs[name], path


def _best_checkpoint(work_dir: str) -> str:
    """The best checkpoint that was written last, where there is none the newest whole one."""
    newest, passed_over = find_resume_point(work_dir)
    best = Path(work_dir).glob('best_*.pth')
    for path in sorted(best, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            require_whole(str(path))
        except UserError as error:
            passed_over.append(str(error))
            continue
        return str(path)
    if newest is None:
        reasons = f' ({" ".join(passed_over)})' if passed_over else ''
        raise UserError(
            f'{work_dir} holds no whole checkpoint{reasons}; train first, or give CONFIG '
            'CHECKPOINT.'
        )
    return newest


def _config_name(checkpoint: str) -> str | None:
    """Name of the config of the run that wrote a checkpoint: mmengine's <config>_<date>_<time>."""
    if not os.path.isfile(checkpoint):
        return None
    name = (load_checkpoint_as_data(checkpoint).get('meta') or {}).get('experiment_name') or ''
    return re.sub(r'_\d{8}_\d{6}$', '', name)
