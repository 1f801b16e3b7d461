"""Conversion from and to the authors' format, and what is named as pretrained weights."""

import hashlib
import os
import sys
import types
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from reference.reference_weights import expected, fill_shapes, image, manifest, state_dict
from run_tool import run_tool
from safetensors.torch import save_file

from mmdet_mobileformer.checkpoints import load_checkpoint_as_data
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.models import MobileFormer, MobileFormerClassifier
from mmdet_mobileformer.released.keys import VARIANTS, expected_shapes

ROOT = Path(__file__).parents[1]
WITH_MANIFEST = ['26m', '96m', '151m', '294m', '508m']
CASES = dict(zip(WITH_MANIFEST, ['token', 'token', 'spatial', 'token', 'token'], strict=True))


def convert(*args):
    return run_tool('convert_checkpoint', *args)


def official(variant):
    return fill_shapes(expected_shapes(variant, official=True))


def load(path):
    return torch.load(path, weights_only=True)


def same(weights, others):
    return list(weights) == list(others) and all(
        torch.equal(value, others[key]) and value.dtype == others[key].dtype
        for key, value in weights.items()
    )


@pytest.fixture(scope='module')
def released(tmp_path_factory):
    """A 26m checkpoint as the authors' file, and the converted one."""
    folder = tmp_path_factory.mktemp('released')
    paths = folder / 'mobile-former-26m.pth.tar', folder / 'mobile_former_26m.pth'
    torch.save({'state_dict': state_dict('26m')}, paths[0])
    assert convert(*paths) == 0
    return paths


@pytest.mark.parametrize('variant', WITH_MANIFEST)
def test_keys_are_the_released_ones_in_their_order(variant):
    shapes = {key: tuple(shape) for key, shape in manifest(variant).items()}
    assert list(expected_shapes(variant, official=True).items()) == list(shapes.items())


@pytest.mark.parametrize('variant', VARIANTS)
def test_round_trip(variant, tmp_path):
    source, ours, back = (tmp_path / name for name in ('a.pth.tar', 'ours.pth', 'back.pth.tar'))
    weights = official(variant)
    torch.save({'state_dict': weights}, source)
    assert convert(source, ours) == 0
    assert convert(ours, back, '--to-official') == 0
    assert list(load(back)) == ['state_dict'] and same(weights, load(back)['state_dict'])
    converted = load(ours)
    assert converted['meta'] == dict(
        variant=variant,
        source='a.pth.tar',
        source_sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
        source_key='state_dict',
    )
    dynamic_relu = CASES.get(variant, 'token')
    classifier = MobileFormerClassifier(variant, dynamic_relu=dynamic_relu).eval()
    classifier.load_state_dict(converted['state_dict'])  # strict
    with torch.no_grad():
        if variant in CASES:
            reference = expected(f'{variant}_{dynamic_relu}')
            logits = classifier(image(tuple(reference['shape']), int(reference['seed'])))
            error = abs(logits.numpy() - reference['logits']).max()
            assert error < 1e-4 * reference['logits'].std()
        else:
            assert classifier(image((1, 3, 64, 96))).isfinite().all()


@pytest.mark.parametrize(
    'wrap',
    [
        lambda weights: weights,
        lambda weights: {'model': weights, 'epoch': 3, 'args': Namespace(lr=0.1)},
        lambda weights: {f'module.{key}': value for key, value in weights.items()},
        lambda weights: {'state_dict': {f'module.{key}': v for key, v in weights.items()}},
        lambda weights: {'state_dict_ema': weights},
        lambda weights: {'model_ema': weights, 'optimizer': {'state': {}}},
    ],
)
def test_ways_in_which_checkpoints_hold_weights(wrap, released, tmp_path):
    torch.save(wrap(state_dict('26m')), tmp_path / 'wrapped.pth')
    assert convert(tmp_path / 'wrapped.pth', tmp_path / 'ours.pth') == 0
    assert same(load(tmp_path / 'ours.pth')['state_dict'], load(released[1])['state_dict'])


