# Paper, table 10, row 3: spatial-aware dynamic ReLU in the backbone, 40.5 AP.
_base_ = 'detr_mf508m.py'

model = dict(backbone=dict(dynamic_relu='spatial'))
