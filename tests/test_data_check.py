"""The data check finds what would stop or spoil a run, names it, and lets good data pass."""

import copy
import os

import cv2
import numpy as np
import pytest
from coco_folder import (
    CLASSES,
    annotation_file,
    read_annotations,
    write_annotations,
    write_coco_folder,
)
from mmdet.utils import register_all_modules
from mmengine.config import Config

from mmdet_mobileformer.data_check.check import check_data, run_data_check
from mmdet_mobileformer.data_check.images import leads_out
from mmdet_mobileformer.errors import UserError


@pytest.fixture(scope='module', autouse=True)
def _registered():
    register_all_modules()


@pytest.fixture
def root(tmp_path):
    return write_coco_folder(tmp_path / 'coco')


def make_cfg(root, classes=CLASSES, num_classes=3, filter_empty_gt=True):
    loaders = {
        f'{split}_dataloader': dict(
            dataset=dict(
                type='CocoDataset',
                data_root=str(root),
                ann_file=f'annotations/instances_{folder}.json',
                data_prefix=dict(img=f'{folder}/'),
                filter_cfg=dict(filter_empty_gt=filter_empty_gt),
                metainfo=dict(classes=classes),
            )
        )
        for split, folder in (('train', 'train2017'), ('val', 'val2017'))
    }
    evaluator = dict(type='CocoMetric', ann_file=str(annotation_file(root, 'val2017')))
    loaders['val_evaluator'] = evaluator
    return Config(dict(model=dict(bbox_head=dict(num_classes=num_classes)), **loaders))


def find(root, **settings):
    return check_data(make_cfg(root, **settings), ('train', 'val'))


def edit(root, change, split='train2017'):
    data = read_annotations(root, split)
    change(data)
    write_annotations(root, split, data)


def assert_one_error(root, *words, **settings):
    errors = find(root, **settings).errors
    assert len(errors) == 1, errors
    for word in words:
        assert str(word) in errors[0]


def test_good_data_passes_without_a_word(root):
    findings = find(root)
    assert (findings.errors, findings.warnings, findings.notes) == ([], [], [])


def test_missing_annotation_file_and_folder_are_both_named(root):
    annotation_file(root).unlink()
    os.rename(root / 'val2017', root / 'elsewhere')
    errors = find(root).errors
    assert len(errors) == 2
    assert str(annotation_file(root)) in errors[0] and '--data-root' in errors[0]
    assert str(root / 'val2017') in errors[1] and '--data-root' in errors[1]


@pytest.mark.parametrize(
    'content', ['{"images": [', '\xff\xfe', '[1, 2]', '{}', 'null', '{"images": {}}']
)
def test_what_is_not_a_coco_file_is_named(root, content):
    annotation_file(root).write_bytes(content.encode('latin1'))
    assert_one_error(root, annotation_file(root))


@pytest.mark.parametrize(
    ('kind', 'field'),
    [
        ('images', 'file_name'),
        ('images', 'width'),
        ('categories', 'name'),
        ('annotations', 'bbox'),
        ('annotations', 'area'),
        ('annotations', 'image_id'),
    ],
)
def test_missing_field_is_named(root, kind, field):
    edit(root, lambda data: data[kind][1].pop(field))
    assert_one_error(root, annotation_file(root), kind, repr(field))


def test_evaluation_needs_iscrowd_and_training_does_not(root):
    edit(root, lambda data: data['annotations'][0].pop('iscrowd'))
    assert find(root).errors == []
    edit(root, lambda data: data['annotations'][0].pop('iscrowd'), 'val2017')
    assert_one_error(root, 'iscrowd')


def test_a_file_that_is_trained_on_and_evaluated_is_checked_for_both(root):
    edit(root, lambda content: content['annotations'][0].pop('iscrowd'))
    cfg = make_cfg(root)
    cfg.val_dataloader.dataset = copy.deepcopy(cfg.train_dataloader.dataset)
    cfg.val_evaluator = dict(type='CocoMetric', ann_file=str(annotation_file(root, 'train2017')))
    (error,) = check_data(cfg, ('train', 'val')).errors
    assert 'iscrowd' in error


