# Anchored queries for the end-to-end detector on Mobile-Former-508M; `proposal_maps` of a scale
# says that its queries are proposals. Loss and matching: DEIM (Huang et al., CVPR 2025) and DINO
# (Zhang et al., ICLR 2023). Denoising is for training alone.
_base_ = './e2e_mf508m.py'

model = dict(
    decoder=dict(anchored=True, dropout=0.0),
    denoising=dict(num_queries=100, noise=0.6),
    bbox_head=dict(
        type='AnchorDETRHead',
        loss_cls=dict(_delete_=True, type='MatchabilityAwareLoss', gamma=1.5, loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(
            match_costs=[
                dict(type='FocalLossCost', weight=2.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ]
        )
    ),
)
