"""Draw who reads what: ``python tools/show_attention.py WORK_DIR IMAGE``; see ``--help``."""

import argparse

from _command import add_cfg_options, add_trust, run


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        usage='%(prog)s [options] (WORK_DIR | CONFIG CHECKPOINT) IMAGE',
        description='Draw what the tokens of a trained detector read in an image, block by block, '
        'which token each pixel takes, and for the end-to-end detector where the query of each of '
        'the best detections looked and how its box moved',
    )
    parser.add_argument(
        'run',
        nargs='+',
        help='work directory of a training, or config and checkpoint; then an image',
    )
    parser.add_argument(
        '--out-dir', default='attention', help='folder of the pictures (default %(default)s)'
    )
    parser.add_argument(
        '--num-detections',
        type=int,
        default=5,
        metavar='N',
        help='detections of the end-to-end detector to follow (default %(default)s)',
    )
    add_trust(parser)
    add_cfg_options(parser)
    args = parser.parse_intermixed_args()
    *args.run, args.image = args.run
    return args


def main(args: argparse.Namespace) -> None:
    """Run the detector once, and draw."""
    from mmdet_mobileformer.analysis.show_attention import show_attention  # takes seconds

    show_attention(args)


if __name__ == '__main__':
    run(parse_args, main)
