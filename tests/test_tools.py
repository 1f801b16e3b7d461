"""The command line tools as a user starts them: from another folder, on a small data set."""

import json
import os
import pickle
import re
import sys

import pytest
import torch
from coco_folder import CLASSES, write_coco_folder
from free_port import free_port
from mmengine.config import Config
from run_tool import ROOT, start, tool

CONFIG = ROOT / 'configs' / 'retinanet_mf52m_small.py'
QUICK = [
    '--cfg-options',
    'randomness.seed=0',
    'train_cfg.max_epochs=1',
    'train_cfg.val_interval=1',
    'train_dataloader.batch_size=2',
    'default_hooks.logger.interval=1',
    'model.test_cfg.score_thr=0.0',
    *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val', 'test')),
]
DIST_TRAIN = ROOT / 'tools' / 'dist_train.sh'
FIGURES = ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l', 'AR@1', 'AR@10', 'AR@100']


@pytest.fixture(scope='module')
def coco_folder(tmp_path_factory):
    return write_coco_folder(tmp_path_factory.mktemp('data') / 'coco')


@pytest.fixture(scope='module')
def trained(coco_folder, tmp_path_factory):
    """Folder in which a run of one epoch was started, its output, and its checkpoint."""
    cwd = tmp_path_factory.mktemp('run')
    data = ['--data-root', coco_folder, '--classes', 'auto']
    flags = ['--amp', CONFIG, *data, '--auto-scale-lr', '--ema']
    done = tool('train', *flags, *QUICK, cwd=cwd)
    assert done.returncode == 0, done.stderr[-2000:]
    (log,) = cwd.glob('work_dirs/*/*/*.log')
    assert 'paramwise_options' in log.read_text() and 'System environment' in log.read_text()
    return cwd, done.stdout + done.stderr, cwd / 'work_dirs' / f'{CONFIG.stem}-coco' / 'epoch_1.pth'


def test_training_logs_what_a_user_watches(trained):
    _, output, checkpoint = trained
    step = next(line for line in output.splitlines() if 'Epoch(train)' in line)
    for item in ('lr: ', 'eta: ', 'loss: '):
        assert item in step
    assert output[: output.index(step)].count('\n') < 50  # two screens
    evaluation = next(line for line in output.splitlines() if 'coco/bbox_mAP:' in line)
    for figure in FIGURES:
        assert f'coco/bbox_{figure}:' in evaluation
    assert 'LR is set based on batch size of' in output  # mmengine scaled it: 2 images of 8
    rate = float(re.search(r' lr: (\S+)', step)[1])
    whole = Config.fromfile(CONFIG)
    begun = whole.param_scheduler[0].start_factor
    assert rate == pytest.approx(
        whole.optim_wrapper.optimizer.lr * begun * 2 / whole.auto_scale_lr.base_batch_size, rel=1e-3
    )
    saved = torch.load(checkpoint, weights_only=False)
    assert 'ema_state_dict' in saved  # of --ema


def test_evaluation_takes_the_classes_from_the_checkpoint(trained, coco_folder):
    cwd, _, checkpoint = trained
    args = ['--data-root', coco_folder, '--classes', 'auto', '--classwise', '--tta']
    args += ['--work-dir', 'evaluated', '--out', 'found.pkl', '--show-dir', 'pictures', *QUICK]
    done = tool('test', CONFIG, checkpoint, *args, cwd=cwd)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(next((cwd / 'evaluated').glob('*/*.json')).read_text())
    assert {f'coco/bbox_{figure}' for figure in FIGURES} <= set(figures)
    assert {f'coco/{name}_precision' for name in CLASSES} <= set(figures)
    assert len(list((cwd / 'evaluated').glob('*/pictures/*.png'))) == 3
    with open(cwd / 'found.pkl', 'rb') as file:
        found = pickle.load(file)
    assert [item['img_id'] for item in found] == [10, 11, 12]


def test_problems_are_sentences_with_exit_code_2(trained, coco_folder):
    cwd = trained[0]
    cases = [
        (['train', 'missing.py'], 'missing.py'),
        (['test', CONFIG, 'missing.pth'], 'missing.pth'),
        (['train', ROOT / 'configs' / 'retinanet_mf294m_coco.py'], '--from-scratch'),
        (['train', CONFIG, '--data-root', coco_folder], '--classes auto'),
        (['train', CONFIG, '--data-root', 'nowhere'], 'nowhere'),
        (['get_flops', CONFIG, '--shape', '8', '8'], '--shape 8 8'),
    ]
    code = (
        'import runpy, sys\n'
        'sys.path.insert(0, {tools!r})\n'
        'for tool, args in {cases!r}:\n'
        '    sys.argv = [tool, *args]\n'
        '    try:\n'
        '        runpy.run_path(tool, run_name="__main__")\n'
        '        print("CODE none", file=sys.stderr)\n'
        '    except SystemExit as end:\n'
        '        print("CODE", end.code, file=sys.stderr)\n'
    )
    runs = [
        (str(ROOT / 'tools' / f'{args[0]}.py'), [str(word) for word in args[1:]])
        for args, _ in cases
    ]
    done = start([sys.executable, '-c', code.format(tools=str(ROOT / 'tools'), cases=runs)], cwd)
    answers = done.stderr.split('CODE ')
    assert len(answers) == len(cases) + 1, done.stderr[-2000:]
    for (args, words), answer, following in zip(cases, answers[:-1], answers[1:], strict=True):
        assert f'{args[0]}.py: error: ' in answer and words in answer
        assert following.startswith('2')
        assert 'Traceback' not in answer


