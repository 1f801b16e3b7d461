"""Measure what waiting threads cost beside busy processes: ``python tools/dev/busy_machine.py``.

A loop of depthwise and pointwise convolutions is timed in processes of their own, alternately with
threads that spin while they wait (what OpenMP does by itself), that sleep at once
(``OMP_WAIT_POLICY=passive``), and that spin briefly before they sleep (as the tools set it), with
and without busy neighbours.
"""

import argparse
import os
import statistics
import subprocess
import sys

LOOP = """
import time, torch
from torch import nn
layers = [nn.Sequential(nn.Conv2d(96, 96, 3, padding=1, groups=96), nn.Conv2d(96, 96, 1)) for _ in range(20)]
model, image = nn.Sequential(*layers), torch.randn(1, 96, 40, 40)
with torch.inference_mode():
    model(image)
    begin = time.perf_counter()
    for _ in range(10):
        model(image)
print(time.perf_counter() - begin)
"""  # noqa: E501
CASES = {
    'spinning': dict(OMP_WAIT_POLICY='', GOMP_SPINCOUNT=''),
    'sleeping': dict(OMP_WAIT_POLICY='passive', GOMP_SPINCOUNT=''),
    'briefly': dict(OMP_WAIT_POLICY='passive', GOMP_SPINCOUNT='30000'),
    'one thread': dict(OMP_NUM_THREADS='1'),
}


def measure(settings: dict[str, str], threads: int) -> float:
    """Seconds of the loop in a process with these settings of its environment."""
    env = {**os.environ, 'OMP_NUM_THREADS': str(threads), **settings}
    env = {name: value for name, value in env.items() if value}
    done = subprocess.run(
        [sys.executable, '-c', LOOP], env=env, check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--rounds', type=int, default=5, help='default %(default)s')
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='default: all cores')
    parser.add_argument(
        '--neighbours', type=int, nargs='+', default=[0, 4], help='busy processes; default 0 4'
    )
    args = parser.parse_args()
    print('neighbours  load  ' + '  '.join(f'{case:>10}' for case in CASES) + '   (median seconds)')
    for count in args.neighbours:
        busy = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(count)]
        try:
            times = [
                [measure(settings, args.threads) for settings in CASES.values()]
                for _ in range(args.rounds)
            ]
        finally:
            for process in busy:
                process.kill()
                process.wait()
        medians = [statistics.median(column) for column in zip(*times, strict=True)]
        load = os.getloadavg()[0]
        print(f'{count:10}  {load:4.1f}  ' + '  '.join(f'{value:10.2f}' for value in medians))


if __name__ == '__main__':
    main()
