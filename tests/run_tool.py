"""Tools, started inside the test's process, which is quick, or as a user starts them."""

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run_tool(name, *args):
    """Run `tools/NAME.py ARGS` in this process and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [f'{name}.py', *map(str, args)])
        try:
            runpy.run_path(str(ROOT / 'tools' / f'{name}.py'), run_name='__main__')
        except SystemExit as end:
            return end.code
    return 0


def tool(name, *args, cwd):
    """Run `tools/NAME.py ARGS` in a process of its own."""
    return start([sys.executable, ROOT / 'tools' / f'{name}.py', *args], cwd)


def start(command, cwd, **env):
    """Run a command in a folder, from which the package can be imported."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable, **env}
    env['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), env.get('PYTHONPATH')]))
    command = [str(word) for word in command]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, cwd=cwd, env=env, start_new_session=True, **pipes) as process:
        try:
            out, err = process.communicate(timeout=200)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)  # torchrun then ends its processes
            out, err = process.communicate()
            err += '\nended after 200 s'
    return subprocess.CompletedProcess(command, process.returncode, out, err)
