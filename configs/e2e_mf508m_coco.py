# E2E-MF-508M (paper, table 9: 43.3 AP on COCO val2017 after 300 epochs).
_base_ = [
    '_base_/models/e2e_mf508m.py',
    '_base_/datasets/coco_detection_detr.py',
    '_base_/schedules/schedule_300e_detr.py',
    '_base_/default_runtime.py',
]
