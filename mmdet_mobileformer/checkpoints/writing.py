"""Files that are whole or not there: a temporary file, flushed to the disk, then renamed."""

import os
from contextlib import suppress
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from mmdet_mobileformer.errors import UserError

PARTIAL_SUFFIX = '.partial'


def write_durably(path: str | os.PathLike, content: bytes) -> None:
    """Write a file so that a crash leaves either its old content or the new one.

    The content goes to ``<path>.partial`` in the same folder and to the disk before it takes the
    file's name.

    Args:
        path: The file; its folder is made if it is missing.
        content: All its bytes.

    Raises:
        UserError: If the disk takes no more or the file cannot be written; the old one stays.
    """
    path = os.path.abspath(path)
    partial = path + PARTIAL_SUFFIX
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(partial, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)  # makes the renaming itself last
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            os.remove(partial)
        raise UserError(
            f'{path} ({len(content) >> 20} MB) cannot be written ({error.strerror or error}); '
            'files written before are whole: make room or fix the permissions, then run again.'
        ) from None


class DurableBackend(LocalBackend):
    """mmengine's local files, written by :func:`write_durably`.

    mmengine writes in place, so that a kill in between leaves half a file under the real name, and
    removes what is outdated before it writes what replaces it.

    Attributes:
        outdated: Files whose removal was asked for, and is left to the one who writes.
    """

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.outdated: list[str] = []

    def remove(self, filepath: str | Path) -> None:
        """Add a file to ``outdated``."""
        self.outdated.append(os.fspath(filepath))

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file.

        Raises:
            UserError: If it cannot be written.
        """
        write_durably(filepath, obj)


register_backend('durable', DurableBackend, force=True)
