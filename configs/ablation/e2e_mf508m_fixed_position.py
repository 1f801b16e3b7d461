# Paper, table 10, row 4: the Mobile-Former head instead of DETR's, 41.4 AP.
_base_ = [
    '../_base_/models/e2e_mf508m.py',
    '../_base_/datasets/coco_detection_detr.py',
    '../_base_/schedules/schedule_300e_detr.py',
    '../_base_/default_runtime.py',
]

model = dict(decoder=dict(adapt_position=False))
