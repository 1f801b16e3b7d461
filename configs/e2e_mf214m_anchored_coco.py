# E2E-MF-214M with anchored queries: learned boxes at the coarse scale, proposals from the finest.
# Never trained on COCO; see docs/end_to_end.md.
_base_ = 'e2e_mf508m_anchored_coco.py'

model = dict(
    backbone=dict(
        arch='214m',
        out_indices=(3, 4),
        init_cfg=dict(checkpoint='checkpoints/mobile_former_214m.pth'),
    ),
    neck=dict(in_channels=[112, 160]),
    decoder=dict(
        scales=[
            dict(num_blocks=6, mobile='attention', mid_channels=1024),  # 1/32
            dict(num_blocks=2, mobile='lite', mid_channels=512, proposal_maps=1),  # 1/16
        ]
    ),
)
