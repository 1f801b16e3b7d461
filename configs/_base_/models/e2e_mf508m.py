# The end-to-end detector on Mobile-Former-508M (paper, sec. 4 and table 9). The other sizes change
# the backbone, the widths and the number of blocks.
model = dict(
    type='MobileFormerDETR',
    num_queries=100,
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type='MobileFormer',
        arch='508m',
        dynamic_relu='spatial',
        out_indices=(2, 3, 4),
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained', checkpoint='checkpoints/mobile_former_508m.pth', prefix='backbone.'
        ),
    ),
    neck=dict(
        type='ChannelMapper',
        in_channels=[72, 176, 240],
        kernel_size=1,
        out_channels=256,
        act_cfg=None,
        norm_cfg=dict(type='LayerNorm2d'),
    ),
    decoder=dict(
        embed_dims=256,
        num_heads=8,
        ffn_ratio=2,
        dynamic_relu='spatial',
        adapt_position=True,
        upsampling='bilinear',
        dropout=0.1,
        scales=[
            dict(num_blocks=5, mobile='attention', mid_channels=2048),  # 1/32
            dict(num_blocks=2, mobile='lite', mid_channels=512),  # 1/16
            dict(num_blocks=2, mobile='lite', mid_channels=1024),  # 1/8
        ],
    ),
    bbox_head=dict(
        type='DETRHead',
        num_classes=80,
        embed_dims=256,
        # The classification loss too is normalised over all processes.
        sync_cls_avg_factor=True,
        loss_cls=dict(
            type='CrossEntropyLoss',
            bg_cls_weight=0.1,
            use_sigmoid=False,
            loss_weight=1.0,
            class_weight=1.0,
        ),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='ClassificationCost', weight=1.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ],
        )
    ),
    test_cfg=dict(max_per_img=100),
)
