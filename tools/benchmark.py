"""Compare the speed of models: ``python tools/benchmark.py --models A B``; see ``--help``."""

import argparse
import json
import re
from pathlib import Path

from _command import run, usable_cores

RUNTIMES = ('eager', 'compiled', 'onnx')


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'(\d+)[xX×](\d+)', text)
    if not match or min(int(match[1]), int(match[2])) < 32:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no size; write HEIGHTxWIDTH of at least 32 pixels each, as in 800x1280'
        )
    return int(match[1]), int(match[2])


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no positive number')
    return int(text)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Measure latency, throughput and memory of models in alternating '
        'order within one run. Names of models: mf-<arch>, retinanet-mf-<arch>, e2e-mf-<arch>, '
        'anchored-mf-<arch>, resnet50, mobilenetv2, pvtv2-b0, retinanet-r50, detr-r50 or a config '
        "file, with +fused (norms folded), +released (the released code's form), +spatial or +cp "
        'behind. Detectors are measured without post-processing.'
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--models', nargs='+', help='names of models')
    what.add_argument(
        '--headline',
        action='store_true',
        help='the table that docs/benchmarks.md opens with: each model beside its peer, on the CPU',
    )
    parser.add_argument(
        '--runtimes', nargs='+', choices=RUNTIMES, default=['eager'], help='default eager'
    )
    parser.add_argument(
        '--size', '--sizes', type=_size, default=(800, 1280), help='default 800x1280'
    )
    parser.add_argument(
        '--batch-size', '--batch-sizes', type=_positive, default=1, help='default %(default)s'
    )
    parser.add_argument(
        '--threads', type=_positive, default=usable_cores(), help='default: all cores'
    )
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu', help='default cpu')
    parser.add_argument(
        '--dtype',
        choices=['float32', 'float16', 'bfloat16'],
        default='float32',
        help='16 bits are automatic mixed precision; default float32',
    )
    parser.add_argument(
        '--training', action='store_true', help='measure forward and backward passes instead'
    )
    parser.add_argument(
        '--rounds', type=_positive, default=9, help='runs of each case (default %(default)s)'
    )
    parser.add_argument(
        '--system-memory',
        action='store_true',
        help='return freed memory to the system, as Python does without this project',
    )
    parser.add_argument(
        '--out-dir', help='folder for the results as JSON, and with --headline as a picture'
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Measure and report."""
    import torch  # takes seconds, as what follows
    from mmdet.utils import register_all_modules

    from mmdet_mobileformer.analysis import headline, measure, report
    from mmdet_mobileformer.launch.cpu_memory import keep_freed_memory

    kept = not args.system_memory and keep_freed_memory()
    torch.set_flush_denormal(True)  # as load_config does
    register_all_modules()
    rate = measure.sgemm_rate(args.device, args.threads)
    about = report.machine(args.device, rate) | {'freed_memory': 'kept' if kept else 'returned'}
    print(json.dumps(about))
    if args.headline:
        rows = headline.compare(headline.COMPARISONS, args.threads, args.rounds, rate)
        print(f'{args.threads} threads\n{headline.table(rows)}')
    else:
        height, width = args.size
        shared = dict(height=height, width=width, batch=args.batch_size, training=args.training)
        shared.update(device=args.device, dtype=args.dtype)
        cases = [
            measure.Case(model, args.threads, runtime, **shared)
            for runtime in args.runtimes
            for model in args.models
        ]
        measure.measure(cases, args.rounds)
        rows = [case.summary(rate, cases[0]) for case in cases]
        print(f'{height}×{width}, batch {args.batch_size}, {args.threads} threads')
        print(report.table(rows))
    if args.out_dir:
        folder = Path(args.out_dir)
        folder.mkdir(parents=True, exist_ok=True)
        name = f'headline_{args.threads}' if args.headline else 'benchmark'
        content = json.dumps(dict(machine=about, results=rows), indent=1)
        (folder / f'{name}.json').write_text(content)
        if args.headline:
            headline.draw(folder / f'{name}.png', about['device'], rows)
        print(f'wrote {name} to {folder}')


if __name__ == '__main__':
    run(parse_args, main)
