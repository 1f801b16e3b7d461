"""Evaluate a detector: ``python tools/test.py WORK_DIR`` or ``... CONFIG CHECKPOINT``."""

import argparse

from _command import add_common_arguments, run


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Evaluate a detector')
    parser.add_argument('config', help='work directory of a training, or config file')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='checkpoint file, or FILE.onnx that tools/export_onnx.py wrote; default: the best '
        'checkpoint of the work directory, else its newest',
    )
    add_common_arguments(parser)
    parser.add_argument('--out', metavar='FILE.pkl', help='write all predictions to this file')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument(
        '--show-dir',
        help='write pictures of predictions beside ground truth to this folder, inside '
        '<work-dir>/<time> unless absolute',
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that --show waits at each picture'
    )
    parser.add_argument(
        '--skip-bad-images',
        action='store_true',
        help='treat unreadable images as empty and list them, instead of stopping',
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument(
        '--fuse', action='store_true', help='fold the norms into the convolutions, which is faster'
    )
    parser.add_argument(
        '--compile', action='store_true', help='compile the detector, which takes a minute or more'
    )
    return parser.parse_intermixed_args()  # options may stand between config and checkpoint


def main(args: argparse.Namespace) -> None:
    """Evaluate as the command line says."""
    from mmdet_mobileformer.launch.test import test  # takes seconds

    test(args)


if __name__ == '__main__':
    run(parse_args, main)
