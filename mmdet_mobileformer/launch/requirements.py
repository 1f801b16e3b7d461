"""What a config asks for and this environment may lack."""

from __future__ import annotations

from importlib.util import find_spec

from mmengine.config import Config

from mmdet_mobileformer.config_tree import names_class
from mmdet_mobileformer.errors import UserError

# mmengine's backends of a visualizer, and the distribution that each needs.
_BACKENDS = {
    'TensorboardVisBackend': 'tensorboard',
    'WandbVisBackend': 'wandb',
    'MLflowVisBackend': 'mlflow',
    'ClearMLVisBackend': 'clearml',
    'NeptuneVisBackend': 'neptune',
    'DVCLiveVisBackend': 'dvclive',
    'AimVisBackend': 'aim',
}


def check_vis_backends(cfg: Config) -> None:
    """Check that what the visualizer writes to is installed.

    Raises:
        UserError: If it is not; the message says what to install.
    """
    for backend in (cfg.get('visualizer') or {}).get('vis_backends') or []:
        for name, module in _BACKENDS.items():
            if names_class(backend, name) and find_spec(module) is None:
                raise UserError(
                    f'{name}, which visualizer.vis_backends of {cfg.filename} names, needs '
                    f'{module}, which is not installed; install it by `pip install {module}`, or '
                    "take type='LocalVisBackend', which writes files."
                )
