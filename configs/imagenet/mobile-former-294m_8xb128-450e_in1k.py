_base_ = ['../_base_/imagenet_450e.py']

model = dict(backbone=dict(arch='294m'), head=dict(arch='294m'))
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.20))
