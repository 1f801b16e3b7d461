"""What the check finds, and how it says so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mmdet_mobileformer.errors import UserError

MAX_LISTED = 20


@dataclass
class Findings:
    """What the check found, one sentence each."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def raise_errors(self) -> None:
        """Raise all errors as one.

        Raises:
            UserError: With the first 20 errors and how many more there are.
        """
        if not self.errors:
            return
        lines = [f'the data check found {len(self.errors)} problem(s):']
        lines += [
            f'  {number}. {error}' for number, error in enumerate(self.errors[:MAX_LISTED], 1)
        ]
        if len(self.errors) > MAX_LISTED:
            lines.append(f'  and {len(self.errors) - MAX_LISTED} more.')
        raise UserError('\n'.join(lines))


def listing(values: Iterable[Any], shown: int = 5) -> str:
    """The first few values, and how many more there are."""
    values = list(values)
    more = f' and {len(values) - shown} more' if len(values) > shown else ''
    return ', '.join(repr(value) for value in values[:shown]) + more
