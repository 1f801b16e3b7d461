# The rendered shapes at 128x96 pixels: what the slow training of DETR-style heads affords on a CPU.
_base_ = './shapes_detection.py'

train_pipeline = [
    dict(type='LoadWholeImage'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(128, 96), keep_ratio=True),
    dict(
        type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']
    ),
    # Without it the 400 images are learned by heart: AP stays below 0.2 while the loss falls.
    dict(
        type='RandomAffine',
        max_rotate_degree=0.0,
        max_shear_degree=0.0,
        max_translate_ratio=0.2,
        scaling_ratio_range=(0.6, 1.4),
    ),
    dict(type='PackDetInputs'),
]
# Plain, since mmdet's DetInferencer looks for LoadImageFromFile by its name.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 96), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
val_pipeline = [dict(type='LoadWholeImage'), *test_pipeline[1:]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(val_dataloader, dataset=dict(pipeline=test_pipeline))
