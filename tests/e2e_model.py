"""The end-to-end detector in test size, and batches for it."""

import copy

import torch
from mmdet.evaluation import CocoMetric
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.structures import InstanceData

import mmdet_mobileformer  # noqa: F401 (registers the detector)

register_all_modules()

NUM_CLASSES = 3
ARCH = dict(
    stem_channels=8,
    num_tokens=3,
    token_dim=32,
    blocks=[
        dict(kind='lite', mid_channels=16, out_channels=8, stride=2),
        dict(kind='downsampling', mid_channels=32, out_channels=16, second_mid_channels=32),
        dict(kind='downsampling', mid_channels=48, out_channels=24, second_mid_channels=48),
        dict(kind='downsampling', mid_channels=72, out_channels=32, second_mid_channels=64),
    ],
)
MODEL = dict(
    type='MobileFormerDETR',
    num_queries=12,
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        pad_size_divisor=32,
    ),
    backbone=dict(type='MobileFormer', arch=ARCH, dynamic_relu='spatial', out_indices=(2, 3, 4)),
    neck=dict(
        type='ChannelMapper',
        in_channels=[16, 24, 32],
        kernel_size=1,
        out_channels=32,
        act_cfg=None,
        norm_cfg=dict(type='LayerNorm2d'),
    ),
    decoder=dict(
        embed_dims=32,
        num_heads=4,
        dropout=0.0,
        scales=[
            dict(num_blocks=2, mobile='attention', mid_channels=64),
            dict(num_blocks=1, mobile='lite', mid_channels=64),
            dict(num_blocks=2, mobile='lite', mid_channels=64),
        ],
    ),
    bbox_head=dict(
        type='DETRHead',
        num_classes=NUM_CLASSES,
        embed_dims=32,
        loss_cls=dict(
            type='CrossEntropyLoss',
            bg_cls_weight=0.1,
            use_sigmoid=False,
            loss_weight=1.0,
            class_weight=1.0,
        ),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='ClassificationCost', weight=1.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ],
        )
    ),
    test_cfg=dict(max_per_img=100),
)


ANCHORED = dict(
    bbox_head=dict(
        type='AnchorDETRHead',
        num_classes=NUM_CLASSES,
        embed_dims=32,
        loss_cls=dict(type='MatchabilityAwareLoss', gamma=1.5),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='FocalLossCost', weight=2.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ],
        )
    ),
)


def anchored(proposal_maps=(0, 0, 0), **decoder):
    """Settings of :func:`build_detector` for anchored queries, with proposals at one scale."""
    scales = [
        dict(scale, proposal_maps=maps)
        for scale, maps in zip(MODEL['decoder']['scales'], proposal_maps, strict=True)
    ]
    return dict(copy.deepcopy(ANCHORED), decoder=dict(decoder, scales=scales, anchored=True))


def build_detector(decoder=None, seed=0, **settings):
    """Build the test model, its settings or the decoder's replaced, with freshly drawn weights."""
    cfg = copy.deepcopy(MODEL)
    cfg.update(settings)
    cfg['decoder'].update(decoder or {})
    torch.manual_seed(seed)
    detector = MODELS.build(cfg)
    detector.init_weights()
    return detector


def draw_batch(sizes, num_objects=2, seed=0):
    """Images with bright rectangles, one an object; its class is its colour channel.

    Args:
        sizes: (height, width) of each image.
        num_objects: Rectangles in each image.
        seed: Of their places and classes.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for height, width in sizes:
        image = torch.randint(0, 60, (3, height, width), generator=generator, dtype=torch.uint8)
        boxes, labels = [], []
        for _ in range(num_objects):
            where = torch.rand(4, generator=generator).tolist()
            label = int(torch.randint(0, NUM_CLASSES, (1,), generator=generator))
            box_width, box_height = (0.2 + 0.3 * where[2]) * width, (0.2 + 0.3 * where[3]) * height
            left, top = where[0] * (width - box_width), where[1] * (height - box_height)
            box = [round(v) for v in (left, top, left + box_width, top + box_height)]
            image[:, box[1] : box[3], box[0] : box[2]] = 0
            image[label, box[1] : box[3], box[0] : box[2]] = 255
            boxes.append(box)
            labels.append(label)
        shape = (height, width)
        sample = DetDataSample(
            metainfo=dict(
                img_shape=shape, ori_shape=shape, pad_shape=shape, scale_factor=(1.0, 1.0), img_id=0
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor(labels, dtype=torch.long),
        )
        inputs.append(image)
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def losses_of(detector, batch):
    """Losses of a batch, by name."""
    data = detector.data_preprocessor(copy.deepcopy(batch), True)
    return detector(**data, mode='loss')


def _average_precision(results, samples):
    """COCO AP, with the samples' own objects as ground truth."""
    metric = CocoMetric(metric='bbox')
    metric.dataset_meta = dict(classes=tuple('abc'))
    predictions = []
    for index, (result, sample) in enumerate(zip(results, samples, strict=True)):
        gt = sample.gt_instances
        instances = [
            dict(bbox=box.tolist(), bbox_label=int(label))
            for box, label in zip(gt.bboxes, gt.labels, strict=True)
        ]
        predictions.append(
            dict(
                pred_instances=dict(result.pred_instances.items()),
                img_id=index,
                ori_shape=sample.ori_shape,
                instances=instances,
            )
        )
    metric.process({}, predictions)
    return metric.evaluate(len(predictions))['coco/bbox_mAP']


def overfitted_ap(detector, steps):
    """COCO AP on eight images after some steps of training on them."""
    batch = draw_batch([(64, 64)] * 8, seed=3)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(losses_of(detector, batch).values()).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        results = detector.eval().test_step(copy.deepcopy(batch))
    return _average_precision(results, batch['data_samples'])
