# Paper, table 10, row 1: ResNet-50 with DETR's head, 40.6 AP.
_base_ = [
    '../_base_/models/detr_r50.py',
    '../_base_/datasets/coco_detection_detr.py',
    '../_base_/schedules/schedule_300e_detr.py',
    '../_base_/default_runtime.py',
]
