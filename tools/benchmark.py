"""Compare the speed of models: ``python tools/benchmark.py --models A B``; see ``--help``."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _command import run, usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmdet_mobileformer.analysis.measure import Case

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
        description='Measure latency, throughput and memory of models in alternating order within '
        'one run. Names of models: mf-<arch>, retinanet-mf-<arch>, e2e-mf-<arch>, '
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
        '--runtimes',
        nargs='+',
        choices=RUNTIMES,
        default=['eager'],
        help='default eager',
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
        '--rounds', type=_positive, default=9, help='runs of each case (default %(default)s)'
    )
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument(
        '--system-memory',
        action='store_true',
        help='return freed memory to the system, as Python does without this project',
    )
    parser.add_argument('--out-dir', help='folder for the results as JSON and as a picture')
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Measure and report."""
    import torch  # takes seconds, as what follows
    from mmdet.utils import register_all_modules

    from mmdet_mobileformer.analysis import headline, measure, report
    from mmdet_mobileformer.errors import UserError
    from mmdet_mobileformer.launch.cpu_memory import keep_freed_memory

    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda needs a GPU that torch can use; leave it out.')
    kept = not args.system_memory and keep_freed_memory()
    register_all_modules()
    threads = args.threads or [usable_cores()]
    rates = {count: measure.sgemm_rate(args.device, count) for count in threads}
    about = report.machine(args.device, rates) | {'freed_memory': 'kept' if kept else 'returned'}
    print(json.dumps(about))
    if args.headline:
        for count in threads:
            rows = headline.compare(
                headline.COMPARISONS, count, args.rounds, rates[count], _progress
            )
            print(f'{count} threads\n{headline.table(rows)}')
            _write(args.out_dir, f'headline_{count}', about, rows, headline.draw)
        return
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
    measure.measure(cases, args.rounds, args.device, _progress)
    rows = [case.summary(rates[case.threads], _first(cases, case)) for case in cases]
    print(report.table(rows))
    _write(args.out_dir, 'benchmark', about, rows, report.draw)


def _progress(text: str) -> None:
    print(text, file=sys.stderr)


def _write(
    out_dir: str | None,
    name: str,
    about: dict[str, Any],
    rows: list[dict[str, Any]],
    draw: Callable[[Path, dict[str, Any], list[dict[str, Any]]], None],
) -> None:
    """Write NAME.json and NAME.png into the folder, if one was asked for."""
    if out_dir is None:
        return
    from mmdet_mobileformer.analysis.report import write_json

    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f'{name}.json', about, rows)
    draw(folder / f'{name}.png', about, rows)
    print(f'wrote {folder}/{name}.json and {folder}/{name}.png')


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
