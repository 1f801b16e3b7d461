"""Whole graphs that serve images of any size, and numbers that compiling does not change."""

import copy

import pytest
import torch
from coco_folder import write_coco_folder
from e2e_model import MODEL, anchored, draw_batch
from mmcv.cnn import ConvModule
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner import Runner
from run_tool import run_tool
from tiny_detector import BACKBONE, retinanet, run_config

from mmdet_mobileformer.engine.acceleration import (
    AccelerationHook,
    compile_detector,
    fuse_detector,
)

SIZES = [(64, 96), (96, 64), (128, 128), (75, 129), (160, 101)]


def anchored_model():
    settings = anchored((0, 2, 0))
    return dict(MODEL, **dict(settings, decoder=dict(MODEL['decoder'], **settings['decoder'])))


KINDS = {
    'token': dict(BACKBONE, dynamic_relu='token'),
    'spatial': dict(BACKBONE, dynamic_relu='spatial'),
    'retinanet': retinanet(),
    'e2e': dict(MODEL),
    'anchored': anchored_model(),
}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch.compiler.set_stance('default')


def build(kind, training):
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(KINDS[kind]))
    model.train(training)
    for module in model.modules():  # two runs are compared, and only one may move the statistics
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


def tensors(outputs):
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for item in outputs if item is not None for tensor in tensors(item)]


@pytest.mark.parametrize('kind', KINDS)
def test_one_whole_graph_serves_every_size(kind):
    model = build(kind, training=False).requires_grad_(False)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend='eager')
    for index, size in enumerate(SIZES):
        if index == 1:
            torch.compiler.set_stance('fail_on_recompile')
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(index))
        torch.testing.assert_close(tensors(compiled(images)), tensors(model(images)))


def test_padded_batches_of_any_size_share_their_graphs():
    detector = build('e2e', True)
    compiled = copy.deepcopy(detector)
    compile_detector(compiled, backend='eager', fullgraph=True)
    for index, size in enumerate(SIZES):
        if index == 2:
            torch.compiler.set_stance('fail_on_recompile')
        batch = draw_batch([size, (32, 48)], 2, seed=index)
        losses = [
            model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')
            for model in (detector, compiled)
        ]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)


def shortest():
    """One block of each kind: compiling for training takes seconds a block."""
    lite, down, *_, bottleneck, _ = BACKBONE['arch']['blocks']
    blocks = [lite, down, dict(bottleneck, mid_channels=16, out_channels=8)]
    arch = dict(BACKBONE['arch'], blocks=blocks)
    backbone = dict(BACKBONE, arch=arch, out_indices=(0, 1), dynamic_relu='spatial')
    cfg = dict(copy.deepcopy(MODEL), backbone=backbone)
    cfg['neck'].update(in_channels=[4, 8])
    cfg['decoder']['scales'] = [
        dict(num_blocks=1, mobile='attention', mid_channels=16),
        dict(num_blocks=1, mobile='lite', mid_channels=32),
    ]
    return cfg


def gradients_of(run, parameters, *inputs):
    for parameter in parameters:
        parameter.grad = None
    sum(output.square().mean() for output in tensors(run(*inputs))).backward()
    return [parameter.grad for parameter in parameters]


def test_a_whole_graph_trains_at_every_size():
    torch.manual_seed(0)
    model = MODELS.build(shortest()).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend='aot_eager')
    parameters = list(model.parameters())
    for index, size in enumerate(SIZES[1:4]):
        if index == 1:
            torch.compiler.set_stance('fail_on_recompile')
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(index))
        ours, theirs = (gradients_of(run, parameters, images) for run in (compiled, model))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(('dynamic_relu', 'with_cp'), [('token', False), ('spatial', True)])
def test_compiled_gradients(dynamic_relu, with_cp):
    model = build(dynamic_relu, training=True)
    model.with_cp = with_cp
    compiled = torch.compile(model, dynamic=False, backend='aot_eager')
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    gradients = []
    for run in (model, compiled):
        model.zero_grad()
        sum(output.square().mean() for output in run(images)).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_folding_the_norms_changes_nothing(kind):
    model = build(kind, training=False)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                torch.nn.init.uniform_(value, 0.5, 1.5)
    fused = copy.deepcopy(model)
    fuse_detector(fused)
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in fused.modules())
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for ours, folded in zip(tensors(model(images)), tensors(fused(images)), strict=True):
            assert (ours - folded).abs().max() < 1e-4 * ours.std()


def test_folding_the_norms_of_a_convolution_that_several_share():
    torch.manual_seed(0)
    levels = torch.nn.ModuleList(
        ConvModule(3, 4, 3, norm_cfg=dict(type='BN'), act_cfg=None) for _ in range(3)
    )
    for level in levels:
        level.conv = levels[0].conv
        torch.nn.init.uniform_(level.bn.running_var, 0.5, 1.5)
    image = torch.randn(1, 3, 8, 8)
    before = [level.eval()(image) for level in levels]
    fuse_detector(levels)
    torch.testing.assert_close([level(image) for level in levels], before)


def test_evaluation_with_folded_norms_after_training_with_ema(tmp_path, capsys):
    settings = run_config(write_coco_folder(tmp_path / 'coco'), tmp_path / 'work', 1)
    settings['custom_hooks'] = [dict(type='EMAHook')]
    settings['test_dataloader'] = settings['val_dataloader']
    settings['test_evaluator'], settings['test_cfg'] = settings['val_evaluator'], dict()
    Config(settings).dump(tmp_path / 'tiny.py')
    assert run_tool('train', tmp_path / 'tiny.py') == 0
    tables = []
    for flags in ([], ['--fuse']):
        capsys.readouterr()
        assert (
            run_tool('test', tmp_path / 'tiny.py', tmp_path / 'work' / 'epoch_1.pth', *flags) == 0
        )
        tables.append([line for line in capsys.readouterr().out.splitlines() if '@[' in line])
    assert tables[0] == tables[1] and len(tables[0]) == 12


def test_training_compiled_ends_as_without(tmp_path):
    # By the graphs as they are captured: making machine code of them takes minutes.
    data = write_coco_folder(tmp_path / 'coco')
    ends = []
    for compile_model in (False, True):
        settings = run_config(data, tmp_path / str(compile_model), 1, model=retinanet())
        settings = {key: value for key, value in settings.items() if not key.startswith('val_')}
        settings['default_hooks']['checkpoint'].pop('save_best')
        runner = Runner.from_cfg(Config(settings))
        runner.register_hook(AccelerationHook(compile_model, backend='eager'))
        runner.train()
        ends.append(runner.model.state_dict())
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-4, atol=1e-5)  # the same names, too
