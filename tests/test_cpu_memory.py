"""How the tools prepare a CPU: freed memory is kept unless the user decides, tiny numbers are 0."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from mmdet_mobileformer.launch.cpu_memory import keep_freed_memory, release_freed_memory
def faults_of_a_map():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(9 * 2**20)  # 36 MB, more than malloc keeps of itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
kept = sys.argv[1] == 'keep' and keep_freed_memory()
# A few bytes in front of an aligned map may go to malloc's cache of small chunks and leave a hole
# too small for the next map, until that cache is full: up to twelve times in a row were seen.
later = min(faults_of_a_map() for _ in range(40))
release_freed_memory()
print(kept, later, faults_of_a_map())
"""


def run(mode, **environ):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(('MALLOC_', 'THP_', 'GLIBC_'))}
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM, mode],
        env={**clean, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, later, after_release = done.stdout.splitlines()[-1].split()
    return kept == 'True', int(later), int(after_release)


def test_later_maps_ask_the_system_for_nothing():
    kept, later, after_release = run('keep')
    assert kept == (platform.libc_ver()[0] == 'glibc')  # another malloc is left alone
    if not kept:
        return
    _, from_system, _ = run('system')
    assert later < 16 < from_system
    assert after_release > later  # it had gone back


@pytest.mark.parametrize(
    ('name', 'value'),
    [('MALLOC_TRIM_THRESHOLD_', '131072'), ('GLIBC_TUNABLES', 'glibc.malloc.arena_max=2')],
)
def test_the_environment_of_the_user_wins(name, value):
    assert run('keep', **{name: value})[0] is False


def test_every_thread_of_a_tool_takes_numbers_below_normal_ones_as_zero(tmp_path):
    (tmp_path / 'config.py').write_text('')
    program = """
import argparse, sys, torch
from mmdet_mobileformer.launch.config import load_config
torch.set_num_threads(2)
load_config(argparse.Namespace(config=sys.argv[1], cfg_options=None))
small = torch.full((2**20,), 1e-30)
print(int((small * 1e-10).count_nonzero()), torch.set_flush_denormal(True))
"""
    command = [sys.executable, '-c', program, str(tmp_path / 'config.py')]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    left, supported = done.stdout.splitlines()[-1].split()
    assert (left == '0') == (supported == 'True')
