"""The error that a user can mend."""


class UserError(Exception):
    """What the user gave cannot work; the message names the value, the file and the remedy."""
