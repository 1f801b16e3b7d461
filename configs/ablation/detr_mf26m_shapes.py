# A plain DETR head on the backbone, data and schedule of e2e_mf26m_shapes_paper.py: two encoder and
# four decoder layers on the map of stride 16, queries and widths as there.
_base_ = [
    '../_base_/models/detr_r50.py',
    '../_base_/datasets/shapes_detection_small.py',
    '../_base_/schedules/schedule_shapes_280e.py',
    '../_base_/default_runtime.py',
]

attention = dict(embed_dims=128, num_heads=8, dropout=0.0, batch_first=True)
ffn = dict(
    embed_dims=128,
    feedforward_channels=256,
    num_fcs=2,
    ffn_drop=0.0,
    act_cfg=dict(type='ReLU', inplace=True),
)
model = dict(
    num_queries=25,
    backbone=dict(
        _delete_=True,
        type='MobileFormer',
        arch='26m',
        dynamic_relu='spatial',
        out_indices=(3,),
        frozen_stages=2,
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/retinanet_mf26m_shapes/epoch_9.pth',
            prefix='backbone.',
        ),
    ),
    neck=dict(in_channels=[64], out_channels=128),
    encoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)),
    decoder=dict(
        num_layers=4, layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn)
    ),
    positional_encoding=dict(num_feats=64),
    bbox_head=dict(num_classes=5, embed_dims=128),
    test_cfg=dict(max_per_img=25),
)

default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=20, max_keep_ckpts=1))
randomness = dict(seed=0)
