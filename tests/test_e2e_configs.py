"""The configs of the end-to-end detector say and cost what the paper publishes."""

from pathlib import Path

import pytest
from e2e_model import build_detector  # noqa: F401 (registers everything)
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmdet_mobileformer.analysis.complexity import count_cost
from mmdet_mobileformer.launch.train import train_from_scratch

CONFIGS = Path(__file__).parents[1] / 'configs'

# Paper, table 9: MACs in 1e9 of an 800x1333 image padded to 800x1344, parameters in 1e6.
TABLE_9 = {'508m': (41.4, 26.3), '294m': (24.1, 24.9), '214m': (17.8, 20.1), '151m': (12.7, 14.8)}


def load(name):
    return Config.fromfile(CONFIGS / f'{name}.py')


def total_cost(cfg, device='meta'):
    return count_cost(MODELS.build(cfg.model).to(device), 800, 1344)['total']


@pytest.mark.parametrize('variant', TABLE_9)
def test_cost_is_near_the_published_one(variant):
    cost = total_cost(load(f'e2e_mf{variant}_coco'))
    macs, params = TABLE_9[variant]
    assert 0.90 <= cost.macs / 1e9 / macs <= 1.00
    assert 0.90 <= cost.params / 1e6 / params <= 1.00


def test_508m_beside_detr():
    ours, detr = total_cost(load('e2e_mf508m_coco')), total_cost(load('ablation/detr_r50'))
    assert ours.macs <= 0.42 * detr.macs
    assert ours.params <= 0.635 * detr.params


def test_508m_has_the_papers_blocks_and_queries():
    cfg = load('e2e_mf508m_coco')
    assert [scale.num_blocks for scale in cfg.model.decoder.scales] == [5, 2, 2]
    assert cfg.model.num_queries == 100 and cfg.model.decoder.embed_dims == 256
    assert cfg.model.backbone.dynamic_relu == 'spatial'


@pytest.mark.parametrize('variant', TABLE_9)
def test_recipe_is_the_papers(variant):
    cfg = load(f'e2e_mf{variant}_coco')
    assert cfg.train_cfg.max_epochs == 300 and cfg.param_scheduler[0].milestones == [200]
    assert cfg.train_dataloader.batch_size == 2 and cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.model.decoder.dropout == 0.1
    assert cfg.model.backbone.norm_eval and not cfg.model.backbone.norm_cfg.requires_grad
    assert cfg.model.backbone.init_cfg.checkpoint.endswith(f'_{variant}.pth')


@pytest.mark.parametrize('variant', TABLE_9)
def test_anchored_queries_cost_about_as_much_as_the_papers_form(variant):
    plain, cfg = total_cost(load(f'e2e_mf{variant}_coco')), load(f'e2e_mf{variant}_anchored_coco')
    anchored = total_cost(cfg, 'cpu')  # autocast knows no device 'meta'
    assert 0.97 < anchored.macs / plain.macs <= 1.07
    assert 1 < anchored.params / plain.params <= 1.03
    paper = load(f'e2e_mf{variant}_coco')
    for scale, of_paper in zip(cfg.model.decoder.scales, paper.model.decoder.scales, strict=True):
        scale.pop('proposal_maps', None)
        if of_paper.mobile == 'lite' and of_paper.mid_channels == 1024:
            of_paper.mid_channels = 768
        assert scale == of_paper
    assert cfg.model.backbone == paper.model.backbone and cfg.model.neck == paper.model.neck
    assert cfg.train_cfg.max_epochs == 50 and cfg.auto_scale_lr.base_batch_size == 16


def test_learning_rates_of_backbone_and_head():
    cfg = load('e2e_mf151m_coco')
    train_from_scratch(cfg)
    detector = MODELS.build(cfg.model)
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    groups = build_optim_wrapper(detector, cfg.optim_wrapper).optimizer.param_groups
    for group in groups:
        for parameter in group['params']:
            name = names[id(parameter)]
            assert group['lr'] == pytest.approx(1e-5 if name.startswith('backbone.') else 1e-4)
            assert group['weight_decay'] == (0 if name == 'backbone.tokens' else 1e-4), name


def test_rows_of_table_10_differ_in_one_idea_each():
    names = (
        'detr_r50',
        'detr_mf508m',
        'detr_mf508m_spatial',
        'e2e_mf508m_fixed_position',
        'e2e_mf508m_adapting_position',
    )
    rows = [load(f'ablation/{name}') for name in names]
    assert [row.model.type for row in rows] == ['DETR'] * 3 + ['MobileFormerDETR'] * 2
    assert rows[0].model.backbone.type == 'ResNet'
    modes = [row.model.backbone.dynamic_relu for row in rows[1:]]
    assert modes == ['token', 'spatial', 'spatial', 'spatial']
    for row in rows[1:]:
        for part in ('train_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg'):
            assert row[part] == rows[0][part]
        assert row.model.bbox_head == rows[0].model.bbox_head
    for key in ('encoder', 'decoder'):
        assert rows[1].model[key] == rows[0].model[key] == rows[2].model[key]
    assert not rows[3].model.decoder.adapt_position and rows[4].model.decoder.adapt_position
    rows[3].model.decoder.adapt_position = True
    assert rows[3].model == rows[4].model == load('e2e_mf508m_coco').model


def test_both_heads_on_the_shapes_share_all_but_the_head():
    ours, plain = load('ablation/e2e_mf26m_shapes_paper'), load('ablation/detr_mf26m_shapes')
    for part in (
        'train_dataloader',
        'val_dataloader',
        'optim_wrapper',
        'param_scheduler',
        'train_cfg',
    ):
        assert ours[part] == plain[part]
    for key in ('arch', 'dynamic_relu', 'frozen_stages', 'norm_eval', 'init_cfg'):
        assert ours.model.backbone[key] == plain.model.backbone[key]
    assert ours.model.bbox_head == plain.model.bbox_head
    assert ours.model.num_queries == plain.model.num_queries
