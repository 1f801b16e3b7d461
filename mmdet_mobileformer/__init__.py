"""Mobile-Former (CVPR 2022) for MMDetection.

Importing this package registers everything it holds with mmdet's registries, lets ``_base_`` name
its configs by ``mmdet_mobileformer::``, and does nothing else.
A config reaches it by
``custom_imports = dict(imports=['mmdet_mobileformer'], allow_failed_imports=False)``.
"""

from mmdet_mobileformer.environment import require_mmdet
from mmdet_mobileformer.version import __version__

require_mmdet()

from mmdet_mobileformer import engine, models  # noqa: E402  (only after the check above)
from mmdet_mobileformer.packaged_configs import config_file, resolve_prefix  # noqa: E402  (as above)

resolve_prefix()

__all__ = ['__version__', 'config_file', 'engine', 'models']
