# What every config of the comparison shares: data, augmentation, length and optimiser.
# Their epochs make ten minutes of one core of docs/results.md; a config changes what its authors
# do differently, scaled to this length.
_base_ = [
    '../_base_/datasets/small_detection.py',
    '../_base_/schedules/schedule_small.py',
    '../_base_/default_runtime.py',
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=1))
