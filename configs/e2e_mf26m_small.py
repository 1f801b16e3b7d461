# Small data on a small machine: the end-to-end detector with anchored queries, from scratch or from
# `--pretrained` weights, 320x240 images. For any folder in COCO layout:
#   python tools/train.py configs/e2e_mf26m_small.py --data-root DIR --classes auto
# On images this small 1/16 and 1/8 take the places of 1/32 and 1/16.
_base_ = [
    '_base_/models/e2e_anchored_mf508m.py',
    '_base_/datasets/small_detection.py',
    '_base_/schedules/schedule_anchored.py',
    '_base_/default_runtime.py',
]

model = dict(
    num_queries=50,
    backbone=dict(
        arch='26m',
        out_indices=(2, 3),
        norm_cfg=dict(requires_grad=True),
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[24, 64], out_channels=128),
    decoder=dict(
        embed_dims=128,
        num_heads=4,  # as good as 8 on blood cells, and faster (docs/results.md)
        scales=[
            dict(num_blocks=2, mobile='attention', mid_channels=256),  # 1/16
            dict(num_blocks=2, mobile='lite', mid_channels=256, proposal_maps=1),  # 1/8
        ],
    ),
    bbox_head=dict(embed_dims=128),
    test_cfg=dict(max_per_img=50),
)

# Milder than the base's, with which it learns slowly (BCCD; docs/end_to_end.md).
train_pipeline = [
    dict(type='LoadWholeImage'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(
        type='RandomAffine',
        max_rotate_degree=0.0,
        max_shear_degree=0.0,
        max_translate_ratio=0.1,
        scaling_ratio_range=(0.9, 1.1),
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(2, 2), keep_empty=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

max_epochs = 11
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
_base_.param_scheduler[1].end = max_epochs
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(logger=dict(interval=10))
