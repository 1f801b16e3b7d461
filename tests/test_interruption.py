"""A run that is killed, told to end, or finds the disk full, against one that is left alone."""

import os
import shutil
import signal

import pytest
import torch
from coco_folder import write_coco_folder
from interrupted_run import start_training

from mmdet_mobileformer.checkpoints import load_checkpoint_as_data
from mmdet_mobileformer.engine import DurableCheckpointHook
from mmdet_mobileformer.engine.resuming.find import find_resume_point
from mmdet_mobileformer.engine.resuming.same_data import require_same_data
from mmdet_mobileformer.errors import UserError

MAX_EPOCHS = 16
LAST = f'epoch_{MAX_EPOCHS}.pth'
TERMINATED = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_coco_folder(tmp_path_factory.mktemp('data') / 'coco', num_train=4)


@pytest.fixture(scope='module')
def uninterrupted(data, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('uninterrupted')
    assert start_training(data, work_dir, MAX_EPOCHS) == 0, output(work_dir)
    return work_dir


def output(work_dir):
    return (work_dir / 'output.txt').read_text()


def order(work_dir):
    """Images of each iteration; what a resumed run did again must be the same images."""
    images = {}
    for line in (work_dir / 'order.txt').read_text().splitlines():
        iteration, names = line.split(' ', 1)
        assert images.setdefault(int(iteration), names) == names
    return images


def assert_same(one, other, path=''):
    """Bit by bit, whatever is nested in lists and dicts."""
    assert type(one) is type(other), path
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert list(one) == list(other), path
        for key in one:
            assert_same(one[key], other[key], f'{path}.{key}')
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), path
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f'{path}[{index}]')
    else:
        assert one == other, path


def assert_same_end(work_dir, uninterrupted):
    one, other = (load_checkpoint_as_data(folder / LAST) for folder in (work_dir, uninterrupted))
    for part in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers', 'resume_state'):
        assert_same(one[part], other[part], part)
    assert one['meta']['iter'] == other['meta']['iter'] == 2 * MAX_EPOCHS
    assert order(work_dir) == order(uninterrupted)


def test_twenty_kills_change_nothing(data, uninterrupted, tmp_path):
    # An epoch has nine steps and more, most of them while files are written, a validation and the
    # best checkpoint another dozen. So no process ends more than one epoch before it is killed.
    for step in (*range(1, 14), 3, 5, 7, 9, 10, 11, 12):
        code = start_training(data, tmp_path, MAX_EPOCHS, step=step)
        assert code == -signal.SIGKILL, output(tmp_path)
        pointer = tmp_path / 'last_checkpoint'
        if pointer.is_file():  # never names a file that is not whole
            assert 'optimizer' in load_checkpoint_as_data(pointer.read_text())
    assert start_training(data, tmp_path, MAX_EPOCHS) == 0, output(tmp_path)
    assert_same_end(tmp_path, uninterrupted)
    assert {path.name for path in tmp_path.glob('*.pth*')} == {
        path.name for path in uninterrupted.glob('*.pth*')
    }
    said = output(tmp_path)
    assert 'the newest whole checkpoint' in said
    assert 'its writing was interrupted' in said  # a half file was passed over


def test_sigterm_saves_and_ends_with_its_code(data, uninterrupted, tmp_path):
    moments = []
    for step in (1, 1, 17):  # the first and the last iteration of an epoch, and a validation
        code = start_training(data, tmp_path, MAX_EPOCHS, step=step, action='terminate')
        assert code == TERMINATED, output(tmp_path)
        saved = load_checkpoint_as_data(tmp_path / 'interrupted.pth')
        moments.append((saved['meta']['iter'], saved['resume_state']['inner_iter']))
    assert moments == [(1, 1), (2, 2), (4, 0)]
    assert output(tmp_path).count('run again with --resume') == 3
    assert start_training(data, tmp_path, MAX_EPOCHS) == 0, output(tmp_path)
    assert 'continues from' in output(tmp_path)
    assert_same_end(tmp_path, uninterrupted)
    assert not (tmp_path / 'interrupted.pth').exists()


def test_resuming_with_other_data_stops_and_changes_nothing(data, uninterrupted, tmp_path):
    other = write_coco_folder(tmp_path / 'other', num_train=5)
    moved = shutil.copytree(data, tmp_path / 'moved')
    work_dir = tmp_path / 'work'
    work_dir.mkdir()
    shutil.copyfile(uninterrupted / LAST, work_dir / LAST)
    assert start_training(other, work_dir, MAX_EPOCHS) == 2
    assert 'this run had 4 images (train), and there are 5' in output(work_dir)
    assert {path.name for path in work_dir.glob('*.pth*')} == {LAST}
    assert start_training(moved, work_dir, MAX_EPOCHS) == 0, output(work_dir)


