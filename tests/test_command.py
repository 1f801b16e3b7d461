"""How tools begin: the environment of their threads, and what they import before they answer."""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import _command
import pytest

TOOLS = Path(__file__).parents[1] / 'tools'


@pytest.fixture
def environment(monkeypatch):
    """An environment of which nothing is set, on a machine of two cores without a container."""
    environment = {}
    monkeypatch.setattr(_command, 'os', SimpleNamespace(environ=environment))
    monkeypatch.setattr(_command, 'usable_cores', lambda: 2)
    monkeypatch.setattr(_command, 'cgroup_cores', lambda: math.inf)
    return environment


def test_waiting_threads_sleep(environment):
    _command.set_threads()
    assert environment == {'OMP_WAIT_POLICY': 'passive', 'GOMP_SPINCOUNT': '30000'}


@pytest.mark.parametrize('name', ['OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME'])
def test_what_the_user_set_stays(environment, monkeypatch, name):
    environment.update({name: '7', 'OMP_NUM_THREADS': '5'})
    monkeypatch.setattr(_command, 'cgroup_cores', lambda: 1)
    _command.set_threads()
    assert environment == {name: '7', 'OMP_NUM_THREADS': '5'}


@pytest.mark.parametrize(('processes', 'threads'), [('1', '1'), ('2', None)])
def test_a_container_limits_the_threads_of_a_process_alone(
    environment, monkeypatch, processes, threads
):
    monkeypatch.setattr(_command, 'cgroup_cores', lambda: 1)
    environment['WORLD_SIZE'] = processes
    _command.set_threads()
    assert environment.get('OMP_NUM_THREADS') == threads


@pytest.mark.parametrize(
    ('files', 'cores'),
    [
        ({}, math.inf),
        ({'cpu.max': 'max 100000\n'}, math.inf),
        ({'cpu.max': '150000 100000\n'}, 2),
        ({'cpu.max': '10000 100000\n'}, 1),
        ({'cpu/cpu.cfs_quota_us': '-1\n', 'cpu/cpu.cfs_period_us': '100000\n'}, math.inf),
        ({'cpu/cpu.cfs_quota_us': '400000\n', 'cpu/cpu.cfs_period_us': '100000\n'}, 4),
    ],
)
def test_cores_of_a_container(tmp_path, files, cores):
    (tmp_path / 'cpu').mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert _command.cgroup_cores(str(tmp_path)) == cores


PROGRAM = """
import runpy, sys
for tool in sys.argv[1:]:
    sys.argv = [tool, '--help']
    try:
        runpy.run_path(tool, run_name='__main__')
    except SystemExit as end:
        assert end.code == 0, tool
    assert 'torch' not in sys.modules, tool
"""


def test_help_waits_for_no_import():
    tools = sorted(path for path in TOOLS.glob('[a-z]*.py') if path.stem != 'torchrun')
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM, *tools],
        env={**os.environ, 'PYTHONPATH': str(TOOLS)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('usage: ') == len(tools)
