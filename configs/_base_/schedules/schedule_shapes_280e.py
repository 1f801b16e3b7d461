# A DETR-style head on the rendered shapes: short, with higher rates than the paper's, as suits a
# small head.
_base_ = './schedule_anchored.py'
max_epochs = 280
train_cfg = dict(max_epochs=max_epochs, val_interval=20)

optim_wrapper = dict(
    optimizer=dict(lr=8e-4),
    paramwise_cfg=dict(
        custom_keys={'backbone': dict(lr_mult=0.2), 'backbone.tokens': dict(lr_mult=0.2)}
    ),
)

_base_.param_scheduler[1].end = max_epochs