def test_averaged_weights_are_taken_on_demand(tmp_path):
    weights = state_dict('26m')
    averaged = {key: value + 1 for key, value in weights.items()}
    torch.save({'state_dict': weights, 'state_dict_ema': averaged}, tmp_path / 'both.pth')
    for flags, tokens in (([], weights['tokens.weight']), (['--ema'], averaged['tokens.weight'])):
        assert convert(tmp_path / 'both.pth', tmp_path / 'ours.pth', *flags) == 0
        assert torch.equal(load(tmp_path / 'ours.pth')['state_dict']['backbone.tokens'], tokens)


def test_old_format_and_safetensors_are_read(released, tmp_path):
    weights = state_dict('26m')
    torch.save({'state_dict': weights}, tmp_path / 'old', _use_new_zipfile_serialization=False)
    save_file(weights, tmp_path / 'new.safetensors')
    for name in ('old', 'new.safetensors'):
        assert convert(tmp_path / name, tmp_path / 'ours.pth') == 0
        assert same(load(tmp_path / 'ours.pth')['state_dict'], load(released[1])['state_dict'])


def without(weights, key):
    return {name: value for name, value in weights.items() if name != key}


KEY = 'features.3.local_global.q.weight'


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda w: without(w, KEY), ['26m', KEY, 'missing']),
        (lambda w: {**w, 'extra.weight': torch.zeros(1)}, ['26m', 'extra.weight', 'unknown']),
        (lambda w: {**w, KEY: torch.zeros(3, 4)}, ['26m', KEY, '(3, 4)']),
        (lambda w: {'conv.weight': torch.zeros(1)}, ['conv.weight', 'name another file']),
        (lambda w: {'epoch': 1}, ['epoch']),
        (lambda w: {'state_dict': {'a': 'text'}}, ['no weights']),
        (lambda w: {'backbone.tokens': torch.zeros(1)}, ['backbone.tokens', 'name another file']),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(change, words, tmp_path, capsys):
    torch.save(change(state_dict('26m')), tmp_path / 'wrong.pth')
    assert convert(tmp_path / 'wrong.pth', tmp_path / 'ours.pth') == 2
    message = capsys.readouterr().err
    for word in ['wrong.pth', *words]:
        assert word in message
    assert os.listdir(tmp_path) == ['wrong.pth']


