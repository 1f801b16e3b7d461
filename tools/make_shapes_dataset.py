"""Write the rendered shapes: ``python tools/make_shapes_dataset.py``; see ``--help``."""

import argparse
import re

from _command import run


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d+)[xX×](\d+)', text)
    if not match:
        raise argparse.ArgumentTypeError(f'{text!r} is no size; write WIDTHxHEIGHT, as in 320x240')
    return int(match[1]), int(match[2])


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Write a data set of rendered shapes in COCO layout; the same options give the '
        'same set'
    )
    parser.add_argument(
        '--out', default='data/shapes', help='folder of the set (default %(default)s)'
    )
    parser.add_argument(
        '--num-train',
        type=int,
        default=400,
        help='training images (default %(default)s)',
    )
    parser.add_argument(
        '--num-val',
        type=int,
        default=100,
        help='validation images (default %(default)s)',
    )
    parser.add_argument(
        '--size',
        type=_size,
        default=(320, 240),
        metavar='WIDTHxHEIGHT',
        help='image size in pixels (default 320x240)',
    )
    parser.add_argument('--seed', type=int, default=0, help='default %(default)s')
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Write the set, or find that it is there."""
    from mmdet_mobileformer.datasets import ShapesSpec, write_shapes_dataset  # takes seconds
    from mmdet_mobileformer.errors import UserError

    try:
        spec = ShapesSpec(args.num_train, args.num_val, *args.size, args.seed)
        written = write_shapes_dataset(args.out, spec)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    images = f'{spec.num_train} training and {spec.num_val} validation images'
    if written:
        print(f'wrote {images} to {args.out}')
    else:
        print(f'{args.out} already holds these {images}: nothing to do')


if __name__ == '__main__':
    run(parse_args, main)
