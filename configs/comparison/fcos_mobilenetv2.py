# FCOS as mmdet's fcos_r18 config has it, on the MobileNetV2 of retinanet_mobilenetv2.py and with
# that neck and those head widths: on ResNet-18 a step takes 2.6 times as long.
_base_ = './_small.py'
model = dict(
    type='FCOS',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(type='MobileNetV2', widen_factor=0.35, out_indices=(2, 4, 6), norm_eval=False),
    neck=dict(
        type='FPN',
        in_channels=[16, 32, 112],
        out_channels=64,
        norm_cfg=dict(type='BN'),
        add_extra_convs='on_output',
        num_outs=5,
        relu_before_extra_convs=True,
    ),
    bbox_head=dict(
        type='FCOSHead',
        num_classes=80,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        strides=[8, 16, 32, 64, 128],
        # mmdet's ranges halved twice, as the images are a quarter of COCO's.
        regress_ranges=((-1, 32), (32, 64), (64, 128), (128, 256), (256, 1e8)),
        norm_cfg=dict(type='GN', num_groups=16),
        norm_on_bbox=True,
        centerness_on_reg=True,
        center_sampling=True,
        conv_bias=True,
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0),
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.6),
        max_per_img=100,
    ),
)
