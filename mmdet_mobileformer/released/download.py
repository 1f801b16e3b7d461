"""Fetching the authors' published ImageNet checkpoints from where they put them."""

import os

from mmdet_mobileformer.errors import UserError

# Google Drive ids of the released checkpoints (released model).
FILE_IDS = {
    '26m': '15uWYzx2VWWUjacZQHB56vOHzKxQDlp5O',
    '52m': '1ekq_FPl57gjIlYX16Ll0nBuEyB0pjgGt',
    '96m': '1kMbRceswujtliCHKr-nxMFsrkvBrEfrW',
    '151m': '1w4QO-zhJ8QI1zGu7iOZ7lXxYJ5G1VXdF',
    '214m': '13MOjdIMMBJgqyq_ld-grRhBBHOFU5Ggd',
    '294m': '1JBSM7NJ60fN9TgT5sMnbhmbZwrzcBd0r',
    '508m': '1bqLIcpbCaxK-Eb4wcxk0iJpFJ1nXfGuF',
}


def download(variant: str, path: str) -> None:
    """Fetch a variant's published checkpoint with gdown, which shows its progress.

    Args:
        variant: A key of :data:`FILE_IDS`.
        path: File to write. One that is there already is kept, and nothing is fetched.

    Raises:
        UserError: If gdown is missing or the file cannot be fetched; the message says how to get it
            by hand.
    """
    if os.path.isfile(path):
        return
    by_hand = (
        f'open https://drive.google.com/uc?id={FILE_IDS[variant]} in a browser, save the file as '
        f'{path}, and run again'
    )
    try:
        import gdown
    except ImportError:
        raise UserError(
            f'--download needs gdown; install it by `pip install gdown`, or {by_hand}.'
        ) from None
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    partial = f'{path}.partial'
    try:
        fetched = gdown.download(id=FILE_IDS[variant], output=partial, quiet=False)
    except Exception as error:  # gdown passes on whatever the network made fail
        fetched, reason = None, f'{type(error).__name__}: {str(error).strip()}'.splitlines()[0]
    else:
        reason = 'gdown gave no file'
    if fetched is None or not os.path.isfile(partial):
        if os.path.exists(partial):
            os.remove(partial)
        raise UserError(f'the checkpoint of {variant} cannot be fetched ({reason}); {by_hand}.')
    os.replace(partial, path)
