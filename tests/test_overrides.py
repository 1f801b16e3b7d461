"""Flags rewrite a config at any depth: data root, classes, training from scratch."""

import pytest
import torch
from coco_folder import CLASSES, annotation_file, write_coco_folder
from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from tiny_detector import retinanet

from mmdet_mobileformer.config_tree import DataSource, data_sources, walk_heads
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch import data_flags, train
from mmdet_mobileformer.launch.pretrained import check_pretrained, set_pretrained


@pytest.fixture(scope='module', autouse=True)
def _registered():
    register_all_modules()


@pytest.fixture
def root(tmp_path):
    return write_coco_folder(tmp_path / 'coco')


def coco(split, **settings):
    return dict(
        type='CocoDataset',
        data_root='data/coco/',
        ann_file=f'annotations/instances_{split}2017.json',
        data_prefix=dict(img=f'{split}2017/'),
        pipeline=[],
        **settings,
    )


def ann_file(cfg, split):
    return next(data_sources(cfg, split)).ann_file


def wrapped_cfg():
    """A config whose data sets and heads lie behind wrappers."""
    mixed = dict(type='MultiImageMixDataset', dataset=coco('train'), pipeline=[])
    both = dict(type='ConcatDataset', datasets=[mixed, coco('train')])
    evaluator = dict(type='CocoMetric', ann_file='data/coco/annotations/instances_val2017.json')
    return Config(
        dict(
            data_root='data/coco/',
            train_dataloader=dict(dataset=dict(type='RepeatDataset', times=2, dataset=both)),
            val_dataloader=dict(dataset=coco('val')),
            test_dataloader=dict(dataset=coco('val')),
            val_evaluator=evaluator,
            test_evaluator=[evaluator, dict(type='DumpDetResults', out_file_path='x.pkl')],
            model=dict(
                type='CascadeRCNN',
                backbone=dict(
                    type='ResNet',
                    depth=50,
                    norm_cfg=dict(type='BN', requires_grad=False),
                    init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),
                ),
                rpn_head=dict(type='RPNHead', num_classes=1),
                roi_head=dict(
                    bbox_head=[dict(num_classes=80), dict(num_classes=80)],
                    mask_head=dict(num_classes=80),
                    semantic_head=dict(num_classes=183),
                ),
            ),
        )
    )


def test_data_root_moves_every_loader_and_evaluator(root):
    cfg = wrapped_cfg()
    data_flags.set_data_root(cfg, str(root))
    train = [source.ann_file for source in data_sources(cfg, 'train')]
    assert train == [str(annotation_file(root))] * 2
    for split in ('val', 'test'):
        paths = [source.ann_file for source in data_sources(cfg, split)]
        assert paths == [str(annotation_file(root, 'val2017'))]
    assert cfg.val_evaluator.ann_file == str(annotation_file(root, 'val2017'))
    assert cfg.test_evaluator[0].ann_file == str(annotation_file(root, 'val2017'))
    assert 'ann_file' not in cfg.test_evaluator[1]
    assert cfg.data_root == str(root)


def test_data_root_falls_back_to_the_standard_names(root):
    cfg = wrapped_cfg()
    cfg.val_dataloader.dataset.update(ann_file='ann/mine.json', data_prefix=dict(img='pictures/'))
    cfg.val_evaluator.ann_file = 'data/coco/ann/mine.json'
    data_flags.set_data_root(cfg, str(root))
    assert ann_file(cfg, 'val') == str(annotation_file(root, 'val2017'))
    assert cfg.val_dataloader.dataset.data_prefix.img == 'val2017/'
    assert cfg.val_evaluator.ann_file == str(annotation_file(root, 'val2017'))


def test_data_root_keeps_names_that_exist_there(root):
    cfg = wrapped_cfg()
    annotation_file(root, 'val2017').rename(root / 'annotations' / 'mine.json')
    cfg.val_dataloader.dataset.ann_file = 'annotations/mine.json'
    data_flags.set_data_root(cfg, str(root))
    assert ann_file(cfg, 'val') == str(root / 'annotations' / 'mine.json')


def test_data_root_refuses_a_missing_folder_and_other_formats(root):
    with pytest.raises(UserError, match='no/such/folder'):
        data_flags.set_data_root(wrapped_cfg(), 'no/such/folder')
    cfg = wrapped_cfg()
    cfg.val_dataloader.dataset.type = 'VOCDataset'
    with pytest.raises(UserError, match='VOCDataset'):
        data_flags.set_data_root(cfg, str(root))


def test_classes_reach_every_data_set_and_head(root):
    cfg = wrapped_cfg()
    data_flags.set_data_root(cfg, str(root))
    data_flags.set_classes(cfg, data_flags.annotated_classes(cfg))
    for source in data_sources(cfg):
        assert source.classes == CLASSES
        assert len(source.config['metainfo']['palette']) == 3
    assert {head['num_classes'] for _, head in walk_heads(cfg.model)} == {3}
    assert len(list(walk_heads(cfg.model))) == 3
    assert cfg.model.rpn_head.num_classes == 1
    assert cfg.model.roi_head.semantic_head.num_classes == 183
    reread = Config.fromstring(cfg.pretty_text, '.py')  # as the work directory keeps it
    assert next(data_sources(reread, 'val')).classes == CLASSES


