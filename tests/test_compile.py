"""Whole graphs that serve images of any size, and numbers that compiling does not change."""

import copy

import pytest
import torch
from coco_folder import write_coco_folder
from e2e_model import MODEL, draw_batch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner import Runner
from tiny_detector import BACKBONE, retinanet, run_config

from mmdet_mobileformer.engine.acceleration import AccelerationHook, compile_detector

SIZES = [(64, 96), (96, 64), (128, 128), (75, 129), (160, 101)]
KINDS = {
    'token': dict(BACKBONE, dynamic_relu='token'),
    'spatial': dict(BACKBONE, dynamic_relu='spatial'),
    'retinanet': retinanet(),
    'e2e': dict(MODEL),
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
