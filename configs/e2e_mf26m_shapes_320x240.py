# The end-to-end detector of e2e_mf26m_shapes.py on the images as they are, as RetinaNet sees them.
# An epoch takes nearly three times as long and teaches more; `make demo` trains this one.
_base_ = './e2e_mf26m_shapes.py'

# The usual scales: 1/32 and 1/16. No padding: 320x256 would be 7 % more to compute.
model = dict(
    data_preprocessor=dict(pad_size_divisor=1),
    backbone=dict(out_indices=(3, 4)),
    neck=dict(in_channels=[64, 96]),
)

size = (320, 240)
train_pipeline = _base_.train_pipeline
train_pipeline[2].update(scale=size)
val_pipeline = _base_.val_pipeline
val_pipeline[1].update(scale=size)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=size)
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

# What `make demo` has time for; more than RetinaNet's in every seed (docs/results.md).
max_epochs = 8
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=1.2e-3))
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=max_epochs)
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(checkpoint=dict(interval=4))
