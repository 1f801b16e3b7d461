# E2E-MF-294M (paper, table 9: 40.5 AP on COCO val2017 after 300 epochs).
# The scales and widths of the head are our decision: they meet the published parameters and MACs.
_base_ = [
    '_base_/models/e2e_mf508m.py',
    '_base_/datasets/coco_detection_detr.py',
    '_base_/schedules/schedule_300e_detr.py',
    '_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        arch='294m',
        out_indices=(3, 4),
        init_cfg=dict(checkpoint='checkpoints/mobile_former_294m.pth'),
    ),
    neck=dict(in_channels=[128, 192]),
    decoder=dict(
        scales=[
            dict(num_blocks=8, mobile='attention', mid_channels=1024),  # 1/32
            dict(num_blocks=2, mobile='lite', mid_channels=768),  # 1/16
        ]
    ),
)
