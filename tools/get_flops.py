"""Print parameters and MACs of a detector: ``python tools/get_flops.py CONFIG``."""

import argparse

from _command import add_cfg_options, run


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Print parameters and multiply-accumulates (MACs) of backbone, neck, head and '
        'total for one image; the products inside attention count.'
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        default=(800, 1344),
        help='pixels of the padded image; default 800 1344, which 800x1333 is padded to',
    )
    add_cfg_options(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Count and print."""
    from mmdet.registry import MODELS  # takes seconds

    from mmdet_mobileformer.analysis.complexity import count_cost
    from mmdet_mobileformer.errors import UserError
    from mmdet_mobileformer.launch.config import load_config

    height, width = args.shape
    if min(height, width) < 32:
        raise UserError(f'--shape {height} {width} is too small; give at least 32 pixels a side.')
    detector = MODELS.build(load_config(args).model)
    costs = count_cost(detector, height, width)
    print(f'{type(detector).__name__} at {height}x{width}')
    print(f'{"":10}{"params (M)":>12}{"MACs (G)":>12}')
    for part, cost in costs.items():
        print(f'{part:10}{cost.params / 1e6:12.3f}{cost.macs / 1e9:12.3f}')


if __name__ == '__main__':
    run(parse_args, main)
