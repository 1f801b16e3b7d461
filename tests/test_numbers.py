"""Numbers that spoil a training stop it, and what must change none of them does not."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from coco_folder import write_coco_folder
from e2e_model import MODEL
from mmdet.registry import TASK_UTILS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from tiny_detector import plain_text, retinanet, run_config, train

from mmdet_mobileformer import errors
from mmdet_mobileformer.engine import FiniteOptimWrapper
from mmdet_mobileformer.engine.finite import FiniteAmpOptimWrapper, NonFiniteError
from mmdet_mobileformer.errors import LocalError, UserError
from mmdet_mobileformer.launch.hardening import harden_training


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(Config, 'pretty_text', property(plain_text))
    init_default_scope('mmdet')


@pytest.fixture
def data(tmp_path):
    return write_coco_folder(tmp_path / 'coco', num_train=2, num_val=1)


def test_training_by_iterations_names_iteration_and_images(data, tmp_path, monkeypatch, capsys):
    cfg = Config(run_config(data, tmp_path, 1, model=retinanet()))
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=3, val_interval=9)
    cfg.default_hooks.checkpoint.update(save_best=None, by_epoch=False)
    cfg.param_scheduler = []
    harden_training(cfg)
    runner = Runner.from_cfg(cfg)

    class PoisonSecondHook(Hook):
        def before_train_iter(self, runner, batch_idx, *args, **kwargs):
            if batch_idx == 1:
                dict(runner.model.named_parameters())['bbox_head.retina_reg.bias'].data[:] = np.nan

    runner.register_hook(PoisonSecondHook())
    monkeypatch.setenv('RANK', '1')  # the one that met it speaks, not the first one
    with pytest.raises(SystemExit):
        errors.run_tool(runner.train)
    said = capsys.readouterr().err
    assert 'loss_bbox = nan at iteration 2, images' in said and '10.png' in said


class PoisonHook(Hook):
    """Makes a weight NaN after the second epoch's checkpoint is written."""

    priority = 'LOWEST'

    def __init__(self, name):
        self.name = name

    def after_train_epoch(self, runner):
        if runner.epoch == 1:
            dict(runner.model.named_parameters())[self.name].data.flatten()[0] = float('nan')


@pytest.mark.parametrize('kind', ['retinanet', 'e2e'])
def test_non_finite_loss_or_cost_names_iteration_images_and_component(data, tmp_path, kind):
    cfg = Config(run_config(data, tmp_path, 3, model=MODEL if kind == 'e2e' else retinanet()))
    cfg.default_hooks.checkpoint.save_best = None
    harden_training(cfg)
    runner = Runner.from_cfg(cfg)
    name = 'bbox_head.retina_reg.bias' if kind == 'retinanet' else 'bbox_head.fc_reg.bias'

    runner.register_hook(PoisonHook(name))
    with pytest.raises(LocalError) as error:
        runner.train()
    said = str(error.value)
    assert 'at iteration 3 (epoch 3)' in said and '10.png' in said and '11.png' in said
    assert ('loss_bbox = nan' if kind == 'retinanet' else 'predicted bboxes') in said
    saved = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)['state_dict']
    assert all(torch.isfinite(value).all() for value in saved.values())
    assert not (tmp_path / 'epoch_3.pth').exists()


@pytest.fixture
def _float16_on_the_cpu(monkeypatch):
    """mmengine's wrapper asks for a GPU; PyTorch's autocast and scaler work on the CPU as well."""
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', partial(torch.amp.GradScaler, 'cpu'))
    monkeypatch.setattr('mmengine.runner.amp.autocast', partial(torch.autocast, 'cpu'))


@pytest.mark.parametrize('kind', ['retinanet', 'e2e'])
@pytest.mark.parametrize('half', ['BFloat16OptimWrapper', 'FiniteAmpOptimWrapper'])
@pytest.mark.usefixtures('_float16_on_the_cpu')
def test_16_bits_train_to_nearly_the_same_weights(data, tmp_path, kind, half):
    model = copy.deepcopy(MODEL) if kind == 'e2e' else retinanet(norm_eval=True)
    model['backbone']['norm_eval'] = True
    ends = {}
    for name in ('FiniteOptimWrapper', half):
        changes = {'optim_wrapper.type': name, 'optim_wrapper.optimizer.type': 'SGD'}
        if name == 'FiniteAmpOptimWrapper':
            changes |= {'optim_wrapper.dtype': 'float16', 'optim_wrapper.loss_scale': 256.0}
        runner = train(data, tmp_path / name, model, **changes)
        ends[name] = torch.cat([p.detach().flatten() for p in runner.model.parameters()])
    exact, rounded = ends.values()
    assert torch.isfinite(rounded).all() and not torch.equal(exact, rounded)
    start = Runner.from_cfg(Config(run_config(data, tmp_path / 'start', 1, model=model))).model
    moved = exact - torch.cat([p.detach().flatten() for p in start.parameters()])
    assert (rounded - exact).norm() < 0.1 * moved.norm()