def test_classes_default_to_those_of_the_data_set_type():
    assert DataSource('train', '', coco('train')).classes == tuple(CocoDataset.METAINFO['classes'])


def test_classes_of_a_file_that_is_not_coco_are_refused(root):
    cfg = wrapped_cfg()
    data_flags.set_data_root(cfg, str(root))
    annotation_file(root).write_text('[]')
    with pytest.raises(UserError, match='instances_train2017'):
        data_flags.annotated_classes(cfg)
    annotation_file(root).unlink()
    with pytest.raises(UserError, match='cannot be read'):
        data_flags.annotated_classes(cfg)


def test_from_scratch_drops_weights_and_lets_norms_learn():
    cfg = wrapped_cfg()
    cfg.load_from = 'detector.pth'
    cfg.model.roi_head.init_cfg = [
        dict(type='Normal', layer='Linear'),
        dict(type='Pretrained', checkpoint='head.pth'),
    ]
    train.train_from_scratch(cfg)
    backbone = cfg.model.backbone
    assert backbone.init_cfg is None and cfg.load_from is None
    # ResNet's own defaults fix the statistics, though the config does not say so.
    assert backbone.norm_eval is False and backbone.frozen_stages == -1
    assert backbone.norm_cfg.requires_grad is True
    assert cfg.model.roi_head.init_cfg == [dict(type='Normal', layer='Linear')]
    assert 'frozen_stages' not in cfg.model.roi_head


def pretrained_cfg(tmp_path, checkpoint):
    init_cfg = dict(type='Pretrained', checkpoint=str(checkpoint), prefix='backbone.')
    model = dict(backbone=dict(type='MobileFormer', init_cfg=init_cfg))
    return Config(dict(model=model, work_dir=str(tmp_path / 'work'), resume=False, load_from=None))


def test_missing_pretrained_file_stops_with_every_way_out(tmp_path):
    missing = tmp_path / 'mobile_former_294m.pth'
    with pytest.raises(UserError) as error:
        check_pretrained(pretrained_cfg(tmp_path, missing))
    for words in (str(missing), 'convert_checkpoint.py --download 294m', '--from-scratch'):
        assert words in str(error.value)
    missing.touch()
    check_pretrained(pretrained_cfg(tmp_path, missing))
    check_pretrained(pretrained_cfg(tmp_path, 'https://example.org/weights.pth'))


def test_whole_detector_makes_the_pretrained_file_needless(tmp_path):
    cfg = pretrained_cfg(tmp_path, tmp_path / 'missing.pth')
    cfg.load_from = 'detector.pth'
    check_pretrained(cfg)
    assert cfg.model.backbone.init_cfg is None
    cfg = pretrained_cfg(tmp_path, tmp_path / 'missing.pth')
    cfg.resume = True  # nothing to resume from: the run would start at noise
    with pytest.raises(UserError):
        check_pretrained(cfg)


def test_classwise_amp_and_resume(tmp_path):
    cfg = wrapped_cfg()
    data_flags.set_classwise(cfg)
    assert cfg.val_evaluator.classwise and cfg.test_evaluator[0].classwise
    assert 'classwise' not in cfg.test_evaluator[1]
    cfg.work_dir = str(tmp_path)
    with pytest.raises(UserError, match=r'nowhere\.pth'):
        train.set_resume(cfg, 'nowhere.pth')
    with pytest.raises(UserError, match='base_batch_size'):
        train.set_auto_scale_lr(cfg)
    with pytest.raises(UserError, match='needs a COCO metric'):
        data_flags.set_classwise(Config(dict()))
    train.set_resume(cfg, 'auto')
    assert not cfg.resume  # there is nothing to resume from: training begins anew
    cfg.optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic', dtype='float16')
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match='fp16'):
            train.set_amp(cfg, 'fp16')
    train.set_amp(cfg, 'bf16')
    assert cfg.optim_wrapper == dict(type='BFloat16OptimWrapper')


@pytest.mark.parametrize('layout', ['detector', 'backbone', 'bare'])
def test_any_config_begins_with_a_file_of_backbone_weights(tmp_path, layout):
    detector = MODELS.build(retinanet())
    weights = detector.state_dict() if layout == 'detector' else detector.backbone.state_dict()
    weights = {name: torch.full_like(value, 0.25) for name, value in weights.items()}
    torch.save(weights if layout == 'bare' else dict(state_dict=weights), tmp_path / 'a.pth')
    cfg = Config(dict(model=retinanet()))
    assert 'init_cfg' not in cfg.model.backbone
    said = set_pretrained(cfg, str(tmp_path / 'a.pth'))
    left_out = 'its bbox_head, neck stays out'
    assert (left_out in said) == (layout == 'detector')
    detector = MODELS.build(cfg.model)
    detector.init_weights()
    assert all((value == 0.25).all() for value in detector.backbone.parameters())
    assert not all((value == 0.25).all() for value in detector.bbox_head.parameters())
    cfg.load_from = 'other.pth'
    with pytest.raises(UserError, match='would be overwritten by load_from=other'):
        set_pretrained(cfg, str(tmp_path / 'a.pth'))
