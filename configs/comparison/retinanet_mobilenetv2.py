# The small RetinaNet on MobileNetV2 of the 52m backbone's cost.
_base_ = '../retinanet_mf52m_small.py'
model = dict(
    backbone=dict(
        _delete_=True, type='MobileNetV2', widen_factor=0.35, out_indices=(2, 4, 6), norm_eval=False
    ),
    neck=dict(in_channels=[16, 32, 112]),
)
