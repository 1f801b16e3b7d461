"""What the check finds, and how it says so."""

from dataclasses import dataclass, field

from mmdet_mobileformer.errors import UserError

MAX_LISTED = 20


@dataclass(frozen=True)
class Findings:
    """What the check found, one sentence each.

    Attributes:
        errors: What would stop the run later, or spoil it silently.
        warnings: What mmdet handles in a way that may surprise.
        notes: What is good to know.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def raise_errors(self) -> None:
        """Raise the first 20 errors as one UserError that says how many more there are."""
        if not self.errors:
            return
        lines = [f'the data check found {len(self.errors)} problem(s):']
        lines += [f'  {number}. {error}' for number, error in enumerate(self.errors, 1)]
        if len(self.errors) > MAX_LISTED:
            lines[MAX_LISTED + 1 :] = [f'  and {len(self.errors) - MAX_LISTED} more.']
        raise UserError('\n'.join(lines))
