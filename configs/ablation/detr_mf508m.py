# Paper, table 10, row 2: Mobile-Former-508M with DETR's head, 39.4 AP.
_base_ = [
    '../_base_/models/detr_r50.py',
    '../_base_/datasets/coco_detection_detr.py',
    '../_base_/schedules/schedule_300e_detr.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileFormer',
        arch='508m',
        dynamic_relu='token',
        out_indices=(4,),
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained', checkpoint='checkpoints/mobile_former_508m.pth', prefix='backbone.'
        ),
    ),
    neck=dict(in_channels=[240]),
)
