"""The pictures that a run leaves: predictions beside ground truth, curves of loss and AP."""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from run_tool import run_tool

from mmdet_mobileformer.analysis.pictures import draw_curves, read_scalars
from mmdet_mobileformer.datasets import ShapesSpec, write_shapes_dataset

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / 'configs/retinanet_mf26m_shapes.py'
WIDTH, HEIGHT = 96, 64
TRAINING = [
    dict(loss=2.0, loss_cls=1.2, loss_bbox=0.8, epoch=1, iter=10, step=10),
    {'coco/bbox_mAP': 0.1, 'coco/bbox_mAP_50': 0.3, 'coco/bbox_mAP_75': 0.05, 'step': 1},
    dict(loss=1.0, loss_cls=0.6, loss_bbox=0.4, epoch=2, iter=20, step=20),
    {'coco/bbox_mAP': 0.4, 'coco/bbox_mAP_50': 0.6, 'coco/bbox_mAP_75': 0.45, 'step': 2},
]


@pytest.fixture
def run_folder(tmp_path):
    """Data, a training log and predictions: one sure box in the first image, a faint one later."""
    write_shapes_dataset(tmp_path / 'shapes', ShapesSpec(1, 3, WIDTH, HEIGHT))
    log = tmp_path / 'work/20260101_000000/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('\n'.join(map(json.dumps, TRAINING)))
    predictions = [
        dict(
            img_id=img_id,
            pred_instances=dict(
                bboxes=torch.tensor([[20.0, 10.0, 60.0, 50.0]]),
                labels=torch.tensor([1]),
                scores=torch.tensor([score]),
            ),
        )
        for img_id, score in ((1, 0.9), (2, 0.1), (3, 0.1))
    ]
    (tmp_path / 'predictions.pkl').write_bytes(pickle.dumps(predictions))
    Config.fromfile(CONFIG).dump(tmp_path / 'work/mine.py')
    torch.save(dict(state_dict={}), tmp_path / 'work/best_epoch_2.pth')
    return tmp_path


def draw(folder, *more):
    where = (folder / 'work', folder / 'predictions.pkl', '--data-root', folder / 'shapes')
    assert run_tool('demo_pictures', *where, *more) == 0


def test_predictions_stand_on_the_right_when_they_are_sure(run_folder):
    draw(run_folder, '--num-images', 3)
    sheet = cv2.imread(str(run_folder / 'work/pictures/predictions.png')).astype(int)
    for i in range(3):
        image = cv2.imread(str(run_folder / f'shapes/val2017/{i + 1:012d}.jpg')).astype(int)
        top, left = i // 2 * (HEIGHT + 6), i % 2 * (2 * WIDTH + 6)
        pair = sheet[top : top + HEIGHT, left : left + 2 * WIDTH]
        changed = np.abs(pair[:, WIDTH:] - image).max(2) > 60
        assert changed[10:50, 18:62].any() == (i == 0)
        assert not changed[:, 75:].any()


def curves(work_dir):
    loss_axes, ap_axes = draw_curves(read_scalars(work_dir)).axes
    return [
        {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
        for axes in (loss_axes, ap_axes)
    ]


def test_curves_show_the_training(run_folder):
    draw(run_folder)
    losses, precisions = curves(run_folder / 'work')
    assert losses['loss'] == [[10, 2.0], [20, 1.0]]
    assert precisions == {
        'AP': [[1, 0.1], [2, 0.4]],
        'AP50': [[1, 0.3], [2, 0.6]],
        'AP75': [[1, 0.05], [2, 0.45]],
    }
    assert cv2.imread(str(run_folder / 'work/pictures/curves.png')).std() > 0


def add_log(run_folder, day, entries):
    log = run_folder / f'work/202601{day:02}_000000/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('\n'.join(map(json.dumps, entries)))


def test_curves_show_a_resumed_training_whole(run_folder):
    resumed = [dict(loss=1.1, epoch=2, step=20), dict(loss=0.5, epoch=3, step=30)]
    add_log(run_folder, 2, [*resumed, {'coco/bbox_mAP': 0.5, 'step': 3}])
    add_log(run_folder, 3, [{'coco/bbox_mAP': 0.9, 'step': 0}])  # of an evaluation
    losses, precisions = curves(run_folder / 'work')
    assert losses['loss'] == [[10, 2.0], [20, 1.1], [30, 0.5]]
    assert precisions['AP'] == [[1, 0.1], [2, 0.4], [3, 0.5]]
    add_log(run_folder, 4, [dict(loss=3.0, epoch=1, step=10)])  # another training
    losses, precisions = curves(run_folder / 'work')
    assert losses['loss'] == [[10, 3.0]] and not precisions
