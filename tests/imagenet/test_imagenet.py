"""ImageNet training through mmpretrain: configs, tools, and what detection takes from it.

These tests need mmpretrain and run in an environment of their own: `make test-imagenet`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS, MODELS
from mmpretrain.structures import DataSample
from PIL import Image
from reference.reference_weights import expected, image, state_dict

from mmdet_mobileformer.models import MobileFormer, MobileFormerClassifier
from mmdet_mobileformer.released.convert import convert_to_official
from mmdet_mobileformer.released.keys import from_official, key_table

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs' / 'imagenet'
VARIANTS = ['26m', '52m', '96m', '151m', '214m', '294m', '508m']
QUICK = [
    'train_cfg.max_epochs=1',
    'default_hooks.logger.interval=1',
    *(f'{split}_dataloader.batch_size=4' for split in ('train', 'val', 'test')),
    *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val', 'test')),
    *(f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val', 'test')),
]


def read(variant):
    cfg = Config.fromfile(CONFIGS / f'mobile-former-{variant}_8xb128-450e_in1k.py')
    init_default_scope(cfg.default_scope)
    return cfg


def build(cfg):
    return MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Three classes of one colour each, 4 images for training and 2 for validation."""
    root = tmp_path_factory.mktemp('imagenet')
    rng = np.random.default_rng(0)
    for split, count in (('train', 4), ('val', 2)):
        for index in range(3):
            (root / split / f'n{index}').mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (48, 64, 3), dtype=np.uint8)
                pixels[..., index] += 150
                Image.fromarray(pixels).save(root / split / f'n{index}' / f'{number}.JPEG')
    return root


@pytest.mark.parametrize('variant', VARIANTS)
def test_config_builds_and_trains_a_step(variant, folder):
    torch.manual_seed(0)
    cfg = read(variant)
    classifier = build(cfg)
    classifier.init_weights()
    wrapper = build_optim_wrapper(classifier, cfg.optim_wrapper)
    decay = {id(p): g['weight_decay'] for g in wrapper.optimizer.param_groups for p in g['params']}
    for name, parameter in classifier.named_parameters():
        plain = name.endswith('bias') or parameter.ndim == 1 or name == 'backbone.tokens'
        expected_decay = 0 if plain else cfg.optim_wrapper.optimizer.weight_decay
        assert decay[id(parameter)] == expected_decay, name
    dataset = dict(cfg.train_dataloader.dataset, data_root=str(folder))
    samples = [DATASETS.build(dataset)[index] for index in (0, 5)]
    # Quarter images keep the step quick; augmentation has seen the whole ones.
    batch = dict(
        inputs=[sample['inputs'][:, :64, :64] for sample in samples],
        data_samples=[sample['data_samples'] for sample in samples],
    )
    missing = {name for name, _ in classifier.named_parameters()}
    for name, parameter in classifier.named_parameters():
        parameter.register_hook(lambda gradient, name=name: missing.discard(name))
    classifier.train()
    logs = classifier.train_step(batch, wrapper)
    assert logs['loss'].isfinite() and not missing


RECIPES = {  # learning rate, weight decay, mixup, RandAugment, random erasing (released model)
    '508m': (1e-3, 0.20, True, True, True),
    '294m': (1e-3, 0.20, True, True, True),
    '214m': (9e-4, 0.15, True, True, True),
    '151m': (9e-4, 0.10, True, True, True),
    '96m': (8e-4, 0.10, False, True, False),
    '52m': (8e-4, 0.10, True, False, False),
    '26m': (8e-4, 0.08, True, True, False),
}


@pytest.mark.parametrize('variant', RECIPES)
def test_recipe_is_the_released_one(variant):
    cfg = read(variant)
    optimizer, dataset = cfg.optim_wrapper.optimizer, cfg.train_dataloader.dataset
    augmentations = {transform['type'] for transform in dataset.pipeline}
    found = (
        optimizer.lr,
        optimizer.weight_decay,
        cfg.model.train_cfg is not None,
        'RandAugment' in augmentations,
        'RandomErasing' in augmentations,
    )
    assert found == RECIPES[variant]
    assert optimizer.type == 'AdamW' and cfg.train_cfg.max_epochs == 450
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 1024
    assert cfg.model.backbone.arch == cfg.model.head.arch == variant


@pytest.mark.parametrize('case', ['26m_token', '96m_token', '151m_spatial'])
def test_logits_are_those_of_the_released_model(case):
    variant, dynamic_relu = case.split('_')
    reference = expected(case)
    cfg = read(variant)
    cfg.model.backbone.dynamic_relu = dynamic_relu
    classifier = build(cfg).eval()
    weights = from_official(state_dict(variant), variant)
    classifier.load_state_dict(weights)  # strict: the names are those of converted checkpoints
    images = image(tuple(reference['shape']), int(reference['seed']))
    with torch.no_grad():
        logits = classifier(images, mode='tensor')
        logits = logits if isinstance(logits, torch.Tensor) else classifier.head(logits)
        samples = classifier(images, [DataSample() for _ in images], mode='predict')
    assert np.abs(logits.numpy() - reference['logits']).max() < 1e-4 * reference['logits'].std()
    labels = [sample.pred_label.item() for sample in samples]
    assert labels == reference['logits'].argmax(1).tolist()


def tool(name, *args, cwd):
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    env['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), env.get('PYTHONPATH')]))
    command = [sys.executable, ROOT / 'tools' / f'{name}.py', *args]
    command = [str(word) for word in command]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)


def test_pretraining_to_detection(folder, tmp_path):
    """Train, test, and name the written checkpoint in a detector without touching it."""
    config = CONFIGS / 'mobile-former-26m_8xb128-450e_in1k.py'
    args = ['--data-root', folder, '--work-dir', tmp_path / 'work', '--cfg-options', *QUICK]
    done = tool('train', config, *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    output = done.stdout + done.stderr
    assert 'accuracy/top1' in output and 'accuracy/top5' in output and 'loss: ' in output
    checkpoint = tmp_path / 'work' / 'epoch_1.pth'

    args = ['--data-root', folder, '--work-dir', tmp_path / 'test', '--cfg-options', *QUICK]
    done = tool('test', config, checkpoint, *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(next((tmp_path / 'test').glob('*/*.json')).read_text())
    assert {'accuracy/top1', 'accuracy/top5'} <= set(figures)

    init_cfg = dict(type='Pretrained', checkpoint=str(checkpoint), prefix='backbone.')
    backbone = MobileFormer('26m', out_indices=(2, 3, 4), init_cfg=init_cfg)
    backbone.init_weights()
    weights = torch.load(checkpoint, weights_only=False)['state_dict']  # this test wrote it
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, weights[f'backbone.{name}'])
    MobileFormerClassifier('26m').load_state_dict(weights)

    convert_to_official(str(checkpoint), str(tmp_path / 'official.pth.tar'))
    official = torch.load(tmp_path / 'official.pth.tar', weights_only=True)['state_dict']
    assert list(official) == list(key_table('26m'))
