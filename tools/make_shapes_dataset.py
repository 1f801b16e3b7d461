"""Write the rendered shapes: ``python tools/make_shapes_dataset.py``; see ``--help``."""

import argparse
import re

from mmdet_mobileformer.datasets import ShapesSpec, write_shapes_dataset
from mmdet_mobileformer.errors import UserError, run_tool


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d+)[xX×](\d+)', text)
    if not match:
        raise argparse.ArgumentTypeError(f'{text!r} is no size; write WIDTHxHEIGHT, as in 320x240')
    return int(match[1]), int(match[2])


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    default = ShapesSpec()
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
        default=default.num_train,
        help='training images (default %(default)s)',
    )
    parser.add_argument(
        '--num-val',
        type=int,
        default=default.num_val,
        help='validation images (default %(default)s)',
    )
    parser.add_argument(
        '--size',
        type=_size,
        default=(default.width, default.height),
        metavar='WIDTHxHEIGHT',
        help=f'image size in pixels (default {default.width}x{default.height})',
    )
    parser.add_argument('--seed', type=int, default=default.seed, help='default %(default)s')
    return parser.parse_args()


def main() -> None:
    """Write the set, or find that it is there."""
    args = parse_args()
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
    run_tool(main)
