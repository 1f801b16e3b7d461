"""Compare the speed of models: ``python tools/benchmark.py --models A B``; see ``--help``."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from _command import run

if TYPE_CHECKING:
    from mmdet_mobileformer.analysis.measure import Case

RUNTIMES = ('eager', 'channels-last', 'compiled', 'onnx', 'onnx-extended')


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
        description='Measure latency, throughput and memory of models in alternating order within '
        'one run. Names of models: mf-<arch>, retinanet-mf-<arch>, e2e-mf-<arch>, resnet50, '
        'mobilenetv2, pvtv2-b0, retinanet-r50, detr-r50 or a config file, with +fused, +plain '
        '(dynamic ReLU as max(a1 x, a2 x)), +spatial or +cp behind. Detectors are measured without '
        'post-processing.'
    )
    parser.add_argument('--models', nargs='+', required=True, help='names of models')
    parser.add_argument(
        '--runtimes',
        nargs='+',
        choices=RUNTIMES,
        default=['eager'],
        help='default eager; onnx-extended is ONNX Runtime without its blocked layout',
    )
    parser.add_argument(
        '--sizes', nargs='+', type=_size, default=[(800, 1280)], help='default 800x1280'
    )
    parser.add_argument('--batch-sizes', nargs='+', type=_positive, default=[1], help='default 1')
    parser.add_argument('--threads', nargs='+', type=_positive, help='default: all cores')
    parser.add_argument(
        '--dtypes',
        nargs='+',
        choices=['fp32', 'bf16', 'fp16'],
        default=['fp32'],
        help='default fp32; with --training the others are automatic mixed precision',
    )
    parser.add_argument(
        '--training', action='store_true', help='measure forward and backward passes instead'
    )
    parser.add_argument(
        '--rounds', type=_positive, default=15, help='runs of each case (default %(default)s)'
    )
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument(
        '--system-memory',
        action='store_true',
        help='return freed memory to the system, as Python does without this project',
    )
    parser.add_argument('--out-dir', help='folder for benchmark.json and benchmark.png')
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Measure and report."""
    import torch  # takes seconds, as what follows
    from mmdet.utils import register_all_modules

    from mmdet_mobileformer.analysis import measure, report
    from mmdet_mobileformer.errors import UserError
    from mmdet_mobileformer.launch.cpu_memory import keep_freed_memory

    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda needs a GPU that torch can use; leave it out.')
    kept = not args.system_memory and keep_freed_memory()
    register_all_modules()
    threads = args.threads or [measure.default_threads()]
    cases = measure.all_cases(
        args.models,
        args.runtimes,
        args.sizes,
        args.batch_sizes,
        threads,
        args.dtypes,
        args.training,
        args.device,
    )
    rates = {count: measure.sgemm_rate(args.device, count) for count in threads}
    measure.measure(cases, args.rounds, args.device, lambda text: print(text, file=sys.stderr))
    rows = [case.summary(rates[case.threads], _first(cases, case)) for case in cases]

    about = report.machine(args.device, rates) | {'freed_memory': 'kept' if kept else 'returned'}
    print(json.dumps(about))
    print(report.table(rows))
    for line in report.growth(rows):
        print(line)
    if args.out_dir:
        folder = Path(args.out_dir)
        folder.mkdir(parents=True, exist_ok=True)
        report.write_json(folder / 'benchmark.json', about, rows)
        report.draw(folder / 'benchmark.png', about, rows)
        print(f'wrote {folder}/benchmark.json and {folder}/benchmark.png')


def _first(cases: list[Case], case: Case) -> Case:
    """The first case of the same size, batch, threads and dtype, whatever its runtime."""
    return next(
        other
        for other in cases
        if (other.height, other.width, other.batch, other.threads, other.dtype)
        == (case.height, case.width, case.batch, case.threads, case.dtype)
    )


if __name__ == '__main__':
    run(parse_args, main)
