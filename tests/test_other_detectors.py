"""The backbone serves other detectors: two stages, anchor-free, and a real-time one."""

import pytest
import torch
from detector_step import check_prediction, check_training_step
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper

import mmdet_mobileformer  # noqa: F401 (registers the backbone)

NUM_CLASSES = 3
BACKBONE = dict(type='MobileFormer', arch='26m')
PREPROCESSOR = dict(
    type='DetDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)
CODER = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2])
ASSIGNER = dict(
    type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.3, min_pos_iou=0.3, ignore_iof_thr=-1
)
SAMPLER = dict(type='RandomSampler', num=32, pos_fraction=0.5, neg_pos_ub=-1)
FASTER_RCNN = dict(
    type='FasterRCNN',
    data_preprocessor=PREPROCESSOR,
    backbone=dict(BACKBONE, out_indices=(1, 2, 3, 4)),
    neck=dict(type='FPN', in_channels=[12, 24, 64, 96], out_channels=32, num_outs=5),
    rpn_head=dict(
        type='RPNHead',
        in_channels=32,
        feat_channels=32,
        anchor_generator=dict(
            type='AnchorGenerator', scales=[8], ratios=[1.0], strides=[4, 8, 16, 32, 64]
        ),
        bbox_coder=CODER,
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
        loss_bbox=dict(type='L1Loss'),
    ),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
            out_channels=32,
            featmap_strides=[4, 8, 16, 32],
        ),
        bbox_head=dict(
            type='Shared2FCBBoxHead',
            in_channels=32,
            fc_out_channels=64,
            num_classes=NUM_CLASSES,
            bbox_coder=CODER,
            loss_cls=dict(type='CrossEntropyLoss'),
            loss_bbox=dict(type='L1Loss'),
        ),
    ),
    train_cfg=dict(
        rpn=dict(assigner=ASSIGNER, sampler=SAMPLER, allowed_border=-1, pos_weight=-1),
        rpn_proposal=dict(
            nms_pre=50, max_per_img=20, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0
        ),
        rcnn=dict(
            assigner=ASSIGNER, sampler=dict(SAMPLER, add_gt_as_proposals=True), pos_weight=-1
        ),
    ),
    test_cfg=dict(
        rpn=dict(
            nms_pre=50, max_per_img=20, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0
        ),
        rcnn=dict(score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10),
    ),
)
FCOS = dict(
    type='FCOS',
    data_preprocessor=PREPROCESSOR,
    backbone=dict(BACKBONE, out_indices=(2, 3, 4)),
    neck=dict(
        type='FPN',
        in_channels=[24, 64, 96],
        out_channels=32,
        add_extra_convs='on_output',
        num_outs=5,
        relu_before_extra_convs=True,
    ),
    bbox_head=dict(
        type='FCOSHead',
        num_classes=NUM_CLASSES,
        in_channels=32,
        feat_channels=32,
        stacked_convs=1,
        strides=[8, 16, 32, 64, 128],
    ),
    test_cfg=dict(
        nms_pre=50, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10
    ),
)
RTMDET = dict(
    type='RTMDet',
    data_preprocessor=PREPROCESSOR,
    backbone=dict(BACKBONE, out_indices=(2, 3, 4)),
    neck=dict(
        type='CSPNeXtPAFPN',
        in_channels=[24, 64, 96],
        out_channels=32,
        num_csp_blocks=1,
        norm_cfg=dict(type='BN'),
    ),
    bbox_head=dict(
        type='RTMDetSepBNHead',
        num_classes=NUM_CLASSES,
        in_channels=32,
        feat_channels=32,
        stacked_convs=1,
        share_conv=True,
        with_objectness=False,
        norm_cfg=dict(type='BN'),
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(
        assigner=dict(type='DynamicSoftLabelAssigner', topk=13), allowed_border=-1, pos_weight=-1
    ),
    test_cfg=dict(
        nms_pre=50, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10
    ),
)


@pytest.mark.parametrize('config', [FASTER_RCNN, FCOS, RTMDET], ids=lambda config: config['type'])
def test_detector_trains_and_predicts(config):
    register_all_modules()
    torch.manual_seed(0)
    detector = MODELS.build(ConfigDict(config))
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-3)
    check_training_step(detector, OptimWrapper(optimizer), NUM_CLASSES, size=(128, 96))
    check_prediction(detector, NUM_CLASSES, size=(128, 96))
