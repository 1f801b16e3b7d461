"""Errors that a user can fix: one sentence each, and no traceback in the tools."""

import errno
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

EXIT_CODE = 2


class UserError(Exception):
    """What the user gave cannot work; the message names the value, the file and the remedy."""


class LocalError(UserError):
    """A :class:`UserError` that only one of several processes may meet, so that each one speaks."""


def listing(values: Iterable[Any], shown: int = 5, form: Callable[[Any], str] = repr) -> str:
    """The first few values, and how many more there are."""
    values = list(values)
    more = f' and {len(values) - shown} more' if len(values) > shown else ''
    return ', '.join(map(form, values[:shown])) + more


def run_tool(main: Callable[[], None]) -> None:
    """Run a command line tool: a :class:`UserError` becomes its sentence and exit code 2.

    So does a disk that is full where mmengine writes its logs. Of several processes only the first
    one speaks, except for a :class:`LocalError`; all end.

    Raises:
        SystemExit: With code 2 after a :class:`UserError`, or where the disk is full.
    """
    try:
        main()
        return
    except UserError as error:
        local = isinstance(error, LocalError)
        said = _sentence(error) if local or int(os.environ.get('RANK', 0)) == 0 else ''
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        said = (
            f'{error.filename or "a file"} cannot be written ({error.strerror}); free some space '
            'and run again (a training: --resume).'
        )
    if said:
        print(f'{os.path.basename(sys.argv[0])}: error: {said}', file=sys.stderr)
    raise SystemExit(EXIT_CODE)


def _sentence(error: UserError) -> str:
    """The message alone; torch's data loader wraps it into a worker's traceback."""
    text = str(error)
    if 'Original Traceback' in text:
        text = text.rsplit(f'{type(error).__name__}: ', 1)[-1].strip()
    return text
