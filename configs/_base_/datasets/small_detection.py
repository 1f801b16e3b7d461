# Own data on a small machine: COCO layout, images of 320x240, and augmentation that keeps a few
# hundred images from being learned by heart. Every config of docs/results.md reads its data so.
_base_ = './coco_detection.py'

scale = (320, 240)
train_pipeline = [
    dict(type='LoadWholeImage'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(
        type='RandomAffine',
        max_rotate_degree=0.0,
        max_shear_degree=0.0,
        max_translate_ratio=0.2,
        scaling_ratio_range=(0.6, 1.5),
    ),
    # The affine step leaves slivers of objects at the border; an image without any object stays.
    dict(type='FilterAnnotations', min_gt_bbox_wh=(2, 2), keep_empty=False),
    dict(type='PhotoMetricDistortion'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
# Plain, since mmdet's DetInferencer looks for LoadImageFromFile by its name.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
val_pipeline = [dict(type='LoadWholeImage'), *test_pipeline[1:]]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    # Images without objects stay: they teach what clutter is.
    dataset=dict(filter_cfg=dict(filter_empty_gt=False), pipeline=train_pipeline),
)
val_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(val_dataloader, dataset=dict(pipeline=test_pipeline))
