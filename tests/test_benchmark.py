"""The benchmark: its variants are what they say, and the tool reports what it measured."""

import json

import onnxruntime
import pytest
import torch
from mmdet.utils import register_all_modules
from run_tool import run_tool

from mmdet_mobileformer.analysis import headline, measure
from mmdet_mobileformer.analysis.complexity import count_macs
from mmdet_mobileformer.analysis.headline import compare, table
from mmdet_mobileformer.analysis.measure import Case, saved_bytes
from mmdet_mobileformer.analysis.zoo import BACKBONES, DETECTORS, TensorPath, build_model
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.models import ARCHS

register_all_modules()

DETRS = [name for name in DETECTORS if name.startswith(('e2e', 'detr'))]
RETINANETS = [name for name in DETECTORS if name.startswith('retinanet')]
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
    one = count_macs(model, torch.zeros(1, 3, 64, 64))['']
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert count_macs(model, torch.zeros(2, 3, 64, 64))[''] == 2 * one
    assert 1.5 * one < count_macs(model, torch.zeros(1, 3, 128, 128))[''] < 4 * one


def test_ratio_compares_runs_of_the_same_round():
    def case(times):
        return Case('m', 1, macs=1, times=times)

    assert case([1.0, 20.0, 2.0]).summary(1.0, case([2.0, 40.0, 4.0]))['ratio'] == 2.0


def test_a_comparison_measures_a_model_beside_its_peer():
    size = dict(height=64, width=64)
    step = dict(size, batch=2, training=True)
    rows = compare(
        [('a step', 'mf-26m', 'mf-26m+released', step), ('a pass', 'mf-26m+fused', 'mf-26m', size)],
        *(1, 2, 1e9),
    )
    assert 0 < rows[0]['saved_bytes'] < rows[0]['peer']['saved_bytes'] and rows[1]['macs'] > 0
    assert all(row['time'] > 0 for row in rows)
    cells = [line.strip('| ').split(' | ') for line in table(rows).splitlines()[2:]]
    assert [(row[0], row[5] == '-', row[7] == '-') for row in cells] == [
        ('a step', False, True),
        ('a pass', True, False),
    ]


@pytest.mark.parametrize('name', ['mf-1m', 'mf-26m+fast', 'resnet50+released'])
def test_unknown_names_are_refused(name):
    with pytest.raises(UserError, match=name.split('+')[0]):
        build_model(name)


@pytest.mark.parametrize('name', [*BACKBONES, *RETINANETS, *DETRS])
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
        fixed = ['--size', '64x96', '--threads', '1', '--rounds', ROUNDS]
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


def test_what_onnx_runtime_cannot_do_is_refused(capsys):
    args = ['--models', 'mf-26m', '--runtimes', 'onnx', '--size', '64x96', '--training']
    assert run_tool('benchmark', *args, '--rounds', 1) == 2
    assert 'onnx is measured in float32 inference on the CPU' in capsys.readouterr().err


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


def test_the_tool_measures_a_training_step(benchmark):
    rows = benchmark('mf-26m+released', 'mf-26m', '--training', '--batch-size', 2)
    assert float(rows[0]['saved MB']) > float(rows[1]['saved MB']) > 0


@pytest.mark.parametrize('words', [(), ('--training',)], ids=['inference', 'training'])
def test_the_tool_measures_mixed_precision(benchmark, words, monkeypatch):
    dtypes = set()
    prepare = measure.TensorPath.forward

    def forward(model, images):
        dtypes.add(torch.is_autocast_enabled('cpu') and torch.get_autocast_dtype('cpu'))
        return prepare(model, images)

    monkeypatch.setattr(measure.TensorPath, 'forward', forward)
    (row,) = benchmark('mf-26m', '--dtype', 'bfloat16', '--batch-size', 2, *words)
    assert float(row['ms']) > 0 and dtypes == {False, torch.bfloat16}  # MACs are counted without


def test_the_tool_writes_table_json_and_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, 'sgemm_rate', lambda *_: 1e9)
    conditions = dict(height=64, width=64)
    comparisons = [('a pass', 'mf-26m+fused', 'mf-26m', conditions)]
    monkeypatch.setattr(headline, 'COMPARISONS', comparisons)
    fixed = ['--threads', 1, '--rounds', 2, '--out-dir', tmp_path]
    assert run_tool('benchmark', '--headline', *fixed) == 0
    assert run_tool('benchmark', '--models', 'mf-26m', '--size', '64x96', *fixed) == 0
    for name in ('headline_1', 'benchmark'):
        found = json.loads((tmp_path / f'{name}.json').read_text())
        assert [row['median_ms'] > 0 for row in found['results']] == [True]
        assert found['machine']['sgemm_gmacs'] == 1
    assert (tmp_path / 'headline_1.png').stat().st_size > 1000
