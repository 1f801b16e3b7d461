# ImageNet training of all seven backbones with mmpretrain: 8 GPUs x 128 images, 450 epochs.
# Optimiser, cosine schedule, batch, mixup, RandAugment and random erasing are the recipe of the
# released model. Where it is silent these are our decisions: five epochs of warm-up, mmpretrain's
# operations and settings of RandAugment and random erasing.
# A variant's config adds `arch`, learning rate and weight decay; the smaller ones augment less.
default_scope = 'mmpretrain'
custom_imports = dict(
    imports=['mmdet_mobileformer', 'mmdet_mobileformer.models.image_classifier'],
    allow_failed_imports=False,
)

model = dict(
    type='ImageClassifier',
    backbone=dict(type='MobileFormerWithTokens', dynamic_relu='token'),
    head=dict(
        type='MobileFormerClsHead',
        num_classes=1000,
        loss=dict(type='CrossEntropyLoss', use_soft=True),
    ),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.2)]),
)

# ImageNet's mean and standard deviation in RGB
data_preprocessor = dict(
    num_classes=1000, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)

data_root = 'data/imagenet/'
train_pipeline = [
    dict(type='mmdet.LoadWholeImage'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bilinear'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='RandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation='bilinear'),
    ),
    dict(
        type='RandomErasing',
        erase_prob=0.2,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=[103.53, 116.28, 123.675],
        fill_std=[57.375, 57.12, 58.395],
    ),
    dict(type='PackInputs'),
]
test_pipeline = [
    # mmpretrain's inferencer takes out a first transform of just this name.
    dict(type='LoadImageFromFile'),
    # 224 / 256 is the released model's crop of 0.875
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bilinear'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]

# <data_root>/{train,val}/<one folder a class>/<images>
train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    dataset=dict(
        type='CustomDataset', data_root=data_root, data_prefix='train', pipeline=train_pipeline
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    dataset=dict(
        type='CustomDataset', data_root=data_root, data_prefix='val', pipeline=test_pipeline
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='FiniteOptimWrapper',
    optimizer=dict(type='AdamW', lr=8e-4, weight_decay=0.1),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={'backbone.tokens': dict(decay_mult=0.0)},
    ),
)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.01,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=5,
        end=450,
        T_max=445,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type='ResumableTrainLoop', max_epochs=450, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(enable=False, base_batch_size=1024)

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='DurableCheckpointHook', interval=1, max_keep_ckpts=3, save_best='accuracy/top1'
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='VisualizationHook', enable=False),
    termination=dict(type='TerminationHook'),
    finite_loss=dict(type='FiniteLossHook'),
    checkpoint_fit=dict(type='CheckpointFitHook'),
    same_statistics=dict(type='SameStatisticsHook'),
)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
