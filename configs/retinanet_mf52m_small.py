# Small data on a small machine: the 52m backbone with a light neck and head, 320x240 images,
# from scratch in 21 epochs: ten minutes of one core for 300 images. For any folder in COCO layout:
#   python tools/train.py configs/retinanet_mf52m_small.py --data-root DIR --classes auto
_base_ = [
    '_base_/models/retinanet_mobileformer.py',
    '_base_/datasets/small_detection.py',
    '_base_/schedules/schedule_small.py',
    '_base_/default_runtime.py',
]

model = dict(
    # Random weights at the start, so the normalisation statistics must learn.
    backbone=dict(arch='52m', norm_eval=False),
    neck=dict(in_channels=[24, 64, 96], out_channels=64, norm_cfg=dict(type='BN')),
    bbox_head=dict(
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=16),
        # Anchors of 16 to 406 pixels, in place of 32 to 813 on images of 320x240.
        anchor_generator=dict(octave_base_scale=2),
        reg_decoded_bbox=True,
        loss_bbox=dict(_delete_=True, type='GIoULoss', loss_weight=2.0),
    ),
    # A crowd region is neither an object nor background.
    train_cfg=dict(assigner=dict(ignore_iof_thr=0.5)),
)
default_hooks = dict(logger=dict(interval=10))
