"""Every config parses, builds and trains a step; those of the paper's table 8 cost what it says."""

from pathlib import Path

import pytest
from coco_folder import CLASSES, write_coco_folder
from detector_step import check_prediction, check_training_step
from mmdet.registry import DATASETS, MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmdet_mobileformer.analysis.complexity import count_cost
from mmdet_mobileformer.config_tree import data_sources
from mmdet_mobileformer.launch.data_flags import set_classes, set_data_root
from mmdet_mobileformer.launch.train import train_from_scratch

CONFIGS = Path(__file__).parents[1] / 'configs'
FILES = sorted([*CONFIGS.glob('*.py'), *CONFIGS.glob('ablation/*.py')])

# Paper, table 8: MACs in 1e9 at 800x1344, parameters in 1e6, of the whole detector.
TABLE_8 = {'151m': (161, 14.4), '214m': (162, 15.2), '294m': (164, 16.1), '508m': (168, 17.9)}


@pytest.fixture(scope='module', autouse=True)
def _registered():
    register_all_modules()


@pytest.fixture(scope='module')
def coco_folder(tmp_path_factory):
    return write_coco_folder(tmp_path_factory.mktemp('data') / 'coco')


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def cfg(request):
    return Config.fromfile(request.param)


def test_there_is_a_config_for_every_variant():
    names = {path.stem for path in FILES}
    variants = ('26m', '52m', '96m', '151m', '214m', '294m', '508m')
    assert {f'retinanet_mf{variant}_coco' for variant in variants} <= names


def test_config_builds_and_trains_a_step(cfg):
    train_from_scratch(cfg)
    detector = MODELS.build(cfg.model)
    optim_wrapper = build_optim_wrapper(detector, cfg.optim_wrapper)
    num_classes = cfg.model.bbox_head.num_classes
    check_training_step(detector, optim_wrapper, num_classes)
    check_prediction(detector, num_classes)


def test_data_of_a_config_can_be_read(cfg, coco_folder):
    set_data_root(cfg, str(coco_folder))
    set_classes(cfg, CLASSES)
    for source in data_sources(cfg):
        # Images of 96x64 are below the least size of COCO training in some configs.
        dataset = DATASETS.build(dict(source.config, filter_cfg=None))
        assert len(dataset) == (4 if source.split == 'train' else 3)
        item = dataset[0]
        assert item['inputs'].shape[0] == 3
        assert item['data_samples'].metainfo['img_id'] == 10


# DETR's recipe, which the other configs follow, lets all but the tokens decay.
RETINANETS = [path for path in FILES if path.stem.startswith('retinanet')]


@pytest.mark.parametrize('cfg', RETINANETS, indirect=True, ids=lambda path: path.stem)
def test_norms_biases_and_tokens_do_not_decay(cfg):
    train_from_scratch(cfg)
    detector = MODELS.build(cfg.model)
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    groups = build_optim_wrapper(detector, cfg.optim_wrapper).optimizer.param_groups
    for group in groups:
        for parameter in group['params']:
            exempt = parameter.ndim == 1 or names[id(parameter)] == 'backbone.tokens'
            assert (group['weight_decay'] == 0) == exempt, names[id(parameter)]


@pytest.mark.parametrize('variant', TABLE_8)
def test_cost_is_that_of_table_8(variant):
    cfg = Config.fromfile(CONFIGS / f'retinanet_mf{variant}_coco.py')
    costs = count_cost(MODELS.build(cfg.model).to('meta'), 800, 1344)
    macs, params = TABLE_8[variant]
    assert costs['total'].macs / 1e9 == pytest.approx(macs, rel=0.01)
    assert costs['total'].params / 1e6 == pytest.approx(params, rel=0.01)
    parts = [costs[part] for part in ('backbone', 'neck', 'head')]
    assert sum(part.macs for part in parts) == costs['total'].macs
    assert sum(part.params for part in parts) == costs['total'].params
    assert all(part.macs > 0 and part.params > 0 for part in parts)
