"""What the check finds, and how it says so."""

from mmdet_mobileformer.errors import UserError

MAX_LISTED = 20


class Findings:
    """What the check found, one sentence each; `error`, `warning` and `note` add one.

    Attributes:
        errors: What would stop the run later, or spoil it silently.
        warnings: What mmdet handles in a way that may surprise.
        notes: What is good to know.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.error = self.errors.append
        self.warning = self.warnings.append
        self.note = self.notes.append

    def raise_errors(self) -> None:
        """Raise all errors as one.

        Raises:
            UserError: With the first 20 errors and how many more there are.
        """
        if not self.errors:
            return
        lines = [f'the data check found {len(self.errors)} problem(s):']
        lines += [f'  {number}. {error}' for number, error in enumerate(self.errors, 1)]
        if len(self.errors) > MAX_LISTED:
            lines[MAX_LISTED + 1 :] = [f'  and {len(self.errors) - MAX_LISTED} more.']
        raise UserError('\n'.join(lines))
