# As e2e_mf26m_small.py on the 52m backbone, whose pointwise convolutions have no groups.
_base_ = 'e2e_mf26m_small.py'

model = dict(backbone=dict(arch='52m'))
