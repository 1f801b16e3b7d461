"""Write a detector as an ONNX file: ``python tools/export_onnx.py WORK_DIR OUT.onnx``."""

import argparse

from _command import add_cfg_options, add_trust, run


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Export a detector with its post-processing to ONNX, then compare the file '
        'with PyTorch on images of several sizes and on a padded batch; a file that differs is '
        'removed',
        usage='%(prog)s [options] {WORK_DIR | CONFIG CHECKPOINT} OUT.onnx',
    )
    parser.add_argument(
        'words',
        nargs='+',
        metavar='WORD',
        help='the detector: work directory of a training, or CONFIG CHECKPOINT; then the file to '
        'write',
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument('--fp16', action='store_true', help='store the weights in 16 bits')
    weights.add_argument(
        '--int8',
        action='store_true',
        help='write OUT.int8.onnx too, its convolutions quantised with training images; evaluates '
        'both files and prints the AP that it costs',
    )
    parser.add_argument(
        '--calibration-images',
        type=int,
        default=100,
        metavar='N',
        help='training images that --int8 takes its ranges from; default %(default)s',
    )
    parser.add_argument('--data-root', help='as in tools/test.py')
    parser.add_argument('--fuse', action='store_true', help='fold the norms into the convolutions')
    parser.add_argument(
        '--images',
        nargs='+',
        metavar='IMAGE',
        help="images to compare on; default: the first ones of the config's test set",
    )
    parser.add_argument(
        '--tolerance',
        nargs=2,
        type=float,
        metavar=('PIXELS', 'SCORE'),
        help='largest difference of boxes and scores; default 0.1 0.001, with --fp16 5 0.05',
    )
    add_trust(parser)
    add_cfg_options(parser)
    return parser.parse_intermixed_args()


def main(args: argparse.Namespace) -> None:
    """Export as the command line says."""
    from mmdet_mobileformer.launch.export import export  # takes seconds

    export(args)


if __name__ == '__main__':
    run(parse_args, main)
