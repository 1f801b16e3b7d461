"""What the check finds, and how it says so."""

from __future__ import annotations

from typing import Literal

from mmdet_mobileformer.errors import UserError

MAX_LISTED = 20

Level = Literal['error', 'warning', 'note']


class Findings:
    """What the check found, one sentence each.

    Attributes:
        errors: What would stop the run later, or spoil it silently.
        warnings: What mmdet handles in a way that may surprise.
        notes: What is good to know.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def add(self, level: Level, text: str) -> None:
        """Add a sentence."""
        {'error': self.errors, 'warning': self.warnings, 'note': self.notes}[level].append(text)

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