@pytest.mark.parametrize('kind', ['LVISV1Dataset', 'CocoPanopticDataset'])
def test_data_that_is_read_in_another_way_is_not_checked(root, kind):
    cfg = make_cfg(root)
    cfg.train_dataloader.dataset.type = kind
    findings = check_data(cfg, ('train',))
    assert not findings.errors and 'is not checked' in findings.notes[0]


@pytest.mark.parametrize(
    'bbox', [[1, 2, 3], [1, 2, 3, 4, 5], [1, 2, None, 4], [1, 2, '3', 4], [[1], 2, 3, 4], []]
)
def test_box_that_is_not_four_numbers_is_an_error(root, bbox):
    edit(root, lambda data: data['annotations'][2].update(bbox=bbox))
    assert_one_error(root, annotation_file(root), data_id(root, 2), '[x, y, width, height]')


def data_id(root, index):
    return read_annotations(root)['annotations'][index]['id']


@pytest.mark.parametrize('value', [float('nan'), float('inf'), float('-inf')])
def test_box_that_is_not_finite_is_an_error(root, value):
    edit(root, lambda data: data['annotations'][2].update(bbox=[1, 2, value, 4]))
    assert_one_error(root, 'not finite', data_id(root, 2))


@pytest.mark.parametrize(
    'bbox', [[5, 5, 0, 9], [5, 5, 9, -3], [5, 5, 0.4, 9], [200, 5, 9, 9], [-30, 5, 20, 20]]
)
def test_box_that_mmdet_drops_is_a_warning(root, bbox):
    edit(root, lambda data: data['annotations'][2].update(bbox=bbox))
    findings = find(root)
    assert findings.errors == []
    assert len(findings.warnings) == 1
    assert '1 of 12 boxes' in findings.warnings[0] and str(data_id(root, 2)) in findings.warnings[0]


def test_number_of_dropped_boxes_is_that_of_mmdet(root):
    from mmdet.registry import DATASETS

    def spoil(data):
        data['annotations'][0].update(bbox=[90, 60, 0.5, 3])
        data['annotations'][4].update(bbox=[96, 10, 5, 5])
        data['annotations'][5].update(area=0)
        data['annotations'][7].update(bbox=[-5, -5, 40, 40])

    edit(root, spoil)
    dataset = DATASETS.build(dict(make_cfg(root).train_dataloader.dataset, pipeline=[]))
    kept = sum(len(dataset.get_data_info(i)['instances']) for i in range(len(dataset)))
    assert f'leaves out {12 - kept} of 12 boxes' in find(root).warnings[0]


def test_boxes_given_as_corners_are_an_error(root):
    def as_corners(data):
        for annotation in data['annotations']:
            annotation['bbox'] = [50, 30, 90, 60]

    edit(root, as_corners)
    assert_one_error(root, 'corners', annotation_file(root))


def test_no_usable_box_is_an_error_only_where_empty_images_are_dropped(root):
    edit(root, lambda data: [a.update(bbox=[1, 1, 0, 0]) for a in data['annotations']])
    assert_one_error(root, 'no box')
    assert find(root, filter_empty_gt=False).errors == []


def test_images_without_objects_and_crowds_are_fine(root):
    def only_crowd(data):
        data['annotations'] = data['annotations'][:3]
        for annotation in data['annotations']:
            annotation['iscrowd'] = 1

    edit(root, only_crowd)
    assert find(root).errors == []


@pytest.mark.parametrize('kind', ['images', 'annotations', 'categories'])
def test_doubled_id_is_an_error(root, kind):
    edit(root, lambda data: data[kind].append(dict(copy.deepcopy(data[kind][0]), name='other')))
    assert any('not unique' in error for error in find(root).errors)


def test_unknown_category_id_is_an_error(root):
    edit(root, lambda data: data['annotations'][0].update(category_id=99))
    assert_one_error(root, 'category id 99', annotation_file(root))


def test_annotation_of_an_unlisted_image_is_a_warning(root):
    edit(root, lambda data: data['annotations'][0].update(image_id=99))
    findings = find(root)
    assert findings.errors == [] and 'does not list' in findings.warnings[0]


def test_category_that_the_config_does_not_know_is_named(root):
    errors = find(root, classes=CLASSES[:2], num_classes=2).errors
    assert len(errors) == 2  # one each for training and validation
    assert "'star'" in errors[0] and '--classes auto' in errors[0]


