"""How every tool begins: threads that hold on a busy machine, the command line, then the imports.

torch and mmdet take seconds to import. So a tool reads its command line first, and imports what it
needs inside its ``main``. Importing this module sets the environment of torch's threads, which
torch reads when it is imported.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from mmengine.config import DictAction  # without torch

_WAITING = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME', 'KMP_LIBRARY')
# Turns that a waiting thread of GNU's OpenMP, torch's on Linux, spins before it sleeps: enough for
# the pause between two layers. Left alone it takes 300,000; "passive" means none.
_SPINS = '30000'
_SEVERAL = ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE')


def run(parse_args: Callable[[], argparse.Namespace], main: Callable[..., None]) -> None:
    """Run a tool: its command line, then ``main`` with it, whose errors of the user are sentences.

    Raises:
        SystemExit: With code 2 after such an error, with 130 after Ctrl-C.
    """
    args = parse_args()
    try:
        from mmdet_mobileformer.errors import run_tool  # takes seconds

        run_tool(lambda: main(args))
    except KeyboardInterrupt:
        print(f'{os.path.basename(sys.argv[0])}: ended by Ctrl-C', file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


def set_threads() -> None:
    """Let threads that wait soon sleep, and take no more of them than this process has cores.

    Threads that spin while they wait take the time of those that they wait for as soon as other
    processes want the cores too; threads that sleep at once wake up late on a quiet machine
    (docs/benchmarks.md). What the environment says already stays.
    torch knows on which cores the process may run, but not a container's share of time (cgroup),
    so where that is less, it decides here. Where there are several processes, their launcher does.
    """
    if not any(name in os.environ for name in _WAITING):
        os.environ['OMP_WAIT_POLICY'] = 'passive'
        os.environ['GOMP_SPINCOUNT'] = _SPINS
    several = any(int(os.environ.get(name) or 1) > 1 for name in _SEVERAL)
    share = cgroup_cores()
    if 'OMP_NUM_THREADS' not in os.environ and not several and share < usable_cores():
        os.environ['OMP_NUM_THREADS'] = str(share)


def usable_cores() -> int:
    """Cores on which this process may run."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_cores(root: str = '/sys/fs/cgroup') -> float:
    """Cores' worth of time that this process's container gives it, at least 1; else infinity."""
    for name in ('cpu.max', 'cpu/cpu.cfs_quota_us'):  # of version 2 and 1
        path = Path(root) / name
        try:
            words = path.read_text().split()
            if len(words) == 1:
                words += path.with_name('cpu.cfs_period_us').read_text().split()
            quota, period = map(int, words)
        except (OSError, ValueError):  # none, or "max"
            continue
        return max(1, math.ceil(quota / period)) if quota > 0 else math.inf
    return math.inf


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that replace those of the config, as key=value; lists as key="[a,b]" or '
        'key=a,b, nested ones as key="[(a,b),(c,d)]", without blanks',
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-checkpoint``."""
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='load checkpoints that can execute code; only for your own old files',
    )


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that training and testing share."""
    parser.add_argument(
        '--work-dir',
        help='folder for logs and results; default work_dirs/<config>, with --data-root '
        "work_dirs/<config>-<folder's name>",
    )
    parser.add_argument(
        '--data-root',
        help='folder in COCO format that replaces the data of every loader and evaluator: '
        'annotations/instances_{train,val}2017.json, train2017/, val2017/; or as Roboflow writes '
        'it, {train,valid,test}/_annotations.coco.json among the images',
    )
    parser.add_argument(
        '--classes', choices=['auto'], help='take the categories from the data, not the config'
    )
    parser.add_argument('--classwise', action='store_true', help='report the AP of each class too')
    add_cfg_options(parser)
    add_trust(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='who starts the processes',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


set_threads()
