"""What must be installed before anything here can work."""

from importlib import import_module

_MMCV_REMEDY = (
    'compile it against the installed torch: `MMCV_WITH_OPS=1 pip install --no-build-isolation '
    '--no-cache-dir --force-reinstall --no-deps onedl-mmcv==2.3.6` (official family: `mmcv==2.1.0`)'
)


def require_mmdet() -> None:
    """Check that mmdet and an mmcv with compiled operators can be imported.

    Raises:
        ImportError: If one of them is missing; one sentence says which, and what to install.
    """
    try:
        import_module('mmcv')
    except ImportError as error:
        raise ImportError(
            f'mmdet_mobileformer needs mmcv, which cannot be imported ({error}); {_MMCV_REMEDY}.'
        ) from None
    try:
        import_module('mmcv._ext')
    except ImportError as error:
        raise ImportError(
            'mmdet_mobileformer needs the compiled operators of mmcv, and the installed mmcv has '
            f'none that load ({error}); {_MMCV_REMEDY}.'
        ) from None
    try:
        import_module('mmdet')
    except (ImportError, AssertionError) as error:  # mmdet asserts the versions of the others
        raise ImportError(
            f'mmdet_mobileformer needs MMDetection 3, which cannot be imported ({error}); install '
            '`onedl-mmdetection==3.5.1`, or `mmdet==3.3.0` where the official mmcv is installed.'
        ) from None
