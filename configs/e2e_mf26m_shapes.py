# The end-to-end detector with anchored queries learns rendered shapes on a CPU in minutes, its
# backbone from the RetinaNet demonstration (or random: --from-scratch):
#   python tools/make_shapes_dataset.py
#   python tools/train.py configs/retinanet_mf26m_shapes.py
#   python tools/train.py configs/e2e_mf26m_shapes.py
# On images this small 1/16 and 1/8 take the places of 1/32 and 1/16.
_base_ = [
    '_base_/models/e2e_anchored_mf508m.py',
    '_base_/datasets/shapes_detection_small.py',
    '_base_/schedules/schedule_anchored.py',
    '_base_/default_runtime.py',
]

model = dict(
    num_queries=25,
    backbone=dict(
        arch='26m',
        out_indices=(2, 3),
        norm_cfg=dict(requires_grad=True),
        norm_eval=False,
        init_cfg=dict(checkpoint='work_dirs/retinanet_mf26m_shapes/epoch_9.pth'),
    ),
    neck=dict(in_channels=[24, 64], out_channels=128),
    decoder=dict(
        embed_dims=128,
        scales=[
            dict(num_blocks=2, mobile='attention', mid_channels=256),  # 1/16
            dict(num_blocks=2, mobile='lite', mid_channels=256, proposal_maps=1),  # 1/8
        ],
    ),
    bbox_head=dict(num_classes=5, embed_dims=128),
    test_cfg=dict(max_per_img=25),
)

# Milder than the base's, which is for the paper's form: that sees an image ten times as often.
train_pipeline = _base_.train_pipeline
train_pipeline[4].update(max_translate_ratio=0.1, scaling_ratio_range=(0.9, 1.1))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=6, max_keep_ckpts=1))
randomness = dict(seed=0)
