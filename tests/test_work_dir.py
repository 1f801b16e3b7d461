"""A work directory in the place of config and checkpoint."""

import os

import pytest
import torch

from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.work_dir import find_run


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


def test_of_several_configs_the_one_that_wrote_last(work_dir):
    (work_dir / 'two.py').write_text('model = dict()')
    write_checkpoint(work_dir / 'best_coco_bbox_mAP_epoch_9.pth', 9, age=5)
    newest = write_checkpoint(work_dir / 'epoch_1.pth', config='two')
    assert find_run([str(work_dir)]) == (str(work_dir / 'two.py'), newest)


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        ([], 'does not name a detector'),
        (['a', 'b', 'c'], 'a b c does not name a detector'),
        (['nowhere'], 'nowhere does not exist'),
        ([__file__], 'is no work directory'),
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
