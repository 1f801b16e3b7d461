"""The benchmark: its variants are what they say, and the tool reports what it measured."""

import ast
import json
from collections import Counter

import onnxruntime
import pytest
import torch
from mmdet.utils import register_all_modules
from run_tool import run_tool, tool

from mmdet_mobileformer.analysis import measure
from mmdet_mobileformer.analysis.complexity import count_macs
from mmdet_mobileformer.analysis.headline import Comparison, compare, table
from mmdet_mobileformer.analysis.measure import Case, saved_bytes
from mmdet_mobileformer.analysis.zoo import E2E_ARCHS, PEERS, TensorPath, build_model
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.models import ARCHS, MobileFormerBlock

register_all_modules()

BACKBONES = [*(f'mf-{arch}' for arch in ARCHS), *PEERS]
RETINANETS = [*(f'retinanet-mf-{arch}' for arch in ARCHS), 'retinanet-r50']
DETRS = [*(f'e2e-mf-{arch}' for arch in E2E_ARCHS), 'detr-r50']
ANCHORED = [f'anchored-mf-{arch}' for arch in E2E_ARCHS]
# Millions of weights as published, of the peers without the layer that classifies.
PUBLISHED = {
    'resnet50': 25.56 - 2.05,
    'mobilenetv2': 3.50 - 1.28,
    'pvtv2-b0': 3.67 - 0.26,
    'detr-r50': 41.0,
}
ROUNDS = 2


@pytest.mark.parametrize('variant', ['+released', '+fused', '+cp'])
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

    assert kept('mf-26m') < 0.8 * kept('mf-26m+released')
    assert kept('mf-26m+spatial') < 0.85 * kept('mf-26m+released+spatial')
    assert kept('mf-26m+cp') < 0.3 * kept('mf-26m')


def test_macs_grow_with_pixels_and_batch():
    model = TensorPath(build_model('mf-26m')).train()
    one = count_macs(model, torch.zeros(1, 3, 64, 64))
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert count_macs(model, torch.zeros(2, 3, 64, 64)) == 2 * one
    assert 1.5 * one < count_macs(model, torch.zeros(1, 3, 128, 128)) < 4 * one


def test_ratio_compares_runs_of_the_same_round():
    def case(times):
        return Case('m', 'eager', 64, 64, 1, 1, 'fp32', False, macs=1, times=times)

    assert case([1.0, 20.0, 2.0]).summary(1.0, case([2.0, 40.0, 4.0]))['ratio'] == 2.0


def test_a_comparison_measures_a_model_beside_its_peer():
    training = Comparison(
        'a step', 'mf-26m', 'mf-26m+released', height=64, width=64, batch=2, training=True
    )
    inference = Comparison('a pass', 'mf-26m+fused', 'mf-26m', height=64, width=64)
    rows = compare([training, inference], 1, 2, 1e9, lambda text: None)
    assert 0 < rows[0]['saved'] < 1 and rows[0]['sgemm'] is None
    assert rows[1]['saved'] is None and rows[1]['sgemm'] > 0
    assert all(row['time'] > 0 for row in rows)
    assert [line.split(' | ')[0] for line in table(rows).splitlines()[2:]] == [
        '| a step',
        '| a pass',
    ]


@pytest.mark.parametrize('name', ['mf-1m', 'mf-26m+fast', 'resnet50+released'])
def test_unknown_names_are_refused(name):
    with pytest.raises(UserError, match=name.split('+')[0]):
        build_model(name)


def test_all_names_and_no_others_are_offered():
    with pytest.raises(UserError) as refused:
        build_model('nothing')
    names = ast.literal_eval(str(refused.value).split('choose from ')[1].removesuffix('.'))
    assert sorted(names) == sorted(BACKBONES + RETINANETS + DETRS + ANCHORED)


@pytest.mark.parametrize('name', BACKBONES + RETINANETS + DETRS)
def test_every_model_runs(name):
    model = TensorPath(build_model(name)).eval()
    with torch.no_grad():
        found = model(torch.randn(1, 3, 64, 96))
    assert all(torch.isfinite(tensor).all() for tensor in found)
    if name in DETRS:  # classes and boxes of every layer's queries
        assert [tensor.shape[1:] for tensor in found] == [(1, 100, 81), (1, 100, 4)]
    else:
        levels = [(8, 12), (4, 6), (2, 3)]
        levels = [(16, 24), *levels] if name == 'pvtv2-b0' else levels
        levels = [*levels, (1, 2), (1, 1)] * 2 if name in RETINANETS else levels
        assert [tensor.shape[-2:] for tensor in found] == levels
    backbone = getattr(model.model, 'backbone', model.model)
    assert 'mf-' not in name or backbone.arch == ARCHS[name.split('mf-')[1]]
    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    assert millions == pytest.approx(PUBLISHED.get(name, millions), rel=0.02)


@pytest.fixture
def benchmark(monkeypatch, capsys):
    """Runs the tool here at 64x96 with one thread; the rows of its table by their titles."""
    monkeypatch.setattr(measure, 'sgemm_rate', lambda *_: 1e9)  # which takes a second

    def run(*args):
        capsys.readouterr()
        fixed = ['--sizes', '64x96', '--threads', '1', '--rounds', ROUNDS]
        assert run_tool('benchmark', '--models', *args, *fixed) == 0
        lines = capsys.readouterr().out.splitlines()
        cells = [line.strip('| ').split(' | ') for line in lines if line.startswith('| ')]
        return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]

    return run


