"""A wheel of mmcv with operators, compiled against the torch of one environment and kept.

pip keeps the wheels that it builds by name and version alone, and would hand out one that was built
against another torch, or without operators. The wheels here lie in a folder of this project's own,
keyed by everything that an operator's binary depends on, and are looked into before they are used.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

_DESCRIBE_TORCH = """
import platform, torch
device = 'cuda' if torch.cuda.is_available() else 'cpu'
print(platform.python_version(), torch.__version__, device)
"""


class BuildError(Exception):
    """The environment cannot be built; the message is one sentence for the user."""


def wheel_folder(python: Path, requirement: str) -> Path:
    """Tell where the wheel for an environment is kept.

    Args:
        python: The environment's interpreter, whose torch is asked for its version.
        requirement: Distribution and version of mmcv, as in ``onedl-mmcv==2.3.6``.

    Returns:
        A folder of the user's cache. Its name holds the distribution, the versions of Python, torch
        (with its local tag, as ``+cpu``) and mmcv, the machine, and whether CUDA can be used: only
        then mmcv compiles its CUDA operators.
    """
    python_version, torch_version, device = _ask(python, _DESCRIBE_TORCH).split()
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    key = '-'.join(
        (
            requirement.replace('==', '-'),
            'py' + python_version.rpartition('.')[0],
            'torch' + torch_version,
            platform.machine(),
            device,
        )
    )
    return cache / 'mmdet_mobileformer' / 'wheels' / key


def usable_wheel(folder: Path) -> Path | None:
    """Return the complete wheel with compiled operators in `folder`, if there is one."""
    for path in sorted(folder.glob('*.whl')):
        try:
            with zipfile.ZipFile(path) as wheel:
                if any(name.startswith('mmcv/_ext.') for name in wheel.namelist()):
                    return path
        except zipfile.BadZipFile:
            continue
    return None


def obtain_wheel(python: Path, requirement: str) -> Path:
    """Return a wheel of mmcv with operators, compiled now or earlier.

    Args:
        python: The environment's interpreter; torch and the build tools are installed for it.
        requirement: Distribution and version of mmcv, as in ``onedl-mmcv==2.3.6``.

    Raises:
        BuildError: If something that compiling needs is missing, or if it fails.
    """
    folder = wheel_folder(python, requirement)
    wheel = usable_wheel(folder)
    if wheel:
        print(f'      taken from {folder}', flush=True)
        return wheel
    _check_build_tools(requirement)
    print(
        f'      compiling its operators on {_cores()} cores; this happens once for this torch, and '
        'takes most of 7 minutes on 2 cores',
        flush=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    # Built beside its place and moved there when it is whole: an interrupted build leaves nothing
    # that could be taken for a wheel.
    with tempfile.TemporaryDirectory(prefix='.building-', dir=folder.parent) as temporary:
        source = _unpack_source(python, requirement, Path(temporary))
        _raise_cxx_standard(source / 'setup.py', python)
        _run_pip(python, 'wheel', '--no-cache-dir', '--wheel-dir', temporary, source)
        built = usable_wheel(Path(temporary))
        if built is None:
            raise BuildError(
                f'Compiling {requirement} gave a wheel without operators; the reason stands above.'
            )
        return built.replace(folder / built.name)


def _unpack_source(python: Path, requirement: str, folder: Path) -> Path:
    # --no-binary: the package index may hold wheels of mmcv, and none of them knows this torch.
    _run_pip(python, 'download', '--quiet', '--no-binary', ':all:', '--dest', folder, requirement)
    archive = next(folder.glob('*.tar.gz'))
    with tarfile.open(archive) as content:
        content.extractall(folder, filter='data')
    return folder / archive.name.removesuffix('.tar.gz')


def _raise_cxx_standard(setup_file: Path, python: Path) -> None:
    """Let mmcv compile by the C++ standard that torch's headers ask for.

    mmcv 2 names C++17 in its build file, and headers from torch 2.14 on refuse less than C++20.
    """
    headers = _ask(python, 'import torch; print(torch.__path__[0])') + '/include/ATen/ATen.h'
    required = re.search(r'#error C\+\+(\d+) or later', Path(headers).read_text())
    if required and int(required[1]) > 17:
        text = setup_file.read_text().replace('-std=c++17', f'-std=c++{required[1]}')
        setup_file.write_text(text)


def _run_pip(python: Path, verb: str, *arguments: str | Path) -> None:
    command = [python, '-m', 'pip', verb, '--no-build-isolation', '--no-deps', *arguments]
    # -g0: Python's own flags ask for debug information, which doubles the time of every file.
    flags = f'{os.environ.get("CFLAGS", "")} -g0'.strip()
    environment = dict(os.environ, MMCV_WITH_OPS='1', MAX_JOBS=str(_cores()), CFLAGS=flags)
    if subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode:
        raise BuildError(f'`pip {verb} {arguments[-1]}` failed; the reason stands above.')


def _ask(python: Path, code: str) -> str:
    answer = subprocess.run([python, '-c', code], text=True, stdout=subprocess.PIPE)
    if answer.returncode:
        raise BuildError('The torch that was just installed cannot be imported; see above.')
    return answer.stdout.strip()


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _check_build_tools(requirement: str) -> None:
    missing = []
    compiler = os.environ.get('CXX', 'c++').split()[0]
    if not shutil.which(compiler) and not shutil.which('g++'):
        missing.append(f'a C++ compiler ({compiler}; Debian and Ubuntu: `apt-get install g++`)')
    if not Path(sysconfig.get_path('include'), 'Python.h').exists():
        missing.append(
            "Python's headers (Debian and Ubuntu: "
            f'`apt-get install python{sys.version_info.major}.{sys.version_info.minor}-dev`)'
        )
    if missing:
        raise BuildError(
            f'{requirement} has to be compiled, and {" and ".join(missing)} is missing.'
        )