class Intruder:
    """Its pickle runs a command when it is loaded."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize('new_format', [True, False])
def test_a_checkpoint_that_runs_code_is_refused(new_format, tmp_path, capsys):
    intruder = Intruder(f'touch {tmp_path / "ran"}')
    torch.save(
        {'state_dict': state_dict('26m'), 'args': intruder},
        tmp_path / 'bad.pth',
        _use_new_zipfile_serialization=new_format,
    )
    assert convert(tmp_path / 'bad.pth', tmp_path / 'ours.pth') == 2
    message = capsys.readouterr().err
    assert 'bad.pth' in message and 'system' in message and 'Traceback' not in message
    assert os.listdir(tmp_path) == ['bad.pth']
    # A file of one's own may do what it asks for.
    assert convert(tmp_path / 'bad.pth', tmp_path / 'ours.pth', '--trust-checkpoint') == 0
    assert sorted(os.listdir(tmp_path)) == ['bad.pth', 'ours.pth', 'ran']
    assert convert(tmp_path / 'bad.pth', tmp_path / 'again.pth') == 2  # no other run trusts it


def test_damaged_files_are_sentences(released, tmp_path, capsys):
    content = released[0].read_bytes()
    (tmp_path / 'half').write_bytes(content[: len(content) // 2])
    (tmp_path / 'empty').write_bytes(b'')
    (tmp_path / 'page').write_bytes(b'<html>quota exceeded</html>')
    for name in ('half', 'empty', 'page', 'missing'):
        assert convert(tmp_path / name, tmp_path / 'ours.pth') == 2
        message = capsys.readouterr().err
        assert name in message and 'Traceback' not in message
    assert not (tmp_path / 'ours.pth').exists()


def test_a_failed_write_leaves_the_old_file(released, tmp_path, monkeypatch, capsys):
    (tmp_path / 'ours.pth').write_bytes(b'old')

    def fail(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', fail)
    assert convert(released[0], tmp_path / 'ours.pth') == 2
    assert 'No space left' in capsys.readouterr().err
    assert os.listdir(tmp_path) == ['ours.pth']
    assert (tmp_path / 'ours.pth').read_bytes() == b'old'


def test_missing_source_is_named_where_the_destination_exists(tmp_path, capsys):
    (tmp_path / 'there.pth').touch()
    assert convert(tmp_path / 'missing.pth', tmp_path / 'there.pth') == 2
    assert 'missing.pth' in capsys.readouterr().err


def test_source_is_never_overwritten(released, capsys):
    before = released[0].read_bytes()
    assert convert(released[0], released[0]) == 2
    assert released[0].read_bytes() == before
    assert convert(released[0], released[0].parent) == 2
    assert 'cannot be written' in capsys.readouterr().err


def test_download(released, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, 'gdown', None)  # not installed
    assert convert('--download', '26m') == 2
    message = capsys.readouterr().err
    assert 'pip install gdown' in message and 'mobile-former-26m.pth.tar' in message

    def no_network(**kwargs):
        raise ConnectionError('no route to host')

    monkeypatch.setitem(sys.modules, 'gdown', types.SimpleNamespace(download=no_network))
    assert convert('--download', '26m') == 2
    message = capsys.readouterr().err
    assert 'no route to host' in message and 'in a browser' in message
    assert os.listdir(tmp_path / 'checkpoints') == []

    def fetch(id, output, quiet):
        assert id == '15uWYzx2VWWUjacZQHB56vOHzKxQDlp5O' and not quiet
        Path(output).write_bytes(released[0].read_bytes())
        return output

    monkeypatch.setitem(sys.modules, 'gdown', types.SimpleNamespace(download=fetch))
    assert convert('--download', '26m') == 0
    converted = load(tmp_path / 'checkpoints' / 'mobile_former_26m.pth')
    assert same(converted['state_dict'], load(released[1])['state_dict'])


def pretrained(path, arch='26m', **kwargs):
    init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    backbone = MobileFormer(arch, init_cfg=init_cfg, **kwargs)
    backbone.init_weights()
    return backbone


@pytest.mark.parametrize('levels', [(1, 2, 3, 4), (2, 3), (4,)])
def test_backbone_takes_every_weight(levels, released):
    weights = load_checkpoint_as_data(released[1])['state_dict']
    for key, value in pretrained(released[1], out_indices=levels).state_dict().items():
        assert torch.equal(value, weights[f'backbone.{key}'])


def test_backbone_refuses_what_is_not_its_own(released, tmp_path):
    with pytest.raises(UserError, match='convert_checkpoint'):
        pretrained(released[0])
    with pytest.raises(UserError, match=r'26m.*blocks\.0\.pointwise\.conv\.weight'):
        pretrained(released[1], arch='52m')
    weights = load(released[1])['state_dict']
    for changed, words in (
        (without(weights, 'backbone.tokens'), 'tokens is missing'),
        ({**weights, 'backbone.blocks.1.other': torch.zeros(1)}, r'blocks\.1\.other is unknown'),
    ):
        torch.save({'state_dict': changed}, tmp_path / 'changed.pth')
        with pytest.raises(UserError, match=words):
            pretrained(tmp_path / 'changed.pth')
    torch.save({'state_dict': weights, 'x': Intruder('true')}, tmp_path / 'bad.pth')
    with pytest.raises(UserError, match='refused'):
        pretrained(tmp_path / 'bad.pth')
