"""Train a detector: ``python tools/train.py CONFIG``; see ``--help`` for the options."""

import argparse

from _command import add_common_arguments, run


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train a detector')
    parser.add_argument('config', help='config file')
    add_common_arguments(parser)
    parser.add_argument(
        '--epochs', type=int, metavar='N', help="train N epochs, the config's schedule scaled"
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        '--pretrained',
        metavar='FILE',
        help="begin with this file's backbone: a converted ImageNet checkpoint, or any detector's",
    )
    weights.add_argument(
        '--from-scratch',
        action='store_true',
        help='start from random weights: no pretrained file, normalisation statistics learn',
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--amp-dtype',
        choices=['auto', 'fp16', 'bf16'],
        help='automatic mixed precision in this type; auto, as --amp alone: fp16 on a GPU, bf16 on '
        'the CPU',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from this checkpoint; alone: the newest whole one of the work directory',
    )
    parser.add_argument(
        '--ema',
        action='store_true',
        help='average the weights over the training, evaluate and save the average',
    )
    parser.add_argument(
        '--ema-momentum',
        type=float,
        metavar='SHARE',
        help='average with this share of the new weights in each step; --ema alone: 0.0002',
    )
    parser.add_argument(
        '--skip-bad-images',
        action='store_true',
        help='skip unreadable images and list them at the end, instead of stopping',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate from the config's base batch size to the real one",
    )
    parser.add_argument(
        '--compile',
        action='store_true',
        help='compile the detector: takes minutes; for a GPU and images of one size',
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Train as the command line says."""
    from mmdet_mobileformer.launch.train import train  # takes seconds

    train(args)


if __name__ == '__main__':
    run(parse_args, main)
