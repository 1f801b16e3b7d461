# 50 epochs of 8 GPUs x 2 images, for anchored queries (our decision): DETR's rates, a tenth of both
# in the last fifth, as DAB-DETR and Deformable DETR train (Liu et al., ICLR 2022).
train_cfg = dict(type='ResumableTrainLoop', max_epochs=50, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='FiniteOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4),
    paramwise_cfg=dict(
        custom_keys={
            'backbone': dict(lr_mult=0.1),
            'backbone.tokens': dict(lr_mult=0.1, decay_mult=0.0),
        }
    ),
    clip_grad=dict(max_norm=0.1, norm_type=2),
)

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=50, milestones=[40], gamma=0.1),
]

auto_scale_lr = dict(enable=False, base_batch_size=16)
