"""The data check finds what would stop or spoil a run, names it, and lets good data pass."""

import copy
import os

import pytest
from checked_folder import assert_one_error, edit, find, make_cfg
from coco_folder import CLASSES, annotation_file, read_annotations, write_coco_folder
from mmdet.utils import register_all_modules

from mmdet_mobileformer.data_check.check import check_data, run_data_check
from mmdet_mobileformer.errors import UserError


@pytest.fixture(scope='module', autouse=True)
def _registered():
    register_all_modules()


@pytest.fixture
def root(tmp_path):
    return write_coco_folder(tmp_path / 'coco')


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


NOT_FINITE = [[1, 2, float(value), 4] for value in ('nan', 'inf', '-inf')]


@pytest.mark.parametrize(
    'bbox',
    [[1, 2, 3], [1, 2, 3, 4, 5], [1, 2, None, 4], [1, 2, '3', 4], [[1], 2, 3, 4], [], *NOT_FINITE],
)
def test_box_that_is_not_four_finite_numbers_is_an_error(root, bbox):
    edit(root, lambda data: data['annotations'][2].update(bbox=bbox))
    assert_one_error(root, annotation_file(root), data_id(root, 2), '[x, y, width, height]')


def data_id(root, index):
    return read_annotations(root)['annotations'][index]['id']


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


@pytest.mark.parametrize('change', [dict(bbox=[1, 1, 0, 0]), dict(iscrowd=1)])
def test_no_box_to_learn_is_an_error(root, change):
    edit(root, lambda data: [a.update(change) for a in data['annotations']])
    assert_one_error(root, 'no box', '12 annotations', 'iscrowd')
    assert_one_error(root, 'no box', filter_empty_gt=False)


def test_no_annotation_is_an_error_only_where_empty_images_are_dropped(root):
    edit(root, lambda data: data.update(annotations=[]))
    assert_one_error(root, 'no box')
    assert find(root, filter_empty_gt=False).errors == []


@pytest.mark.parametrize(('queries', 'per_image'), [(2, 100), (100, 2), (2, None), (None, 2)])
def test_more_objects_than_the_detector_finds_are_a_warning(root, queries, per_image):
    cfg = make_cfg(root)
    cfg.model.update(num_queries=queries, test_cfg=dict(max_per_img=per_image))
    (warning,) = check_data(cfg, ('train', 'val')).warnings
    limits = {'model.num_queries': queries, 'model.test_cfg.max_per_img': per_image}
    for name, value in limits.items():
        assert (f'{name}=3' in warning) == (value == 2)
    assert 'up to 3' in warning and '4 of 12 objects' in warning
    assert check_data(cfg, ('val',)).warnings == []  # nothing is trained
    cfg.model.update(num_queries=3, test_cfg=dict(max_per_img=-1))  # no limit
    assert check_data(cfg, ('train', 'val')).warnings == []
    cfg.model.update(test_cfg=dict(rcnn=dict(max_per_img=2)))
    assert 'model.test_cfg.rcnn.max_per_img=3' in check_data(cfg, ('train',)).warnings[0]


def test_only_objects_that_are_learned_count_against_the_limit(root):
    cfg = make_cfg(root, classes=CLASSES[:2], num_classes=2)
    cfg.update(data_check=dict(other_categories='ignore'))
    cfg.model.update(num_queries=2)
    assert check_data(cfg, ('train', 'val')).warnings == []
    edit(root, lambda data: data['annotations'][0].update(iscrowd=1))
    cfg.model.update(num_queries=1)
    assert '3 of 7 objects' in check_data(cfg, ('train', 'val')).warnings[0]


def test_images_without_objects_and_crowds_are_fine(root):
    def some_crowd(data):
        data['annotations'] = data['annotations'][:3]
        for annotation in data['annotations'][1:]:
            annotation['iscrowd'] = 1

    edit(root, some_crowd)
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
