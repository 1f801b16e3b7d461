_base_ = ['../_base_/imagenet_450e.py']

model = dict(backbone=dict(arch='52m'), head=dict(arch='52m'))
optim_wrapper = dict(optimizer=dict(lr=8e-4, weight_decay=0.10))

# neither RandAugment nor random erasing
train_pipeline = [
    dict(type='mmdet.LoadWholeImage'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bilinear'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
