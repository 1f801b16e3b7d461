"""What `pip install .` carries: the configs and tools, where mim and `_base_` find them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from coco_folder import write_coco_folder
from mmengine.config import Config

from mmdet_mobileformer import config_file

ROOT = Path(__file__).parents[1]
SOURCES = ('mmdet_mobileformer', 'configs', 'tools')
FILES = ('pyproject.toml', 'README.md', 'LICENSE', 'model-index.yml')
CONFIG = """
_base_ = 'mmdet_mobileformer::retinanet_mf26m_shapes.py'
train_cfg = dict(max_epochs=1)
default_hooks = dict(checkpoint=dict(interval=1, save_best=None))
"""


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """The package installed from a copy of its sources into a folder of its own."""
    root = tmp_path_factory.mktemp('package')
    ignored = shutil.ignore_patterns('__pycache__')
    for name in SOURCES:
        shutil.copytree(ROOT / name, root / 'sources' / name, symlinks=True, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, root / 'sources')
    options = ['--quiet', '--no-index', '--no-deps', '--no-build-isolation']
    subprocess.run(
        [sys.executable, '-m', 'pip', 'install', *options, '--target', root / 'site', '.'],
        check=True,
        cwd=root / 'sources',
    )
    shutil.rmtree(root / 'sources')
    return root / 'site'


def test_installed_package_trains_a_config_that_lives_elsewhere(installed, tmp_path):
    data = write_coco_folder(tmp_path / 'data', num_train=4, num_val=2)
    (tmp_path / 'mine.py').write_text(CONFIG)
    tool = installed / 'mmdet_mobileformer' / '.mim' / 'tools' / 'train.py'
    command = [sys.executable, tool, 'mine.py', '--data-root', data, '--classes', 'auto']
    options = ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
    options += ['val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False']
    done = subprocess.run(
        [*command, '--work-dir', 'run', '--cfg-options', *options],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(installed)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert str(ROOT / 'mmdet_mobileformer') not in done.stdout
    assert (tmp_path / 'run' / 'epoch_1.pth').is_file()


def test_installed_package_carries_what_a_clone_has(installed):
    carried = installed / 'mmdet_mobileformer' / '.mim'
    for name in ('configs', 'tools'):
        for path in (ROOT / name).rglob('*'):
            relative = path.relative_to(ROOT)
            if path.is_file() and '__pycache__' not in path.parts and 'dev' not in relative.parts:
                assert (carried / relative).read_bytes() == path.read_bytes(), relative
    assert (installed / 'mmdet_mobileformer' / 'py.typed').is_file()


def test_base_names_a_config_of_the_package(tmp_path):
    (tmp_path / 'mine.py').write_text(CONFIG)
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.model.backbone.arch == '26m' and cfg.train_cfg.max_epochs == 1

    (tmp_path / 'wrong.py').write_text("_base_ = 'mmdet_mobileformer::retinanet_mf26m.py'")
    with pytest.raises(FileNotFoundError, match=r"no config 'retinanet_mf26m.py'; it has those of"):
        Config.fromfile(tmp_path / 'wrong.py')


def test_model_index_lists_the_configs():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    listed = [
        model['Config']
        for file in index['Import']
        for model in yaml.safe_load((ROOT / file).read_text())['Models']
    ]
    assert listed == sorted(f'configs/{path.name}' for path in (ROOT / 'configs').glob('*.py'))
    for config in listed:
        assert Path(config_file(config.removeprefix('configs/'))).is_file()