def test_activation_checkpointing_changes_no_number(data, tmp_path):
    model = retinanet(drop_path_rate=0.2)  # its statistics learn
    states = [
        train(
            data, tmp_path / str(len(modules)), model, activation_checkpointing=modules
        ).model.state_dict()
        for modules in ([], ['backbone.blocks.2', 'backbone.blocks.5', 'neck'])
    ]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    with pytest.raises(UserError, match=r"activation_checkpointing names 'backbone\.nothing'"):
        train(data, tmp_path / 'wrong', model, activation_checkpointing=['backbone.nothing'])


@pytest.mark.parametrize('what', ['retina_reg.weight', 'running_var'])
def test_weights_that_are_not_finite_are_never_saved(data, tmp_path, what):
    class SpoilHook(Hook):
        def after_train_iter(self, runner, *args, **kwargs):
            if runner.iter == 1:
                state = runner.model.state_dict()
                next(v for name, v in state.items() if what in name).flatten()[0] = float('inf')

    cfg = Config(run_config(data, tmp_path, 2, model=retinanet(norm_eval=True)))
    harden_training(cfg)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(SpoilHook())
    with pytest.raises(LocalError, match=f'{what}.* of the model that was to be saved'):
        runner.train()
    assert (tmp_path / 'epoch_1.pth').exists() and not (tmp_path / 'epoch_2.pth').exists()


@pytest.mark.usefixtures('_float16_on_the_cpu')
def test_float16_stops_when_every_step_is_left_out():
    model = torch.nn.Linear(2, 1)
    start = model.weight.detach().clone()
    wrapper = FiniteAmpOptimWrapper(
        loss_scale=512.0, optimizer=torch.optim.SGD(model.parameters(), lr=0.1)
    )
    wrapper.parameter_names = {id(p): name for name, p in model.named_parameters()}

    def step(value):
        wrapper.update_params(model(torch.full((1, 2), value)).sum())

    for _ in range(wrapper.max_skipped):
        step(float('inf'))
    assert torch.equal(model.weight, start)
    step(1.0)  # one good step, and the count begins anew
    assert not torch.equal(model.weight, start)
    for _ in range(wrapper.max_skipped):
        step(float('inf'))
    with pytest.raises(NonFiniteError, match=r'gradient of weight, in 26 steps'):
        step(float('inf'))


def test_non_finite_gradient_stops_before_the_step():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    wrapper = FiniteOptimWrapper(
        torch.optim.SGD(model.parameters(), lr=1.0), clip_grad=dict(max_norm=1)
    )
    wrapper.parameter_names = {id(p): name for name, p in model.named_parameters()}
    before = copy.deepcopy(model.state_dict())
    # The root's slope is infinite at 0, while its value is 0.
    loss = model(torch.ones(1, 2)).sum() + (model[0].bias * 0).abs().sqrt().sum()
    assert torch.isfinite(loss)
    with pytest.raises(NonFiniteError, match=r'gradient of 0\.bias'):
        wrapper.update_params(loss)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_costs_that_are_not_finite_do_not_reach_scipy():
    cost = dict(type='BBoxL1Cost', weight=1.0, box_format='xywh')
    assigner = TASK_UTILS.build(dict(type='FiniteHungarianAssigner', match_costs=[cost]))
    boxes = torch.tensor([[1.0, 1, 5, 5], [2, 2, 9, 9], [0, 0, 4, 4]])
    predictions = InstanceData(bboxes=boxes, scores=torch.zeros(3, 2))
    truth = InstanceData(bboxes=boxes[:2], labels=torch.tensor([0, 1]))
    meta = dict(img_shape=(10, 10))
    assert assigner.assign(predictions, truth, meta).gt_inds.tolist() == [1, 2, 0]
    for kind, instances in (('predicted', predictions), ('annotated', truth)):
        broken = copy.deepcopy(instances)
        broken.bboxes[0, 0] = float('inf')
        arguments = (broken, truth) if kind == 'predicted' else (predictions, broken)
        with pytest.raises(NonFiniteError, match=f'{kind} bboxes'):
            assigner.assign(*arguments, meta)

    predictions.bboxes = predictions.bboxes * 3e37  # finite, and their differences are not
    truth.bboxes = -truth.bboxes * 3e37
    with pytest.raises(NonFiniteError, match='by BBoxL1Cost'):
        assigner.assign(predictions, truth, dict(img_shape=(1, 1)))
