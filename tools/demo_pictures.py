"""Pictures of a run: ``python tools/demo_pictures.py WORK_DIR PREDICTIONS.pkl``; see ``--help``."""

import argparse
from pathlib import Path

from _command import add_cfg_options, run


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Draw predictions beside ground truth, and the curves of loss and AP'
    )
    parser.add_argument('work_dir', help='work directory of the training')
    parser.add_argument('predictions', help='file that tools/test.py --out wrote')
    parser.add_argument('--data-root', help='folder of the data, where it was replaced for testing')
    parser.add_argument('--out-dir', help='folder of the pictures (default WORK_DIR/pictures)')
    parser.add_argument(
        '--num-images', type=int, default=12, help='images to draw (default %(default)s)'
    )
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='lowest drawn score (default %(default)s)'
    )
    add_cfg_options(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Draw as the command line says."""
    import cv2  # with what follows it takes seconds
    from mmengine.fileio import load

    from mmdet_mobileformer.analysis import pictures
    from mmdet_mobileformer.launch.config import load_config
    from mmdet_mobileformer.launch.data_flags import set_data_root
    from mmdet_mobileformer.launch.work_dir import find_run

    args.config, _ = find_run([args.work_dir])
    cfg = load_config(args)
    if args.data_root:
        set_data_root(cfg, args.data_root)
    entries = pictures.read_scalars(args.work_dir)
    predictions = load(args.predictions)
    folder = Path(args.out_dir or Path(args.work_dir) / 'pictures')
    folder.mkdir(parents=True, exist_ok=True)

    sheet = pictures.draw_predictions(cfg, predictions, args.num_images, args.score_thr)
    cv2.imwrite(str(folder / 'predictions.png'), sheet[..., ::-1])
    pictures.draw_curves(entries).savefig(folder / 'curves.png', dpi=120)
    print(f'{folder / "predictions.png"}: ground truth on the left, predictions on the right')
    print(f'{folder / "curves.png"}: loss and AP of the training in {args.work_dir}')


if __name__ == '__main__':
    run(parse_args, main)
