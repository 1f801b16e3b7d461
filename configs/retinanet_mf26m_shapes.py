# The demonstration: a small RetinaNet learns rendered shapes from scratch on a CPU, in minutes.
#   python tools/make_shapes_dataset.py
#   python tools/train.py configs/retinanet_mf26m_shapes.py
_base_ = [
    '_base_/models/retinanet_mobileformer.py',
    '_base_/datasets/shapes_detection.py',
    '_base_/schedules/schedule_1x.py',
    '_base_/default_runtime.py',
]

model = dict(
    # 320x240 as it is: the default would pad it to 320x256, 7 % more to compute.
    data_preprocessor=dict(pad_size_divisor=1),
    # Random weights at the start, so the normalisation statistics must learn.
    backbone=dict(arch='26m', norm_eval=False),
    neck=dict(in_channels=[24, 64, 96], out_channels=64, num_outs=3),
    bbox_head=dict(
        num_classes=5,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        # Square anchors of 32 to 203 pixels: no shape is much longer than it is wide.
        anchor_generator=dict(octave_base_scale=4, ratios=[1.0], strides=[8, 16, 32]),
        reg_decoded_bbox=True,
        loss_bbox=dict(_delete_=True, type='GIoULoss', loss_weight=2.0),
    ),
    # A crowd region is neither an object nor background.
    train_cfg=dict(assigner=dict(ignore_iof_thr=0.5)),
)

train_dataloader = dict(batch_size=4)

max_epochs = 9
train_cfg = dict(max_epochs=max_epochs, val_interval=3)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=max_epochs,
        eta_min_ratio=0.01,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=3, max_keep_ckpts=1))
randomness = dict(seed=0)
