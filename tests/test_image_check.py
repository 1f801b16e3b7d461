"""The data check finds images that are missing, broken or of another size, and names them."""

import os

import cv2
import numpy as np
import pytest
from checked_folder import assert_one_error, edit, find
from coco_folder import annotation_file, write_coco_folder
from mmdet.utils import register_all_modules

from mmdet_mobileformer.data_check import images


@pytest.fixture(scope='module', autouse=True)
def _registered():
    register_all_modules()


@pytest.fixture
def root(tmp_path):
    return write_coco_folder(tmp_path / 'coco')


def test_missing_images_are_counted_and_the_first_20_named(tmp_path):
    root = write_coco_folder(tmp_path / 'coco', num_train=25)
    for path in (root / 'train2017').iterdir():
        path.unlink()
    assert_one_error(root, '25 of 25', '10.png', '29.png', 'and 5 more')


@pytest.mark.parametrize(
    'name', ['/etc/x.jpg', '../x.jpg', 'a/../../x.jpg', 'C:\\x.jpg', '..\\x.jpg']
)
def test_image_name_that_leads_out_is_refused(root, name):
    assert images.leads_out(name)
    edit(root, lambda data: data['images'][0].update(file_name=name))
    assert_one_error(root, annotation_file(root), 'outside')


@pytest.mark.parametrize('name', ['x.jpg', 'a/b/x.jpg', 'a..b.jpg', 'Bäume im Wald.jpg', './x.jpg'])
def test_image_name_inside_is_accepted(name):
    assert not images.leads_out(name)


def test_links_subfolders_and_other_alphabets_work(root):
    outside = root.parent / 'outside'
    outside.mkdir()
    os.rename(root / 'train2017' / '10.png', outside / '10.png')
    os.symlink(outside / '10.png', root / 'train2017' / '10.png')
    os.symlink(outside, root / 'train2017' / 'linked')
    os.rename(root / 'train2017' / '12.png', root / 'train2017' / 'ein Bild 图.png')

    def rename(data):
        data['images'][1]['file_name'] = 'linked/10.png'
        data['images'][2]['file_name'] = 'ein Bild 图.png'

    edit(root, rename)
    assert find(root).errors == []


def test_unreadable_image_is_named(root):
    (root / 'train2017' / '11.png').write_bytes(b'no image')
    assert_one_error(root, root / 'train2017' / '11.png', 'cannot be read', '1 of 4 images')


def test_every_image_of_a_small_folder_is_opened(tmp_path):
    root = write_coco_folder(tmp_path / 'coco', num_train=1, num_val=60)
    path = root / 'val2017' / '53.png'
    path.write_bytes(path.read_bytes()[:-500])
    assert_one_error(root, path, '1 of 60 images')


def test_a_sample_is_opened_where_time_is_short(tmp_path, monkeypatch):
    root = write_coco_folder(tmp_path / 'coco', num_train=1, num_val=2 * images.BATCH)
    for path in (root / 'val2017').iterdir():
        path.write_bytes(b'')
    monkeypatch.setattr(images, 'SECONDS', 0)
    first, second = find(root), find(root)
    assert first.errors == second.errors  # the sample is the same
    assert f'{images.BATCH} of {2 * images.BATCH} images' in first.notes[0]
    assert f'{images.BATCH} of {images.BATCH} images opened' in first.errors[0]


def test_image_of_another_size_is_named(root):
    cv2.imwrite(str(root / 'train2017' / '11.png'), np.zeros((96, 64, 3), np.uint8))
    assert_one_error(root, root / 'train2017' / '11.png', '64x96', '96x64')
