# The small RetinaNet on the smallest backbone.
_base_ = '../retinanet_mf52m_small.py'
model = dict(backbone=dict(arch='26m'))
