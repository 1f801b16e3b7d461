import re
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / 'tools' / 'dev'))  # scripts, not a package: nothing installs them

import make_env  # noqa: E402  (found by the line above)
import mmcv_wheel  # noqa: E402  (found by the line above)

REQUIREMENTS = sorted((ROOT / 'requirements').glob('*.txt'))
FAMILIES = {'torch', 'mmcv', 'mmengine', 'mmdet', 'mmpretrain'}
FAMILIES |= {'onedl-mmcv', 'onedl-mmengine', 'onedl-mmdetection', 'onedl-mmpretrain'}


def requirement_lines(path):
    lines = (line.partition('#')[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def write_wheel(path, *names):
    with zipfile.ZipFile(path, 'w') as wheel:
        for name in names:
            wheel.writestr(name, '')


@pytest.fixture
def project(tmp_path, monkeypatch):
    requirements = tmp_path / 'requirements'
    requirements.mkdir()
    for path in make_env.REQUIREMENTS.glob('*.txt'):
        (requirements / path.name).write_text(path.read_text())
    monkeypatch.setattr(make_env, 'ROOT', tmp_path)
    monkeypatch.setattr(make_env, 'REQUIREMENTS', requirements)
    return tmp_path


@pytest.mark.parametrize(
    'path', sorted((ROOT / 'requirements').glob('*.txt')), ids=lambda p: p.name
)
def test_requirements_pin_one_version_each_and_leave_mmcv_to_the_compiler(path):
    lines = requirement_lines(path)
    assert lines
    for line in lines:
        name = re.fullmatch(r'([\w.-]+)==[\w.]+', line)
        assert name, line
        assert name[1] not in ('mmcv', 'onedl-mmcv', 'mmcv-lite', 'opencv-python')


@pytest.mark.parametrize('name', make_env.ENVIRONMENTS)
def test_no_distribution_is_pinned_twice_in_an_environment(name):
    environment = make_env.ENVIRONMENTS[name]
    files = (environment.torch, 'build.txt', *environment.packages)
    lines = [line for file in files for line in requirement_lines(ROOT / 'requirements' / file)]
    names = [line.partition('==')[0].lower() for line in lines]
    assert len(set(names)) == len(names)


def test_requirements_typed_by_habit_are_those_of_the_default_environment():
    environment = make_env.ENVIRONMENTS['default']
    files = {environment.torch, 'build.txt', *environment.packages}
    lines = requirement_lines(ROOT / 'requirements.txt')
    assert set(lines) == {f'-r requirements/{file}' for file in files}


def test_the_package_declares_neither_family():
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    declared = [project['dependencies'], *project['optional-dependencies'].values()]
    names = {re.match(r'[\w.-]+', line)[0] for lines in declared for line in lines}
    assert not names & FAMILIES


def test_only_a_whole_wheel_with_operators_is_taken(tmp_path):
    assert mmcv_wheel.usable_wheel(tmp_path) is None
    write_wheel(tmp_path / 'a.whl', 'mmcv/__init__.py')
    (tmp_path / 'b.whl').write_bytes(b'half a wheel')
    assert mmcv_wheel.usable_wheel(tmp_path) is None
    write_wheel(tmp_path / 'c.whl', 'mmcv/__init__.py', 'mmcv/_ext.cpython-311-x86_64-linux-gnu.so')
    assert mmcv_wheel.usable_wheel(tmp_path) == tmp_path / 'c.whl'


def test_wheels_are_kept_by_everything_their_operators_depend_on(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    folders = set()
    for torch in ('3.11.7 2.13.0+cpu cpu', '3.11.7 2.14.1+cu130 cpu', '3.11.7 2.14.1+cu130 cuda'):
        monkeypatch.setattr(mmcv_wheel, '_ask', lambda *_, answer=torch: answer)
        for requirement in ('onedl-mmcv==2.3.6', 'mmcv==2.1.0'):
            folders.add(mmcv_wheel.wheel_folder(Path('python'), requirement))
    assert len(folders) == 6
    assert all(folder.is_relative_to(tmp_path) for folder in folders)


@pytest.mark.parametrize('required', [17, 20])
def test_mmcv_is_compiled_by_the_standard_of_torchs_headers(tmp_path, monkeypatch, required):
    headers = tmp_path / 'include' / 'ATen'
    headers.mkdir(parents=True)
    (headers / 'ATen.h').write_text(f'#error C++{required} or later compatible compiler is needed')
    monkeypatch.setattr(mmcv_wheel, '_ask', lambda *_: str(tmp_path))
    setup_file = tmp_path / 'setup.py'
    setup_file.write_text("extra_compile_args['cxx'] = ['-std=c++17']")
    mmcv_wheel._raise_cxx_standard(setup_file, Path('python'))
    assert setup_file.read_text() == f"extra_compile_args['cxx'] = ['-std=c++{required}']"


def test_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv('PATH', '')
    monkeypatch.delenv('CXX', raising=False)
    with pytest.raises(mmcv_wheel.BuildError, match=r'a C\+\+ compiler .*apt-get install g\+\+'):
        mmcv_wheel._check_build_tools('onedl-mmcv==2.3.6')


def test_mmcv_without_operators_stops_the_build(tmp_path, monkeypatch):
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').write_text('')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    with pytest.raises(make_env.BuildError, match=r'do not run .*mmcv\.ops.*delete kept\.whl'):
        make_env.check_operators(Path(sys.executable), Path('kept.whl'))


def test_nothing_is_installed_while_requirements_stay_as_they_are(project, monkeypatch):
    environment = make_env.ENVIRONMENTS['default']
    folder = project / environment.folder
    (folder / 'bin').mkdir(parents=True)
    (folder / 'bin' / 'python').touch()
    make_env.write_state(folder, make_env.requirements_fingerprint(environment))
    commands = []

    def stop(title, command):
        commands.append(command)
        raise make_env.BuildError(title)

    monkeypatch.setattr(make_env, 'run_step', stop)
    make_env.make_environment(environment, 'default')
    assert not commands
    with (project / 'requirements' / environment.packages[0]).open('a') as file:
        file.write('one-more==1.0\n')
    with pytest.raises(make_env.BuildError):
        make_env.make_environment(environment, 'default')
    assert make_env.read_state(folder) == {'fingerprint': 'incomplete'}
    assert not (folder / 'bin').exists()  # built anew, not on top of what was there


def test_a_folder_that_somebody_else_made_is_left_alone(project):
    environment = make_env.ENVIRONMENTS['default']
    mine = project / environment.folder / 'mine.txt'
    mine.parent.mkdir()
    mine.touch()
    with pytest.raises(make_env.BuildError, match=r'was not made by this tool'):
        make_env.make_environment(environment, 'default')
    assert mine.exists()


def test_another_python_is_refused_by_its_version(monkeypatch):
    monkeypatch.setattr(make_env, 'PYTHON_VERSION', (3, 99))
    with pytest.raises(make_env.BuildError, match=r'Python 3\.99 is needed and .* PYTHON='):
        make_env.check_python()
