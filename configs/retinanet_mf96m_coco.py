_base_ = [
    '_base_/models/retinanet_mobileformer.py',
    '_base_/datasets/coco_detection.py',
    '_base_/schedules/schedule_1x.py',
    '_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        arch='96m',
        init_cfg=dict(
            type='Pretrained', checkpoint='checkpoints/mobile_former_96m.pth', prefix='backbone.'
        ),
    ),
    neck=dict(in_channels=[32, 88, 128]),
)
