"""The benchmark: its variants are what they say, and the tool reports what it measured."""

import json
import sys

import pytest
import torch
from test_tools import ROOT, start

from mmdet_mobileformer.benchmark.measure import Case, count_macs, saved_bytes
from mmdet_mobileformer.benchmark.models import TensorPath, build_model
from mmdet_mobileformer.benchmark.report import growth
from mmdet_mobileformer.errors import UserError


@pytest.mark.parametrize('variant', ['+plain', '+fused', '+cp'])
@pytest.mark.parametrize('mode', ['', '+spatial'])
def test_variants_compute_the_same(variant, mode):
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        levels = build_model(f'mf-26m{mode}').eval()(images)
        others = build_model(f'mf-26m{mode}{variant}').eval()(images)
    for level, other in zip(levels, others, strict=True):
        assert torch.allclose(level, other, atol=1e-4)


def test_the_fused_variant_has_no_norm_left():
    def norms(name):
        return sum(isinstance(m, torch.nn.BatchNorm2d) for m in build_model(name).modules())

    assert norms('mf-26m') > 0 == norms('mf-26m+fused')


def test_the_activation_keeps_less_than_the_formula_and_checkpointing_far_less():
    images = torch.randn(2, 3, 96, 96)

    def kept(name):
        return saved_bytes(TensorPath(build_model(name)).train(), images)

    assert kept('mf-26m') < 0.8 * kept('mf-26m+plain')
    assert kept('mf-26m+spatial') < 0.85 * kept('mf-26m+plain+spatial')
    assert kept('mf-26m+cp') < 0.3 * kept('mf-26m')


def test_macs_grow_with_pixels_and_batch():
    model = TensorPath(build_model('mf-26m')).train()
    one = count_macs(model, torch.zeros(1, 3, 64, 64))
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert count_macs(model, torch.zeros(2, 3, 64, 64)) == 2 * one
    assert 1.5 * one < count_macs(model, torch.zeros(1, 3, 128, 128)) < 4 * one


def test_ratio_compares_runs_of_the_same_round_and_growth_is_a_power():
    def case(pixels, times):
        return Case('m', 'eager', pixels, pixels, 1, 1, 'fp32', False, macs=1, times=times)

    slow, fast = case(64, [2.0, 40.0, 4.0]), case(64, [1.0, 20.0, 2.0])
    assert fast.summary(1.0, slow)['ratio'] == 2.0
    rows = [case(n, [n**2 * 1e-6] * 3).summary(1.0, slow) for n in (64, 128, 256)]
    rows += [dict(row, threads=2, median_ms=row['median_ms'] / 2) for row in rows]
    rows += [dict(rows[0], batch=n, median_ms=rows[0]['median_ms'] * n**2) for n in (2, 4)]
    assert growth(rows) == [
        'm eager 1 threads fp32: time grows with pixels^1.00 (R² 1.0000)',
        'm eager 2 threads fp32: time grows with pixels^1.00 (R² 1.0000)',
        'm eager 1 threads fp32: time grows with batch^2.00 (R² 1.0000)',
    ]


@pytest.mark.parametrize('name', ['mf-1m', 'mf-26m+fast', 'resnet50+plain'])
def test_unknown_names_are_refused(name):
    with pytest.raises(UserError, match=name.split('+')[0]):
        build_model(name)


def test_the_tool_writes_table_json_and_picture(tmp_path):
    args = ['--models', 'mf-26m+plain', 'mf-26m+fused', '--runtimes', 'eager', 'channels-last']
    args += ['--sizes', '64x96', '--batch-sizes', '1', '2', '--threads', '1', '--rounds', '2']
    done = start(
        [sys.executable, ROOT / 'tools' / 'benchmark.py', *args, '--out-dir', tmp_path], tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith('| mf-26m')]
    results = json.loads((tmp_path / 'benchmark.json').read_text())
    assert len(rows) == len(results['results']) == 8
    assert all(row['median_ms'] > 0 and row['macs'] > 0 for row in results['results'])
    assert results['machine']['sgemm_gmacs']['1'] > 0
    assert (tmp_path / 'benchmark.png').stat().st_size > 1000