@pytest.fixture(scope='module')
def two_processes(coco_folder, tmp_path_factory):
    """Checkpoint of an epoch by two processes of one machine, and their output."""
    cwd = tmp_path_factory.mktemp('two_processes')
    data = ['--data-root', coco_folder, '--classes', 'auto', '--work-dir', cwd / 'work']
    done = start([DIST_TRAIN, CONFIG, 2, *data, *QUICK], cwd, PORT=free_port())
    assert done.returncode == 0, done.stderr[-2000:]
    return cwd / 'work' / 'epoch_1.pth', done.stdout + done.stderr


def test_two_processes_train_on_the_cpu(two_processes):
    assert '[1][1/1]' in two_processes[1]  # four images: one step of two images each


PROGRAM = """
import os, signal, sys, time
if sys.argv[1] == 'wait':
    signal.signal(signal.SIGTERM, lambda *args: sys.exit(143))
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize(('does', 'code'), [('2', 2), ('143', 143), ('wait', 143), ('3', 1)])
def test_torchrun_ends_with_the_code_of_the_tool(tmp_path, does, code):
    (tmp_path / 'program.py').write_text(PROGRAM)
    torchrun = [sys.executable, ROOT / 'tools' / 'torchrun.py', '--master-port', free_port()]
    done = start([*torchrun, tmp_path / 'program.py', does], tmp_path)
    assert done.returncode == code, done.stderr
    assert ('Traceback' in done.stderr) == (code == 1)


@pytest.mark.parametrize(
    ('words', 'given'),
    [
        ('RUN 2 --out x.pkl', 'RUN --launcher pytorch --out x.pkl'),
        ('CONFIG FILE 2 --classwise', 'CONFIG FILE --launcher pytorch --classwise'),
        ('RUN', None),
        ('CONFIG FILE --classwise', None),
    ],
)
def test_dist_test_takes_a_work_directory_or_config_and_checkpoint(tmp_path, words, given):
    done = start([ROOT / 'tools' / 'dist_test.sh', *words.split()], tmp_path, PYTHON='echo')
    assert done.returncode == (0 if given else 2)
    if given:
        assert '--nproc-per-node=2' in done.stdout and done.stdout.endswith(f'test.py {given}\n')
    else:
        assert '{WORK_DIR | CONFIG CHECKPOINT} PROCESSES' in done.stderr


SRUN = """#!/usr/bin/env bash
# A stand-in for srun on one machine: starts the command once a node, in the background.
for word; do
    case $word in
        --nodes=*) nodes=${word#--nodes=} ;;
        --gres=*) echo "$word" >> gres ;;
    esac
    [ "$word" = bash ] && break
    shift
done
export SLURM_JOB_NODELIST="here[1-$nodes]"
for ((node = 0; node < nodes; node++)); do
    SLURM_NODEID=$node "$@" &
    pids="${pids:-} $!"
done
for pid in $pids; do wait "$pid" || { kill $pids; exit 1; }; done
"""
SCONTROL = '#!/usr/bin/env bash\necho 127.0.0.1\necho 127.0.0.2\n'


@pytest.fixture
def slurm(tmp_path):
    """Environment with Slurm's commands."""
    bin_folder = tmp_path / 'bin'
    bin_folder.mkdir()
    for name, script in (('srun', SRUN), ('scontrol', SCONTROL)):
        (bin_folder / name).write_text(script)
        (bin_folder / name).chmod(0o755)
    return dict(PATH=f'{bin_folder}{os.pathsep}{os.environ["PATH"]}', GPUS='2', PORT=free_port())


def test_slurm_script_tests_a_work_directory_with_two_processes(two_processes, tmp_path, slurm):
    script = [ROOT / 'tools' / 'slurm_test.sh', 'debug', 'job', two_processes[0].parent]
    done = start([*script, '--work-dir', tmp_path / 'work', *QUICK], tmp_path, GRES='', **slurm)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'coco/bbox_mAP:' in done.stdout + done.stderr
    assert not (tmp_path / 'gres').exists()


def test_slurm_script_trains_on_two_nodes_as_on_one(two_processes, coco_folder, tmp_path, slurm):
    done = start(
        [
            *(ROOT / 'tools' / 'slurm_train.sh', 'debug', 'name of job', CONFIG, 'work dir'),
            *('--data-root', coco_folder, '--classes', 'auto', *QUICK),
        ],
        tmp_path,
        GPUS_PER_NODE='1',
        **slurm,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / 'gres').read_text() == '--gres=gpu:1\n'
    weights = torch.load(tmp_path / 'work dir' / 'epoch_1.pth', weights_only=False)['state_dict']
    one_node = torch.load(two_processes[0], weights_only=False)['state_dict']
    for name, value in weights.items():
        torch.testing.assert_close(value, one_node[name], rtol=0, atol=1e-5)
    assert '[1][1/1]' in done.stdout + done.stderr  # one process alone would take two steps
