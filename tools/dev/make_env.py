"""Build one of this project's environments: `python3.11 tools/dev/make_env.py [NAME]`.

Needs nothing but Python 3.11 and, where no wheel of mmcv is kept yet, a C++ compiler. A complete
environment whose requirements have not changed is left as it is.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mmcv_wheel import BuildError, obtain_wheel

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / 'requirements'
PYTHON_VERSION = (3, 11)  # the pinned versions have been installed and tested together on this one
STATE_FILE = 'mmdet_mobileformer.json'


@dataclass(frozen=True)
class Environment:
    """What one environment consists of."""

    folder: str  # beside this project's files
    mmcv: str  # compiled from its source distribution against the environment's torch
    torch: str  # file that names torch, installed together with what torch asks for
    packages: tuple[str, ...]  # files that pin everything else, installed as they are


ENVIRONMENTS = {
    'default': Environment(
        folder='.venv',
        mmcv='onedl-mmcv==2.3.6',
        torch='torch.txt',
        packages=('common.txt', 'onedl.txt', 'tools.txt', 'develop.txt', 'docs.txt'),
    ),
    'official': Environment(
        folder='.venv-official',
        mmcv='mmcv==2.1.0',
        torch='torch.txt',
        packages=('common.txt', 'official.txt', 'tools.txt', 'develop.txt'),
    ),
    'imagenet': Environment(
        folder='.venv-imagenet',
        mmcv='onedl-mmcv==2.3.6',
        torch='torch-imagenet.txt',
        packages=('common.txt', 'onedl.txt', 'imagenet.txt', 'tools.txt', 'develop.txt'),
    ),
}

_RUN_OPERATOR = """
import torch
from mmcv.ops import nms
boxes = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.], [20., 20., 29., 29.]])
kept = nms(boxes, torch.tensor([.9, .8, .7]), .5)[1].tolist()
assert kept == [0, 2], kept
"""


def main() -> None:
    """Build the environment that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('name', nargs='?', choices=ENVIRONMENTS, default='default')
    name = parser.parse_args().name
    try:
        check_python()
        # Several makes may run at once; the folder itself serves as the lock.
        lock = os.open(ROOT, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        make_environment(ENVIRONMENTS[name], name)
    except BuildError as error:
        sys.exit(f'make_env: {error}')
    except KeyboardInterrupt:
        sys.exit('make_env: interrupted; the next call starts the environment anew.')


def check_python() -> None:
    """Check the interpreter that runs this file.

    Raises:
        BuildError: If it is not the one that the requirements are pinned for, or lacks venv.
    """
    wanted = '.'.join(map(str, PYTHON_VERSION))
    if sys.version_info[:2] != PYTHON_VERSION:
        raise BuildError(
            f'Python {wanted} is needed and {sys.executable} is {sys.version.split()[0]}; name '
            'another one by `make PYTHON=/path/to/python3.11`.'
        )
    try:
        import ensurepip  # noqa: F401  (Debian ships venv and ensurepip apart from Python)
        import venv  # noqa: F401
    except ImportError as error:
        raise BuildError(
            f'{sys.executable} has no module {error.name}; on Debian and Ubuntu '
            f'`apt-get install python{wanted}-venv` installs it.'
        ) from None


def make_environment(environment: Environment, name: str) -> None:
    """Build an environment unless it is complete and up to date.

    Args:
        environment: What to build.
        name: The environment's name on the command line, for messages.

    Raises:
        BuildError: If a step fails, or if the folder holds something this file did not make.
    """
    folder = ROOT / environment.folder
    fingerprint = requirements_fingerprint(environment)
    state = read_state(folder)
    python = folder / 'bin' / 'python'
    if state.get('fingerprint') == fingerprint and python.exists():
        print(f'The {name} environment, {folder}, is up to date.', flush=True)
        return
    if folder.exists() and any(folder.iterdir()) and not state:
        raise BuildError(f'{folder} was not made by this tool; move it away or delete it.')
    started = time.monotonic()
    print(f'Building the {name} environment in {folder}:', flush=True)
    if folder.exists():
        shutil.rmtree(
            folder
        )  # pins changed or the last build was interrupted: nothing is left over
    folder.mkdir()
    write_state(folder, 'incomplete')
    run_step('[1/5] virtual environment', [sys.executable, '-m', 'venv', folder])
    install = [python, '-m', 'pip', 'install', '-qq']
    run_step(
        '[2/5] torch, build tools (minutes: hundreds of MB, or GB where it comes with CUDA)',
        [*install, *files(environment.torch, 'build.txt'), '-c', REQUIREMENTS / 'common.txt'],
    )
    # --no-deps: the files are complete, and opencv-python must not come in beside the headless one.
    run_step(
        '[3/5] the other packages (about a minute)',
        [*install, '--no-deps', *files(*environment.packages)],
    )
    print(f'[4/5] {environment.mmcv}', flush=True)
    wheel = obtain_wheel(python, environment.mmcv)
    run_step('      installing it', [*install, '--no-deps', '--no-cache-dir', wheel])
    run_step(
        '[5/5] this project, editable',
        [*install, '--no-deps', '--no-build-isolation', '--editable', ROOT],
    )
    check_operators(python, wheel)
    write_state(folder, fingerprint)
    print(f'Built in {time.monotonic() - started:.0f} s; an mmcv operator runs.', flush=True)


def requirements_fingerprint(environment: Environment) -> str:
    """Digest everything that decides what the environment holds, and where it stands."""
    digest = hashlib.sha256()
    digest.update(repr((environment, sys.version, str(ROOT))).encode())
    names = (environment.torch, 'build.txt', *environment.packages)
    for name in names:
        digest.update((REQUIREMENTS / name).read_bytes())
    return digest.hexdigest()


def read_state(folder: Path) -> dict[str, str]:
    """Read what an earlier call left in the environment; nothing if it is not one of ours."""
    try:
        return json.loads((folder / STATE_FILE).read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return {}


def write_state(folder: Path, fingerprint: str) -> None:
    """Record that this file made the environment, and from which requirements."""
    (folder / STATE_FILE).write_text(json.dumps({'fingerprint': fingerprint}))


def files(*names: str) -> list[str | Path]:
    """Return pip's arguments for requirement files."""
    return [argument for name in names for argument in ('-r', REQUIREMENTS / name)]


def run_step(title: str, command: list[str | Path]) -> None:
    """Run a step's command.

    Raises:
        BuildError: If it fails; its output stands above the message.
    """
    print(title, flush=True)
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    environment['PIP_DISABLE_PIP_VERSION_CHECK'] = '1'
    if subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode:
        raise BuildError(f'The step "{title.strip()}" failed; the reason stands above.')


def check_operators(python: Path, wheel: Path) -> None:
    """Run one operator of the installed mmcv.

    Raises:
        BuildError: If it does not run, or gives a wrong result.
    """
    run = subprocess.run([python, '-c', _RUN_OPERATOR], text=True, stderr=subprocess.PIPE)
    if run.returncode:
        reason = run.stderr.strip().rpartition('\n')[2]
        raise BuildError(
            f'The operators of the installed mmcv do not run ({reason}); delete {wheel} and start '
            'again, which compiles it anew.'
        )


if __name__ == '__main__':
    main()
