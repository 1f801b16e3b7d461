# The end-to-end detector on Mobile-Former-508M (paper, sec. 4 and table 9). The other sizes change
# the backbone, the widths and the number of blocks.
_base_ = './detr_common.py'

model = dict(
    type='MobileFormerDETR',
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
        conv_cfg=dict(type='PointwiseConv2d'),
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
)
