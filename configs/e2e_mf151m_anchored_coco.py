# E2E-MF-151M with anchored queries: learned boxes at the coarse scale, proposals from the finest.
# Never trained on COCO; see docs/end_to_end.md.
_base_ = 'e2e_mf508m_anchored_coco.py'

model = dict(
    backbone=dict(
        arch='151m',
        out_indices=(3, 4),
        init_cfg=dict(checkpoint='checkpoints/mobile_former_151m.pth'),
    ),
    neck=dict(in_channels=[88, 128]),
    decoder=dict(
        scales=[
            dict(num_blocks=4, mobile='attention', mid_channels=1024),  # 1/32
            dict(num_blocks=2, mobile='lite', mid_channels=512, proposal_maps=1),  # 1/16
        ]
    ),
)
