# Paper, sec. 4: 300 epochs of 8 GPUs x 2 images, AdamW with 1e-4 for the head and 1e-5 for the
# backbone, a tenth of both after epoch 200. Clipping as in DETR. Validating only every tenth epoch,
# and not letting the tokens decay, are our decisions.
max_epochs = 300
train_cfg = dict(type='ResumableTrainLoop', max_epochs=max_epochs, val_interval=10)
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
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=max_epochs, milestones=[200], gamma=0.1)
]

auto_scale_lr = dict(enable=False, base_batch_size=16)
