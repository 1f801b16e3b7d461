"""Configs of detectors and runs so small that an iteration takes a few hundredths of a second."""

import copy

from coco_folder import CLASSES
from mmengine.config import Config
from mmengine.runner import Runner

from mmdet_mobileformer.launch.hardening import harden_loading, harden_training

BACKBONE = dict(
    type='MobileFormer',
    arch=dict(
        stem_channels=4,
        num_tokens=2,
        token_dim=16,
        blocks=[
            dict(kind='lite', mid_channels=8, out_channels=4),
            dict(kind='downsampling', mid_channels=8, out_channels=8, second_mid_channels=8),
            dict(kind='downsampling', mid_channels=8, out_channels=8, second_mid_channels=8),
            dict(kind='downsampling', mid_channels=8, out_channels=16, second_mid_channels=16),
            dict(kind='bottleneck', mid_channels=16, out_channels=16),
            dict(kind='downsampling', mid_channels=16, out_channels=16, second_mid_channels=16),
        ],
    ),
)


NUM_CLASSES = len(CLASSES)


def retinanet(num_classes=NUM_CLASSES, **backbone):
    """A RetinaNet of two levels."""
    return dict(
        type='RetinaNet',
        data_preprocessor=dict(
            type='DetDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3, pad_size_divisor=32
        ),
        backbone=dict(BACKBONE, out_indices=(3, 4), **backbone),
        neck=dict(type='FPN', in_channels=[16, 16], out_channels=8, num_outs=2),
        bbox_head=dict(
            type='SyncedRetinaHead',
            num_classes=num_classes,
            in_channels=8,
            feat_channels=8,
            stacked_convs=1,
            anchor_generator=dict(
                type='AnchorGenerator', scales=[2], ratios=[1.0], strides=[16, 32]
            ),
        ),
        train_cfg=dict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
            sampler=dict(type='PseudoSampler'),
            allowed_border=-1,
            pos_weight=-1,
        ),
        test_cfg=dict(
            nms_pre=200, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100
        ),
    )


def run_config(data_root, work_dir, max_epochs, model=None, num_workers=0, batch_size=2):
    """A whole run on a folder of :func:`coco_folder.write_coco_folder`, as a dict for a Config."""

    def loader(split, pipeline, **settings):
        return dict(
            batch_size=batch_size,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            sampler=dict(type='DefaultSampler', shuffle=split == 'train'),
            dataset=dict(
                type='CocoDataset',
                data_root=str(data_root),
                ann_file=f'annotations/instances_{split}2017.json',
                data_prefix=dict(img=f'{split}2017/'),
                metainfo=dict(classes=CLASSES),
                serialize_data=False,  # it collects garbage for half a second
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='LoadAnnotations', with_bbox=True),
                    *pipeline,
                ],
                **settings,
            ),
        )

    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    resize = dict(type='Resize', scale_factor=1.0)
    augment = [resize, dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
    return dict(
        default_scope='mmdet',
        custom_imports=dict(imports=['mmdet_mobileformer', 'mmdet_mobileformer.engine']),
        work_dir=str(work_dir),
        model=model or retinanet(drop_path_rate=0.2),
        train_dataloader=loader('train', augment),
        val_dataloader=loader(
            'val', [resize, dict(type='PackDetInputs', meta_keys=keys)], test_mode=True
        ),
        val_evaluator=dict(
            type='FullCocoMetric', ann_file=f'{data_root}/annotations/instances_val2017.json'
        ),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=2),
        val_cfg=dict(type='ValLoop'),
        optim_wrapper=dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=1e-3),
            clip_grad=dict(max_norm=1.0),
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=5),
            dict(type='MultiStepLR', by_epoch=True, milestones=[2, 4], gamma=0.5),
        ],
        default_hooks=dict(
            checkpoint=dict(
                type='CheckpointHook', interval=1, max_keep_ckpts=2, save_best='coco/bbox_mAP'
            )
        ),
        randomness=dict(seed=3),
        log_level='ERROR',
    )


def plain_text(cfg):
    """A Config as text; mmengine's own formatting takes longer than training these detectors."""
    return '\n'.join(f'{key} = {value!r}' for key, value in cfg.to_dict().items())


def train(data, work_dir, model=None, **changes):
    """Train one epoch, hardened as the tools do it, one image a batch; return the Runner."""
    cfg = Config(run_config(data, work_dir, 1, model=copy.deepcopy(model), batch_size=1))
    cfg.default_hooks.checkpoint.save_best = None
    cfg.merge_from_dict(changes)
    harden_training(cfg)
    harden_loading(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner
