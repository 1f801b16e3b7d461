"""The configs that this package carries, by name: ``mmdet_mobileformer::retinanet_mf294m_coco.py``.

They lie where mim looks for those of a package, in ``.mim/``: links in a clone, copies where the
package was installed.
"""

from pathlib import Path

from mmengine.config import Config

PREFIX = 'mmdet_mobileformer::'
CONFIGS = Path(__file__).parent / '.mim' / 'configs'


def config_file(name: str) -> str:
    """Path of a config of this package.

    Args:
        name: Path inside ``configs/``, with or without ``mmdet_mobileformer::`` before it.

    Raises:
        FileNotFoundError: If there is none of this name.

    Examples:
        >>> Path(config_file('mmdet_mobileformer::retinanet_mf294m_coco.py')).name
        'retinanet_mf294m_coco.py'
    """
    path = CONFIGS / name.removeprefix(PREFIX)
    if not path.is_file():
        raise FileNotFoundError(
            f'mmdet_mobileformer has no config {name.removeprefix(PREFIX)!r}; it has those of '
            f'{CONFIGS}'
        )
    return str(path)


def resolve_prefix() -> None:
    """Let ``_base_`` name this package's configs by ``mmdet_mobileformer::``.

    mmengine resolves ``package::folder/file`` for a fixed list of OpenMMLab's packages only.
    """
    resolve = Config._get_cfg_path

    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if cfg_path.startswith(PREFIX):
            return config_file(cfg_path), None
        return resolve(cfg_path, filename)

    Config._get_cfg_path = staticmethod(get_cfg_path)
