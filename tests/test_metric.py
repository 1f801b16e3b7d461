"""COCO's twelve figures are always there, also for a model that detects nothing."""

import numpy as np
import pytest
import torch
from coco_folder import CLASSES, annotation_file, read_annotations, write_coco_folder
from mmengine.evaluator import Evaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmdet_mobileformer.engine import FullCocoMetric


@pytest.fixture
def root(tmp_path):
    return write_coco_folder(tmp_path / 'coco')


def evaluate(root, predictions, **settings):
    """Evaluate predictions, one (boxes, scores, labels) an image, by FullCocoMetric."""
    metric = FullCocoMetric(ann_file=str(annotation_file(root)), **settings)
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = dict(classes=CLASSES)
    samples = [
        dict(
            img_id=image['id'],
            ori_shape=(image['height'], image['width']),
            pred_instances=dict(
                bboxes=torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                scores=torch.as_tensor(scores, dtype=torch.float32),
                labels=torch.as_tensor(labels, dtype=torch.long),
            ),
        )
        for image, (boxes, scores, labels) in zip(
            read_annotations(root)['images'], predictions, strict=True
        )
    ]
    evaluator.process(samples)
    return evaluator.evaluate(len(samples))


def test_nothing_detected_gives_zero_for_all_twelve(root):
    figures = evaluate(root, [([], [], [])] * 4)
    assert len(figures) == 12 and set(figures.values()) == {0.0}
    assert 'coco/bbox_mAP' in figures and 'coco/bbox_AR@1' in figures


def test_nothing_detected_with_two_metrics(root):
    assert len(evaluate(root, [([], [], [])] * 4, metric=['bbox', 'segm'])) == 24


def test_figures_are_those_of_pycocotools(root):
    rng = np.random.default_rng(0)
    ids = [category['id'] for category in read_annotations(root)['categories']]
    predictions, found = [], []
    for image in read_annotations(root)['images']:
        truth = [a for a in read_annotations(root)['annotations'] if a['image_id'] == image['id']]
        boxes, scores, labels = [], [], []
        for _ in range(15):
            annotation = truth[rng.integers(3)]
            x, y, width, height = np.array(annotation['bbox']) + rng.normal(0, 4, 4)
            boxes.append([x, y, x + width, y + height])
            scores.append(float(rng.uniform()))
            labels.append(ids.index(annotation['category_id']))
            found.append([image['id'], x, y, width, height, scores[-1], annotation['category_id']])
        predictions.append((boxes, scores, labels))
    figures = evaluate(root, predictions)
    truth = COCO(str(annotation_file(root)))
    reference = COCOeval(truth, truth.loadRes(np.array(found)), 'bbox')
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    kinds = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l', 'AR@1', 'AR@10', 'AR@100')
    kinds += ('AR_s@100', 'AR_m@100', 'AR_l@100')
    values = [figures[f'coco/bbox_{kind}'] for kind in kinds]
    assert np.allclose(values, reference.stats, atol=6e-4)  # mmdet rounds to three digits
    assert 0 < figures['coco/bbox_AR@1'] < figures['coco/bbox_AR@10']


def test_ap_of_each_class_on_demand(root):
    truth = read_annotations(root)
    predictions = []
    for image in truth['images']:
        box = next(a['bbox'] for a in truth['annotations'] if a['image_id'] == image['id'])
        predictions.append(([[box[0], box[1], box[0] + box[2], box[1] + box[3]]], [0.9], [0]))
    figures = evaluate(root, predictions, classwise=True)
    assert figures['coco/disc_precision'] == 1 and figures['coco/star_precision'] == 0
    assert len(figures) == 15