@pytest.mark.parametrize(
    ('changed', 'said'),
    [
        (dict(classes=('a', 'c')), 'the classes a, b, and the data has a, c'),
        (dict(digest=2), 'other images'),
        (dict(), None),
    ],
)
def test_what_counts_as_other_data(changed, said):
    saved = dict(val=dict(classes=['a', 'b'], images=3, digest=1))
    present = dict(val=dict(saved['val'], classes=('a', 'b')) | changed, train={})
    if said is None:
        require_same_data(saved, present)
        return
    with pytest.raises(UserError, match=said):
        require_same_data(saved, present)


def test_loader_workers_give_the_same_order_after_a_kill(data, uninterrupted, tmp_path):
    for step, action, code in (
        (3, 'terminate', TERMINATED),
        (3, 'interrupt', INTERRUPTED),
        (17, 'kill', -signal.SIGKILL),
    ):
        assert start_training(data, tmp_path, 4, 2, step, action) == code, output(tmp_path)
    assert start_training(data, tmp_path, 4, num_workers=2) == 0, output(tmp_path)
    whole = order(uninterrupted)
    assert order(tmp_path) == {iteration: whole[iteration] for iteration in range(8)}


def test_full_disk_is_a_sentence_and_leaves_the_checkpoint_before(data, tmp_path):
    assert start_training(data, tmp_path, MAX_EPOCHS, step=11, action='fill_disk') == 2
    assert 'epoch_2.pth' in (said := output(tmp_path)) and 'No space left on device' in said
    assert 'Traceback' not in said
    assert {path.name for path in tmp_path.glob('*.pth*')} == {'epoch_1.pth'}
    assert find_resume_point(str(tmp_path))[0] == str(tmp_path / 'epoch_1.pth')


def test_newest_is_what_was_written_last(uninterrupted, tmp_path):
    for name, source in (('epoch_9.pth', LAST), ('epoch_1.pth', f'epoch_{MAX_EPOCHS - 1}.pth')):
        shutil.copyfile(uninterrupted / source, tmp_path / name)  # the first of an earlier run
    os.utime(tmp_path / 'epoch_9.pth', (0, 0))
    pointer = tmp_path / 'last_checkpoint'
    pointer.write_text(str(tmp_path / 'epoch_1.pth'))
    assert find_resume_point(str(tmp_path))[0] == str(tmp_path / 'epoch_1.pth')
    # In a copied folder times mean nothing, and the folder that it was copied from may go on.
    other = tmp_path / 'other'
    other.mkdir()
    shutil.copyfile(uninterrupted / LAST, other / 'epoch_1.pth')
    for place in ('/where/it/was', other):
        pointer.write_text(f'{place}/epoch_1.pth')
        assert find_resume_point(str(tmp_path))[0] == str(tmp_path / 'epoch_9.pth')


def test_search_finds_what_the_hook_writes_elsewhere(uninterrupted, tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'latest.pth').symlink_to(tmp_path / 'removed.pth')
    (tmp_path / 'disk' / 'run').mkdir(parents=True)
    written = tmp_path / 'disk' / 'run' / 'epoch_1.pth'
    shutil.copyfile(uninterrupted / LAST, written)
    (tmp_path / 'run' / 'last_checkpoint').write_text(str(written))
    assert find_resume_point(str(tmp_path / 'run'), str(tmp_path / 'disk'))[0] == str(written)


def test_the_best_checkpoint_of_another_run_stays(tmp_path):
    hook = DurableCheckpointHook(interval=1)
    hook.out_dir = str(tmp_path / 'mine')
    os.mkdir(hook.out_dir)
    (other := tmp_path / 'best_of_another.pth').touch()
    (own := tmp_path / 'mine' / 'best.pth').touch()
    hook._remove([str(other), str(own), 'epoch_1.pth'])
    assert other.exists() and not own.exists()


def test_search_passes_over_what_is_not_whole(data, uninterrupted, tmp_path):
    content = (uninterrupted / LAST).read_bytes()
    (tmp_path / 'epoch_1.pth').write_bytes(
        (uninterrupted / f'epoch_{MAX_EPOCHS - 1}.pth').read_bytes()
    )
    (tmp_path / 'epoch_2.pth').write_bytes(content[: len(content) // 2])
    position = content.index(b'resume_state')
    (tmp_path / 'epoch_3.pth').write_bytes(content[:position] + b'X' + content[position + 1 :])
    (tmp_path / 'epoch_4.pth').write_bytes(b'')
    torch.save(dict(state_dict={}), tmp_path / 'weights.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_4.pth'))
    newest, passed_over = find_resume_point(str(tmp_path))
    assert newest == str(tmp_path / 'epoch_1.pth')
    said = '\n'.join(passed_over)
    for name in (
        'epoch_2.pth is not whole',
        'epoch_3.pth is damaged',
        'epoch_4.pth',
        'weights.pth',
    ):
        assert name in said
