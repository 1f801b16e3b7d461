"""Detect in pictures or a video: ``python tools/predict.py WORK_DIR PICTURES``; see ``--help``."""

import argparse

from _command import add_cfg_options, add_trust, run


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Detect objects, draw labelled boxes and write the detections',
        usage='%(prog)s [options] {WORK_DIR | CONFIG CHECKPOINT | FILE.onnx} INPUT [INPUT ...]',
    )
    parser.add_argument(
        'words',
        nargs='+',
        metavar='WORD',
        help='the detector: work directory of a training, CONFIG CHECKPOINT, or a file that '
        'tools/export_onnx.py wrote; then a picture, a folder, a pattern, a video file or the '
        'number of a camera (which ends with Ctrl-C)',
    )
    parser.add_argument(
        '--out-dir', help='folder of the drawn pictures or the video; default predictions'
    )
    parser.add_argument(
        '--json',
        metavar='FILE',
        help="write all detections in COCO's format of results; draws nothing without --out-dir",
    )
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='lowest drawn score; default %(default)s'
    )
    parser.add_argument('--classes', metavar='A,B', help='keep detections of these classes alone')
    parser.add_argument(
        '--batch-size', type=int, default=1, help='images computed at once; default %(default)s'
    )
    parser.add_argument('--device', help='cpu, cuda, cuda:1; default: cuda where there is one')
    add_cfg_options(parser)
    add_trust(parser)
    return parser.parse_intermixed_args()


def main(args: argparse.Namespace) -> None:
    """Detect as the command line says."""
    from mmdet_mobileformer.launch.predict import predict  # takes seconds

    predict(args)


if __name__ == '__main__':
    run(parse_args, main)
