"""A work directory in the place of config and checkpoint."""

import os
import subprocess
import sys

import pytest
import torch

from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.work_dir import default_work_dir, find_run, hold_work_dir


def write_checkpoint(path, iteration=1, config='one', age=0):
    parts = dict(state_dict={}, optimizer={}, message_hub={})
    meta = dict(iter=iteration, experiment_name=f'{config}_20260102_030405')
    torch.save(dict(parts, meta=meta), path)
    os.utime(path, (1e9 - age, 1e9 - age))
    return str(path)


@pytest.fixture
def work_dir(tmp_path):
    (tmp_path / 'one.py').write_text('model = dict()')
    return tmp_path


def test_config_and_checkpoint_stay_as_they_are():
    assert find_run(['config.py', 'http://x/y.pth']) == ('config.py', 'http://x/y.pth')


def test_best_checkpoint_comes_before_the_newest(work_dir):
    config = str(work_dir / 'one.py')
    older = write_checkpoint(work_dir / 'epoch_1.pth', age=2)
    newest = write_checkpoint(work_dir / 'epoch_2.pth', 2)
    assert find_run([str(work_dir)]) == (config, newest)
    best = write_checkpoint(work_dir / 'best_coco_bbox_mAP_epoch_1.pth', age=3)
    assert find_run([str(work_dir)]) == (config, best)
    assert find_run([str(work_dir), older]) == (config, older)


def test_what_is_not_whole_is_passed_over(work_dir):
    whole = write_checkpoint(work_dir / 'epoch_1.pth')
    for name in ('best_coco_bbox_mAP_epoch_2.pth', 'epoch_2.pth'):
        content = (work_dir / 'epoch_1.pth').read_bytes()
        (work_dir / name).write_bytes(content[: len(content) // 2])
    assert find_run([str(work_dir)])[1] == whole


def test_of_several_configs_that_of_the_checkpoint(work_dir):
    (work_dir / 'two.py').write_text('model = dict()')
    newest = write_checkpoint(work_dir / 'epoch_1.pth', config='two')
    assert find_run([str(work_dir)]) == (str(work_dir / 'two.py'), newest)
    best = write_checkpoint(work_dir / 'best_coco_bbox_mAP_epoch_9.pth', 9, age=5)
    assert find_run([str(work_dir)]) == (str(work_dir / 'one.py'), best)


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        ([], 'does not name a detector'),
        (['a', 'b', 'c'], 'a b c does not name a detector'),
        (['nowhere'], 'nowhere does not name a detector'),
        ([__file__], 'does not name a detector'),
    ],
)
def test_words_that_name_nothing(words, said):
    with pytest.raises(UserError, match=said):
        find_run(words)


def test_what_the_directory_lacks_is_said(work_dir):
    with pytest.raises(UserError, match='holds no whole checkpoint; train first'):
        find_run([str(work_dir)])
    (work_dir / 'epoch_1.pth').write_bytes(b'')
    with pytest.raises(UserError, match=r'no whole checkpoint \(.*epoch_1.pth is not whole'):
        find_run([str(work_dir)])
    (work_dir / 'two.py').write_text('model = dict()')
    write_checkpoint(work_dir / 'epoch_1.pth', config='three')
    with pytest.raises(UserError, match=r'several configs \(one, two\)'):
        find_run([str(work_dir)])
    for name in ('one.py', 'two.py'):
        (work_dir / name).unlink()
    with pytest.raises(UserError, match='holds no config'):
        find_run([str(work_dir)])


@pytest.mark.parametrize(
    ('data_root', 'folder'),
    [(None, 'one'), ('data/coco', 'one'), ('./data/coco/', 'one'), ('x/birds/', 'one-birds')],
)
def test_own_data_has_a_work_directory_of_its_own(data_root, folder):
    assert default_work_dir('configs/one.py', 'data/coco/', data_root) == f'work_dirs/{folder}'


HOLDER = """
import fcntl, sys
file = open(sys.argv[1], 'w')
fcntl.lockf(file, fcntl.LOCK_EX)
print('process 7 on sea', file=file, flush=True)
print('held', flush=True)
sys.stdin.read()
"""


def test_two_trainings_share_no_work_directory(tmp_path):
    lock = tmp_path / 'run' / '.lock'
    hold_work_dir(str(lock.parent))
    hold_work_dir(str(lock.parent))  # a second run of this process
    assert f'process {os.getpid()}' in lock.read_text()
    other = tmp_path / 'other'
    other.mkdir()
    command = [sys.executable, '-c', HOLDER, other / '.lock']
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen(command, **pipes) as holder:
        assert holder.stdout.readline() == 'held\n'
        with pytest.raises(UserError, match=r'another training \(process 7 on sea\) runs in'):
            hold_work_dir(str(other))
        holder.kill()
        holder.wait()
    hold_work_dir(str(other))
