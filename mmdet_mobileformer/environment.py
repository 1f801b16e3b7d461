"""What must be installed before anything here can work."""

from importlib import import_module

_REMEDIES = {
    # The compiled operators, which mmcv-lite and a plain `pip install mmcv` lack.
    'mmcv._ext': 'compile mmcv against the installed torch: `MMCV_WITH_OPS=1 pip install '
    '--no-build-isolation --no-cache-dir --force-reinstall --no-deps onedl-mmcv==2.3.6` (official '
    'family: `mmcv==2.1.0`)',
    'mmdet': 'install `onedl-mmdetection==3.5.1`, or `mmdet==3.3.0` where the official mmcv is '
    'installed',
}


def require_mmdet() -> None:
    """Check that mmdet and an mmcv with compiled operators can be imported.

    Raises:
        ImportError: If one of them is missing; one sentence says which, and what to install.
    """
    for name, remedy in _REMEDIES.items():
        try:
            import_module(name)
        except (ImportError, AssertionError) as error:  # mmdet asserts the versions of the others
            raise ImportError(
                f'mmdet_mobileformer needs {name}, which cannot be imported ({error}); {remedy}.'
            ) from None
