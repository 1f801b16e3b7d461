"""Checkpoints from elsewhere: read as data, and compared with the detector that they are for."""

import os
import pickle
import shutil

import pytest
import torch
from coco_folder import CLASSES, write_coco_folder
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from run_tool import run_tool
from safetensors.torch import save_file
from tiny_detector import plain_text, retinanet, run_config

from mmdet_mobileformer.checkpoints import trust_files
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.safe_loading import load_checkpoints_as_data


class Code:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


class Settings:
    """What an old file may hold beside data, without doing harm."""

    rate = 1


@pytest.fixture(autouse=True)
def _mmengine_as_before(monkeypatch):
    # Its formatting takes longer than all that is tested here.
    monkeypatch.setattr(Config, 'pretty_text', property(plain_text))
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    yield
    trust_files(False)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_coco_folder(tmp_path_factory.mktemp('data') / 'coco', num_train=2, num_val=1)


@pytest.fixture
def config(data, tmp_path):
    """Write a config file whose model has these settings, and return its path."""

    def write(name='tiny.py', **backbone):
        cfg = run_config(data, tmp_path / 'work', 1, model=retinanet(**backbone))
        cfg['test_dataloader'], cfg['test_evaluator'] = cfg['val_dataloader'], cfg['val_evaluator']
        cfg['test_cfg'] = dict(type='TestLoop')
        Config(cfg).dump(tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def weights():
    init_default_scope('mmdet')
    torch.manual_seed(0)
    return MODELS.build(retinanet()).state_dict()


def for_twice_the_classes(weights):
    doubled = [name for name in weights if 'retina_cls' in name]
    return {**weights, **{name: torch.cat([weights[name]] * 2) for name in doubled}}


def write_code(path, folder, **contents):
    torch.save(dict(state_dict={}, extra=Code(folder), **contents), path)
    return path


def test_every_tool_refuses_code_in_one_sentence(config, tmp_path, capsys):
    made = tmp_path / 'made_by_the_checkpoint'
    path = write_code(tmp_path / 'evil.pth', made)
    for args in (
        ['test', config(), path],
        ['test', config(), path, '--classes', 'auto'],
        ['train', config(), '--cfg-options', f'load_from={path}'],
        ['export_onnx', config(), path, tmp_path / 'out.onnx'],
        ['convert_checkpoint', path, tmp_path / 'out.pth'],
        ['train', config(), '--resume', path],
        ['train', config(init_cfg=dict(type='Pretrained', checkpoint=str(path)))],
    ):
        assert run_tool(*args) == 2, args
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert str(path) in said and 'mkdir' in said, args
        assert not made.exists(), args


def test_own_old_file_loads_only_with_trust(weights, tmp_path):
    path = tmp_path / 'old.pth'
    torch.save(dict(state_dict=weights, meta=dict(settings=Settings())), path)
    load_checkpoints_as_data()
    with pytest.raises(UserError, match='Settings'):
        CheckpointLoader.load_checkpoint(str(path))
    load_checkpoints_as_data(trust=True)
    assert CheckpointLoader.load_checkpoint(str(path))['meta']['settings'].rate == 1


def test_an_own_old_file_serves_as_pretrained_backbone_with_trust(config, weights, tmp_path):
    path = tmp_path / 'old.pth'
    torch.save(dict(state_dict=weights, meta=dict(settings=Settings())), path)
    file = config(init_cfg=dict(type='Pretrained', checkpoint=str(path), prefix='backbone'))
    assert run_tool('train', file) == 2
    assert run_tool('train', file, '--trust-checkpoint') == 0


def test_resuming_runs_no_config_of_the_checkpoint(config, tmp_path):
    made = tmp_path / 'made_by_the_checkpoint'
    assert run_tool('train', config()) == 0
    path = tmp_path / 'work' / 'epoch_1.pth'
    checkpoint = torch.load(path, weights_only=False)
    checkpoint['meta']['config'] = f"x = __import__('os').mkdir({str(made)!r})"
    torch.save(checkpoint, path)
    options = ['train_cfg.max_epochs=2', 'experiment_name=resumed']
    assert run_tool('train', config(), '--resume', path, '--cfg-options', *options) == 0
    assert not made.exists() and (tmp_path / 'work' / 'epoch_2.pth').exists()


def test_file_of_an_address_is_data_too(weights, tmp_path, monkeypatch):
    made = tmp_path / 'made_by_the_checkpoint'
    files = {
        'good.pth': torch.save(weights, tmp_path / 'good.pth') or tmp_path / 'good.pth',
        'evil.pth': write_code(tmp_path / 'evil.pth', made),
    }
    fetched = []

    def fetch(address, path, *args, **kwargs):
        fetched.append(address)
        shutil.copyfile(files[os.path.basename(path)], path)

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', fetch)
    addresses = {'good': 'https://example.org/good.pth', 'evil': 'https://example.org/evil.pth'}
    monkeypatch.setattr(mmengine_checkpoint, 'get_torchvision_models', lambda: addresses)
    load_checkpoints_as_data()
    for name in ('https://example.org/good.pth', 'torchvision://good'):
        loaded = CheckpointLoader.load_checkpoint(name)
        assert torch.equal(loaded['backbone.tokens'], weights['backbone.tokens'])
    assert fetched == [addresses['good']]  # the second time it was there
    for name in ('https://example.org/evil.pth', 'torchvision://evil'):
        with pytest.raises((UserError, pickle.UnpicklingError), match='mkdir'):
            CheckpointLoader.load_checkpoint(name)
    assert not made.exists()


def test_safetensors_are_evaluated_as_the_same_weights(config, weights, tmp_path, capsys):
    torch.save(dict(state_dict=weights), tmp_path / 'weights.pth')
    save_file({k: v.contiguous() for k, v in weights.items()}, tmp_path / 'weights.safetensors')
    tables = []
    for name in ('weights.pth', 'weights.safetensors'):
        assert run_tool('test', config(), tmp_path / name) == 0
        tables.append([line for line in capsys.readouterr().out.splitlines() if '@[' in line])
    assert tables[0] == tables[1] and len(tables[0]) == 12


def test_another_detector_is_named(config, weights, tmp_path, capsys):
    torch.save(dict(state_dict=weights, meta=dict(cfg="arch='26m'")), tmp_path / 'weights.pth')
    other = ['--cfg-options', 'model.backbone.arch=52m', 'model.neck.in_channels=[64,96]']
    for tool, args in (
        ('test', [config(), tmp_path / 'weights.pth', *other]),
        ('train', [config(), *other, f'load_from={tmp_path / "weights.pth"}']),
    ):
        assert run_tool(tool, *args) == 2
        said = capsys.readouterr().err
        assert 'it is of variant 26m and the config of variant 52m' in said
        assert 'tiny.py' in said and 'Traceback' not in said
    other = for_twice_the_classes(weights)
    meta = dict(dataset_meta=dict(classes=tuple('abcdef')))
    torch.save(dict(state_dict=other, meta=meta), tmp_path / 'six.pth')
    assert run_tool('test', config(), tmp_path / 'six.pth') == 2
    said = capsys.readouterr().err
    assert 'it was trained for 6 classes' in said and 'bbox_head.retina_cls' in said


def test_nothing_trains_from_noise_behind_a_checkpoint(config, weights, tmp_path, capsys):
    torch.save({f'stem.{name}': value for name, value in weights.items()}, tmp_path / 'other.pth')
    head = {name: value for name, value in weights.items() if name.startswith('bbox_head')}
    torch.save(head, tmp_path / 'head.pth')
    file = config(init_cfg=dict(type='Pretrained', checkpoint='missing.pth', prefix='backbone'))
    for name, said in (
        ('other.pth', 'has no part in common with the detector'),
        ('head.pth', 'has no backbone, and the pretrained weights'),
    ):
        assert run_tool('train', file, '--cfg-options', f'load_from={tmp_path / name}') == 2
        assert said in capsys.readouterr().err


def test_other_anchors_are_no_other_classes(config, weights, tmp_path, capsys):
    tripled = [name for name in weights if 'retina_reg' in name]
    weights = {**weights, **{name: torch.cat([weights[name]] * 3) for name in tripled}}
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(state_dict=weights, meta=meta), tmp_path / 'anchors.pth')
    options = ['--cfg-options', f'load_from={tmp_path / "anchors.pth"}']
    assert run_tool('train', config(), *options) == 2
    assert 'bbox_head.retina_reg.weight is of shape' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('tool', 'says'), [('test', 'taken for each other'), ('train', 'to learn')]
)
def test_other_names_of_as_many_classes_are_a_warning(config, weights, tmp_path, tool, says):
    meta = dict(dataset_meta=dict(classes=('car', 'bus', 'tram')[: len(CLASSES)]))
    file = tmp_path / 'cars.pth'
    torch.save(dict(state_dict=weights, meta=meta), file)
    options = ['--cfg-options', 'log_level=INFO', f'experiment_name=names_{tool}']
    words = [config(), file] if tool == 'test' else [config()]
    options += [f'load_from={file}'] if tool == 'train' else []
    assert run_tool(tool, *words, *options) == 0
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    assert 'was trained for 3 classes (car, bus, tram)' in log and ', '.join(CLASSES) in log
    assert says in log


def test_finetuning_keeps_all_but_the_class_layers(config, weights, tmp_path):
    torch.save(dict(state_dict=for_twice_the_classes(weights)), tmp_path / 'six.pth')
    options = [f'load_from={tmp_path / "six.pth"}', 'optim_wrapper.optimizer.lr=0.0']
    options += ['optim_wrapper.optimizer.weight_decay=0.0', 'model.backbone.norm_eval=True']
    # Two runs of one name in one second would share mmengine's logger, and its file.
    options += ['log_level=INFO', 'experiment_name=finetuning']
    assert run_tool('train', config(), '--cfg-options', *options) == 0
    trained = torch.load(tmp_path / 'work' / 'epoch_1.pth', weights_only=False)['state_dict']
    assert trained.keys() == weights.keys()
    for name, value in trained.items():
        if 'retina_cls' not in name:
            assert torch.equal(value, weights[name]), name
        assert value.shape == weights[name].shape
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    assert 'everything is kept but the class layers' in log and 'bbox_head.retina_cls.bias' in log
