"""Compare exported files with PyTorch: ``python tools/check_exports.py [CONFIG ...]``."""

import argparse
from pathlib import Path

from _command import add_cfg_options, run

ROOT = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Export detectors with random weights, and compare each file with PyTorch at '
        "the size of the config's test images, at half of it and at 1.25 times, lying and upright"
    )
    parser.add_argument(
        'configs',
        nargs='*',
        metavar='CONFIG',
        default=sorted(map(str, ROOT.glob('configs/*_mf*.py'))),
        help='default: every detector in configs/',
    )
    add_cfg_options(parser)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Check as the command line says."""
    from mmdet_mobileformer.launch.check_exports import check_exports  # takes seconds

    check_exports(args)


if __name__ == '__main__':
    run(parse_args, main)
