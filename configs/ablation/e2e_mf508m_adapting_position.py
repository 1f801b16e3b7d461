# Paper, table 10, row 5: adapting position embedding, 43.3 AP; the whole of E2E-MF-508M.
_base_ = [
    '../_base_/models/e2e_mf508m.py',
    '../_base_/datasets/coco_detection_detr.py',
    '../_base_/schedules/schedule_300e_detr.py',
    '../_base_/default_runtime.py',
]
