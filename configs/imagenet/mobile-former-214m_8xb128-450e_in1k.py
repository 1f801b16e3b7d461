_base_ = ['../_base_/imagenet_450e.py']

model = dict(backbone=dict(arch='214m'), head=dict(arch='214m'))
optim_wrapper = dict(optimizer=dict(lr=9e-4, weight_decay=0.15))