def test_categories_can_be_left_out_on_purpose(root):
    cfg = make_cfg(root, classes=CLASSES[:2], num_classes=2)
    cfg.data_check = dict(other_categories='ignore')
    findings = check_data(cfg, ('train', 'val'))
    assert findings.errors == [] and "'star'" in findings.notes[0]


def test_evaluator_must_read_the_annotations_of_the_data(root):
    cfg = make_cfg(root)
    cfg.val_evaluator = dict(type='FullCocoMetric', ann_file=str(annotation_file(root)))
    errors = check_data(cfg, ('train', 'val')).errors
    assert len(errors) == 1 and 'val_evaluator.ann_file' in errors[0]
    cfg.val_evaluator.ann_file = str(
        root / 'train2017' / '..' / 'annotations' / 'instances_val2017.json'
    )
    assert check_data(cfg, ('train', 'val')).errors == []


def test_writing_predictions_alone_needs_no_annotations(root):
    edit(root, lambda data: data.pop('annotations'), 'val2017')
    cfg = make_cfg(root)
    cfg.val_evaluator = dict(type='FullCocoMetric', format_only=True, outfile_prefix='found')
    assert check_data(cfg, ('val',)).errors == []
    cfg.val_evaluator.format_only = False
    assert len(check_data(cfg, ('val',)).errors) == 1


def test_class_that_the_data_does_not_know_is_named(root):
    errors = find(root, classes=(*CLASSES, 'cube'), num_classes=4).errors
    assert len(errors) == 2
    assert "'cube'" in errors[0] and 'metainfo.classes' in errors[0]


def test_category_without_annotation_is_a_note(root):
    edit(root, lambda data: data.update(annotations=data['annotations'][:2]))
    findings = find(root)
    assert findings.errors == [] and "'star'" in findings.notes[0]
    edit(root, lambda data: data['categories'].append(dict(id=1, name='unused parent')))
    assert find(root).errors == []


def test_order_of_classes_must_be_that_of_the_file(root):
    errors = find(root, classes=CLASSES[::-1]).errors
    assert len(errors) == 2 and 'order' in errors[0]


def test_wrong_number_of_classes_of_a_head_is_named(root):
    assert_one_error(root, 'model.bbox_head.num_classes', 80, 3, num_classes=80)


def test_missing_images_are_counted_and_the_first_20_named(tmp_path):
    root = write_coco_folder(tmp_path / 'coco', num_train=25)
    for path in (root / 'train2017').iterdir():
        path.unlink()
    assert_one_error(root, '25 of 25', '10.png', '29.png', 'and 5 more')


@pytest.mark.parametrize(
    'name', ['/etc/x.jpg', '../x.jpg', 'a/../../x.jpg', 'C:\\x.jpg', '..\\x.jpg']
)
def test_image_name_that_leads_out_is_refused(root, name):
    assert leads_out(name)
    edit(root, lambda data: data['images'][0].update(file_name=name))
    assert_one_error(root, annotation_file(root), 'outside')


@pytest.mark.parametrize('name', ['x.jpg', 'a/b/x.jpg', 'a..b.jpg', 'Bäume im Wald.jpg', './x.jpg'])
def test_image_name_inside_is_accepted(name):
    assert not leads_out(name)


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
    assert_one_error(root, root / 'train2017' / '11.png', 'cannot be opened')


def test_image_of_another_size_is_named(root):
    cv2.imwrite(str(root / 'train2017' / '11.png'), np.zeros((96, 64, 3), np.uint8))
    assert_one_error(root, root / 'train2017' / '11.png', '64x96', '96x64')


def test_all_problems_are_raised_at_once_and_counted(root):
    def spoil(data):
        for index in range(30):
            data['annotations'].append(
                dict(data['annotations'][0], id=1000 + index, category_id=100 + index)
            )

    edit(root, spoil)
    with pytest.raises(UserError) as error:
        run_data_check(make_cfg(root), ('train', 'val'))
    message = str(error.value)
    assert (
        '30 problem(s)' in message and 'and 10 more' in message and len(message.splitlines()) == 22
    )
