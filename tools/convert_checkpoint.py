"""Convert ImageNet checkpoints from and to the authors' format; see ``--help``."""

import argparse

from _command import add_trust, run

VARIANTS = ('26m', '52m', '96m', '151m', '214m', '294m', '508m')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Convert an ImageNet checkpoint in the authors' format (.pth.tar; its variant "
        "is recognised) to one that this project's configs name, or back. Every key must fit."
    )
    parser.add_argument('source', nargs='?', metavar='SRC', help='checkpoint to read, as data only')
    parser.add_argument('destination', nargs='?', metavar='DST', help='checkpoint to write')
    parser.add_argument(
        '--to-official',
        action='store_true',
        help="go back: SRC is in this project's format, DST in the authors'",
    )
    parser.add_argument(
        '--ema', action='store_true', help='take the averaged weights where SRC has both'
    )
    parser.add_argument(
        '--download',
        choices=VARIANTS,
        metavar='VARIANT',
        help='fetch the published checkpoint of %(choices)s (needs gdown) instead of reading SRC, '
        'and convert it to checkpoints/mobile_former_VARIANT.pth, where the configs look for it',
    )
    add_trust(parser)
    args = parser.parse_args()
    if args.download:
        if args.source or args.to_official:
            parser.error('--download takes neither SRC, DST nor --to-official')
        args.source = f'checkpoints/mobile-former-{args.download}.pth.tar'
        args.destination = f'checkpoints/mobile_former_{args.download}.pth'
    elif not (args.source and args.destination):
        parser.error('name SRC and DST, or --download VARIANT')
    elif args.ema and args.to_official:
        parser.error('--ema does not go with --to-official')
    return args


def main(args: argparse.Namespace) -> None:
    """Download and convert as the command line says."""
    from mmdet_mobileformer.checkpoints import trust_files  # takes seconds
    from mmdet_mobileformer.released import convert

    trust_files(args.trust_checkpoint)
    if args.download:
        convert.download(args.download, args.source)
    if args.to_official:
        variant = convert.convert_to_official(args.source, args.destination)
        print(f"wrote {args.destination}: {variant} in the authors' format")
        return
    meta = convert.convert_checkpoint(args.source, args.destination, ema=args.ema)
    print(f'wrote {args.destination}: {meta["variant"]}')


if __name__ == '__main__':
    run(parse_args, main)
