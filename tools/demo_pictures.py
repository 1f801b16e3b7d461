"""Pictures of a run: ``python tools/demo_pictures.py CONFIG PREDICTIONS.pkl``; see ``--help``."""

import argparse
import json
import os
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from mmdet.registry import DATASETS, VISUALIZERS
from mmdet.structures import DetDataSample
from mmengine.config import Config, DictAction
from mmengine.fileio import load
from mmengine.structures import InstanceData

from mmdet_mobileformer.errors import UserError, run_tool
from mmdet_mobileformer.launch.arguments import load_config
from mmdet_mobileformer.launch.data_flags import set_data_root

COLUMNS = 2  # pairs of pictures side by side


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Draw predictions beside ground truth, and the curves of loss and AP'
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('predictions', help='file that tools/test.py --out wrote')
    parser.add_argument('--work-dir', help='folder of the training run; default work_dirs/<config>')
    parser.add_argument(
        '--data-root', help='folder in COCO layout, where it was replaced for testing'
    )
    parser.add_argument('--out-dir', help='folder of the pictures (default <work-dir>/pictures)')
    parser.add_argument(
        '--num-images', type=int, default=12, help='images to draw (default %(default)s)'
    )
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='lowest drawn score (default %(default)s)'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that replace those of the config',
    )
    return parser.parse_args()


def load_predictions(path: str) -> list[dict]:
    """Read what ``tools/test.py --out`` wrote: one dict an image.

    Raises:
        UserError: If the file does not exist or holds something else.
    """
    if not os.path.isfile(path):
        raise UserError(f'the predictions {path} do not exist; write them by tools/test.py --out.')
    predictions = load(path)
    if not (
        isinstance(predictions, list)
        and predictions
        and all(isinstance(p, dict) and {'img_id', 'pred_instances'} <= set(p) for p in predictions)
    ):
        raise UserError(f'{path} holds no predictions; write them by tools/test.py --out.')
    return predictions


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

    Raises:
        UserError: If the predictions are for other images than those of the data set.
    """
    dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, pipeline=[]))
    indices = {dataset.get_data_info(i)['img_id']: i for i in range(len(dataset))}
    visualizer = VISUALIZERS.build(dict(type='DetLocalVisualizer', name='pictures'))
    visualizer.dataset_meta = dataset.metainfo
    chosen = np.linspace(0, len(predictions) - 1, min(num_images, len(predictions))).astype(int)
    pairs = []
    for prediction in (predictions[i] for i in chosen):
        if prediction['img_id'] not in indices:
            raise UserError(
                f'the predictions are for an image with id {prediction["img_id"]}, which is not in '
                f'the data of {cfg.filename}; test with the same config and --data-root.'
            )
        info = dataset.get_data_info(indices[prediction['img_id']])
        image = cv2.imread(info['img_path'])
        if image is None:
            raise UserError(f'the image {info["img_path"]} cannot be read.')
        found = InstanceData(**prediction['pred_instances'])
        sample = DetDataSample(
            gt_instances=_ground_truth(info),
            # the surest last, so that no second guess hides it
            pred_instances=found[found.scores.argsort()],
        )
        visualizer.add_datasample(
            'pair', image[..., ::-1].copy(), sample, pred_score_thr=score_thr, show=False
        )
        pairs.append(visualizer.get_image())
    return _sheet(pairs)


def _ground_truth(info: dict) -> InstanceData:
    objects = [instance for instance in info['instances'] if not instance['ignore_flag']]
    return InstanceData(
        bboxes=np.array([instance['bbox'] for instance in objects], np.float32).reshape(-1, 4),
        labels=np.array([instance['bbox_label'] for instance in objects], np.int64),
    )


def _sheet(pictures: list[np.ndarray], gap: int = 6) -> np.ndarray:
    """Lay pictures out in ``COLUMNS`` columns on white."""
    height = max(picture.shape[0] for picture in pictures) + gap
    width = max(picture.shape[1] for picture in pictures) + gap
    rows = -(-len(pictures) // COLUMNS)
    sheet = np.full((rows * height, min(COLUMNS, len(pictures)) * width, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // COLUMNS * height, i % COLUMNS * width
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def find_scalars(work_dir: str) -> Path:
    """The newest log of figures of a training run inside a work directory.

    Raises:
        UserError: If there is none.
    """
    logs = sorted(Path(work_dir).glob('*/vis_data/scalars.json'), reverse=True)
    for log in logs:
        if any('loss' in entry for entry in _entries(log)):
            return log
    raise UserError(
        f'{work_dir} holds no log of a training run (*/vis_data/scalars.json); '
        'name the folder of the training by --work-dir.'
    )


def _entries(log: Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text(encoding='utf-8').splitlines() if line]


def draw_curves(log: Path) -> Figure:
    """Plot the loss by iteration, and AP, AP50 and AP75 by evaluation."""
    entries = _entries(log)
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


def main() -> None:
    """Draw as the command line says."""
    args = parse_args()
    if args.num_images < 1:
        raise UserError(f'--num-images {args.num_images} must be at least 1.')
    cfg = load_config(args)
    if args.data_root:
        set_data_root(cfg, args.data_root)
    work_dir = args.work_dir or os.path.join('work_dirs', Path(args.config).stem)
    log = find_scalars(work_dir)
    predictions = load_predictions(args.predictions)
    folder = Path(args.out_dir or os.path.join(work_dir, 'pictures'))
    folder.mkdir(parents=True, exist_ok=True)

    sheet = draw_predictions(cfg, predictions, args.num_images, args.score_thr)
    cv2.imwrite(str(folder / 'predictions.png'), sheet[..., ::-1])
    draw_curves(log).savefig(folder / 'curves.png', dpi=120)
    print(f'{folder / "predictions.png"}: ground truth on the left, predictions on the right')
    print(f'{folder / "curves.png"}: loss and AP of {log}')


if __name__ == '__main__':
    run_tool(main)
