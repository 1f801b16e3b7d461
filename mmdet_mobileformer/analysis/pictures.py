"""Pictures of a training: predictions beside ground truth, curves of loss and AP."""

import json
from pathlib import Path

import mmcv
import numpy as np
from matplotlib.figure import Figure
from mmdet.registry import DATASETS, VISUALIZERS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData

from mmdet_mobileformer.errors import UserError

COLUMNS = 2  # pairs of pictures side by side


def draw_predictions(
    cfg: Config, predictions: list[dict], num_images: int, score_thr: float
) -> np.ndarray:
    """Draw images in pairs: the ground truth on the left, the predictions on the right.

    Args:
        cfg: The config, whose test data set holds the images.
        predictions: One dict an image, with ``img_id`` and ``pred_instances``.
        num_images: How many images, evenly spread over the predictions.
        score_thr: Lowest score of a drawn prediction.

    Returns:
        One picture (H, W, 3), uint8, RGB.
    """
    dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, pipeline=[]))
    indices = {dataset.get_data_info(i)['img_id']: i for i in range(len(dataset))}
    visualizer = VISUALIZERS.build(dict(type='DetLocalVisualizer', name='pictures'))
    visualizer.dataset_meta = dataset.metainfo
    chosen = np.linspace(0, len(predictions) - 1, min(num_images, len(predictions))).astype(int)
    pairs = []
    for prediction in (predictions[i] for i in chosen):
        info = dataset.get_data_info(indices[prediction['img_id']])
        image = mmcv.imread(info['img_path'], channel_order='rgb')
        found = InstanceData(**prediction['pred_instances'])
        objects = [instance for instance in info['instances'] if not instance['ignore_flag']]
        truth = InstanceData(
            bboxes=np.array([instance['bbox'] for instance in objects], np.float32).reshape(-1, 4),
            labels=np.array([instance['bbox_label'] for instance in objects], np.int64),
        )
        # The surest prediction is drawn last, so that no second guess hides it.
        sample = DetDataSample(gt_instances=truth, pred_instances=found[found.scores.argsort()])
        visualizer.add_datasample('pair', image, sample, pred_score_thr=score_thr, show=False)
        pairs.append(visualizer.get_image())
    return _sheet(pairs)


def _sheet(pictures: list[np.ndarray], gap: int = 6) -> np.ndarray:
    """Lay pictures out in ``COLUMNS`` columns on white."""
    height, width = (max(picture.shape[axis] for picture in pictures) + gap for axis in (0, 1))
    rows = -(-len(pictures) // COLUMNS)
    cells = np.full((rows, height, COLUMNS, width, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, COLUMNS)
        cells[row, : picture.shape[0], column, : picture.shape[1]] = picture
    return cells.reshape(rows * height, COLUMNS * width, 3)


def read_scalars(work_dir: str) -> list[dict]:
    """The figures that the last training of a work directory logged, over all its resumptions.

    A log that begins where an earlier one had already been replaces what that had from there on;
    one that begins where the first one did is another training.

    Raises:
        UserError: If there is no log of a training.
    """
    training: list[dict] = []
    evaluations: dict[int, dict] = {}
    for log in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        lines = log.read_text(encoding='utf-8').splitlines()
        entries = [json.loads(line) for line in lines if line]
        steps = [entry for entry in entries if 'loss' in entry]
        if not steps:
            continue  # of an evaluation
        if training and steps[0]['step'] <= training[0]['step']:
            training, evaluations = [], {}
        training = [entry for entry in training if entry['step'] < steps[0]['step']] + steps
        evaluations.update({entry['step']: entry for entry in entries if 'loss' not in entry})
    if not training:
        raise UserError(f'{work_dir} holds no log of a training run (*/vis_data/scalars.json).')
    return [*training, *evaluations.values()]


def draw_curves(entries: list[dict]) -> Figure:
    """Plot the loss by iteration, and AP, AP50 and AP75 by evaluation.

    Args:
        entries: What :func:`read_scalars` gave.
    """
    training = [entry for entry in entries if 'loss' in entry]
    evaluations = [entry for entry in entries if 'coco/bbox_mAP' in entry]
    by_epoch = any('epoch' in entry for entry in training)

    figure = Figure(figsize=(10, 4), layout='constrained')
    loss_axes, ap_axes = figure.subplots(1, 2)
    for name in sorted({key for entry in training for key in entry if key.startswith('loss')}):
        points = [(entry['step'], entry[name]) for entry in training if name in entry]
        loss_axes.plot(*zip(*points, strict=True), label=name, linewidth=2 if name == 'loss' else 1)
    loss_axes.set(xlabel='iteration', ylabel='loss', ylim=(0, None))
    loss_axes.legend()
    for name, label in (('mAP', 'AP'), ('mAP_50', 'AP50'), ('mAP_75', 'AP75')):
        points = [(e['step'], max(e.get(f'coco/bbox_{name}', 0), 0)) for e in evaluations]
        if points:
            ap_axes.plot(*zip(*points, strict=True), marker='o', label=label)
    ap_axes.set(xlabel='epoch' if by_epoch else 'iteration', ylabel='COCO AP', ylim=(0, 1))
    if evaluations:
        ap_axes.legend()
    for axes in (loss_axes, ap_axes):
        axes.grid(alpha=0.3)
    return figure
