"""Image classification: its data, one folder for each class, and its optional library."""

from argparse import Namespace

import pytest
from mmengine.config import Config

from mmdet_mobileformer.data_check.check import check_data
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.arguments import load_config
from mmdet_mobileformer.launch.data_flags import set_data_root


def class_folders(root, train=('a', 'b'), val=('a', 'b'), **model):
    """Config of a classifier on <root>/{train,val}/<class>, as for mmpretrain."""
    loaders = {}
    for split, names in (('train', train), ('val', val)):
        for name in names:
            (root / split / name).mkdir(parents=True)
        dataset = dict(type='CustomDataset', data_root='elsewhere', data_prefix=split)
        loaders[f'{split}_dataloader'] = dict(dataset=dataset)
    cfg = Config(dict(model=dict(head=dict(num_classes=2)), **loaders, **model))
    set_data_root(cfg, str(root))
    return cfg


def test_class_folders(tmp_path):
    cfg = class_folders(tmp_path / 'good', data_preprocessor=dict(num_classes=2))
    findings = check_data(cfg, ('train', 'val'))
    assert findings.errors == [] and findings.notes == []
    assert cfg.val_dataloader.dataset.data_root == str(tmp_path / 'good')


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        (dict(val=('a', 'c')), ['b, c', 'the same class folders']),
        (dict(val=()), ['does not exist']),
        (dict(train='abc', val='abc'), ['3 class folders', 'num_classes']),
        (dict(data_preprocessor=dict(num_classes=9)), ['is 9', 'is 2']),
    ],
)
def test_class_folders_that_would_train_nonsense(settings, words, tmp_path):
    errors = check_data(class_folders(tmp_path, **settings), ('train', 'val')).errors
    assert errors and all(word in errors[0] for word in words), errors


def test_a_config_that_imports_what_is_not_installed(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("custom_imports = dict(imports=['not_installed_here'])\n")
    with pytest.raises(UserError, match=r'config\.py.*not_installed_here'):
        load_config(Namespace(config=str(config), cfg_options=None))