@pytest.fixture
def sessions(monkeypatch):
    """ONNX Runtime's sessions, each with what its runs got and gave."""
    opened = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            self.runs = []
            opened.append(self)

        def run(self, names, feed):
            found = super().run(names, feed)
            self.runs.append((feed, found))
            return found

    monkeypatch.setattr(onnxruntime, 'InferenceSession', Session)
    return opened


def check_session(session, name, level):
    """The session computes what the model computes, in each round, on the level asked for."""
    options = session.get_session_options()
    assert options.graph_optimization_level == level and options.intra_op_num_threads == 1
    assert len(session.runs) > ROUNDS
    feed, found = session.runs[-1]
    (images,) = map(torch.from_numpy, feed.values())
    with torch.no_grad():
        wanted = TensorPath(build_model(name)).eval()(images)
    assert images.shape == (1, 3, 64, 96)
    for ours, other in zip(wanted, map(torch.from_numpy, found), strict=True):
        assert (ours - other).abs().max() < 1e-3 * ours.abs().max()


def test_the_tool_measures_onnx_runtime(benchmark, sessions):
    names = ['mf-26m', 'resnet50']
    rows = benchmark(*names, '--runtimes', 'onnx')
    assert [(row['model'], row['runtime']) for row in rows] == [(name, 'onnx') for name in names]
    assert float(rows[1]['of sgemm'].rstrip('%')) > 0 and float(rows[0]['times as fast']) == 1
    for session, name in zip(sessions, names, strict=True):
        check_session(session, name, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)


@pytest.mark.parametrize('flags', [['--training'], ['--dtypes', 'fp32', 'bf16']])
def test_what_onnx_runtime_cannot_do_is_refused(flags, capsys):
    args = ['--models', 'mf-26m', '--runtimes', 'eager', 'onnx', '--sizes', '64x96', *flags]
    assert run_tool('benchmark', *args, '--rounds', 1) == 2
    assert 'onnx is measured in inference, fp32' in capsys.readouterr().err


def test_the_compiled_runtime_runs_one_graph_of_fixed_size(benchmark, monkeypatch):
    # As it is captured: making machine code of it takes minutes.
    compile_, captured, ran = torch.compile, [], []

    def backend(graph, inputs):
        captured.append([size for value in inputs for size in getattr(value, 'shape', [value])])

        def run(*values):
            ran.append(graph)
            return graph(*values)

        return run

    monkeypatch.setattr(
        torch, 'compile', lambda *args, **options: compile_(*args, **options | {'backend': backend})
    )
    torch._dynamo.reset()
    try:
        rows = benchmark('mf-26m', '--runtimes', 'eager', 'compiled')
    finally:
        torch._dynamo.reset()
    assert [row['runtime'] for row in rows] == ['eager', 'compiled']
    (sizes,) = captured
    assert all(type(size) is int for size in sizes)
    assert len(ran) >= 2 + ROUNDS  # each run, and those that warm up


@pytest.mark.parametrize('training', [False, True])
def test_the_tool_measures_16_bits(benchmark, monkeypatch, training):
    seen, backwards, backward = Counter(), [], torch.Tensor.backward

    def note(module, _, output):
        if isinstance(module, MobileFormerBlock):
            stored = module.former.attention.proj.weight.dtype
            seen[module.training, stored, output[0].dtype] += 1

    def count(*args, **settings):
        backwards.append(args)
        return backward(*args, **settings)

    monkeypatch.setattr(torch.Tensor, 'backward', count)
    hook = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        rows = benchmark('mf-26m', '--dtypes', 'bf16', 'fp16', *['--training'] * training)
    finally:
        hook.remove()
    assert [row['dtype'] for row in rows] == ['bf16', 'fp16']
    blocks = seen[False, torch.float32, torch.float32] / 2  # of counting the MACs
    for dtype in (torch.bfloat16, torch.float16):
        stored = torch.float32 if training else dtype  # in training by automatic mixed precision
        assert seen[training, stored, dtype] >= (2 + ROUNDS) * blocks > 0
    assert len(backwards) >= 2 * (2 + ROUNDS) if training else not backwards
    assert all(('saved MB' in row) == training for row in rows)


def test_the_tool_writes_table_json_and_picture(tmp_path):
    args = ['--models', 'mf-26m+released', 'mf-26m+fused', '--runtimes', 'eager']
    args += ['--sizes', '64x96', '--batch-sizes', '1', '2', '--threads', '1', '--rounds', '2']
    done = tool('benchmark', *args, '--out-dir', tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith('| mf-26m')]
    results = json.loads((tmp_path / 'benchmark.json').read_text())
    assert len(rows) == len(results['results']) == 4
    assert all(row['median_ms'] > 0 and row['macs'] > 0 for row in results['results'])
    assert results['machine']['sgemm_gmacs']['1'] > 0
    assert (tmp_path / 'benchmark.png').stat().st_size > 1000
