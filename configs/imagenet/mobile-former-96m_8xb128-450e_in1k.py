_base_ = ['../_base_/imagenet_450e.py']

# without mixup the labels are whole numbers
model = dict(
    backbone=dict(arch='96m'), head=dict(arch='96m', loss=dict(use_soft=False)), train_cfg=None
)
optim_wrapper = dict(optimizer=dict(lr=8e-4, weight_decay=0.10))

# no random erasing
train_pipeline = [
    dict(type='mmdet.LoadWholeImage'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bilinear'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='RandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation='bilinear'),
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
