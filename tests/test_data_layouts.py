"""Folders that --data-root takes: Roboflow's, and those that have to be converted first."""

import json

import pytest
from coco_folder import CLASSES, read_annotations, write_annotations, write_coco_folder
from mmdet.utils import register_all_modules
from mmengine.config import Config
from tiny_detector import run_config

from mmdet_mobileformer.config_tree import data_sources
from mmdet_mobileformer.data_check.check import check_data
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.data_flags import annotated_classes, set_classes, set_data_root


@pytest.fixture(scope='module', autouse=True)
def _registered():
    register_all_modules()


@pytest.fixture
def cfg():
    cfg = Config(run_config('data/coco', 'work_dirs/x', 1))
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    return Config(cfg.to_dict())


@pytest.fixture
def roboflow(tmp_path):
    """A folder as Roboflow exports it, whose first category only names the others."""
    coco = write_coco_folder(tmp_path / 'coco')
    for split, name in (('train2017', 'train'), ('val2017', 'valid')):
        (coco / split).rename(tmp_path / name)
        content = read_annotations(coco, split)
        for category in content['categories']:
            category['supercategory'] = 'figures'
        content['categories'].insert(0, dict(id=0, name='figures', supercategory='none'))
        (tmp_path / name / '_annotations.coco.json').write_text(json.dumps(content))
    return tmp_path


def test_roboflow_folder_trains_with_the_classes_that_it_annotates(cfg, roboflow, capsys):
    set_data_root(cfg, str(roboflow))
    classes = annotated_classes(cfg)
    assert classes == CLASSES
    assert "leaves 'figures' of" in capsys.readouterr().out
    set_classes(cfg, classes)
    folders = {source.split: source.folder for source in data_sources(cfg)}
    valid = f'{roboflow}/valid/'
    assert folders == dict(train=f'{roboflow}/train/', val=valid, test=valid)
    assert cfg.val_evaluator.ann_file == f'{valid}_annotations.coco.json'
    findings = check_data(cfg, ('train', 'val', 'test'))
    assert (findings.errors, findings.warnings, findings.notes) == ([], [], [])


def test_roboflow_folder_of_tests_serves_for_tests(cfg, roboflow):
    (roboflow / 'test').mkdir()
    (roboflow / 'valid' / '_annotations.coco.json').rename(
        roboflow / 'test' / '_annotations.coco.json'
    )
    set_data_root(cfg, str(roboflow))
    assert next(data_sources(cfg, 'test')).folder == f'{roboflow}/test/'
    assert cfg.test_evaluator.ann_file == f'{roboflow}/test/_annotations.coco.json'


@pytest.mark.parametrize(('name', 'stays'), [('__background__', False), ('other', True)])
def test_category_without_annotation_is_left_out_where_it_means_the_background(
    cfg, tmp_path, name, stays
):
    root = write_coco_folder(tmp_path / 'coco')
    for split in ('train2017', 'val2017'):
        content = read_annotations(root, split)
        content['categories'].append(dict(id=99, name=name, supercategory=name))
        write_annotations(root, split, content)
    set_data_root(cfg, str(root))
    assert (name in annotated_classes(cfg)) == stays


FILES = {
    'yolo': 'data.yaml images/train/a.jpg labels/train/a.txt images/val/b.jpg labels/val/b.txt',
    'yolo of Roboflow': 'data.yaml train/images/a.jpg train/labels/a.txt valid/labels/b.txt '
    'valid/images/b.jpg',
    'yolo without parts': 'data.yaml images/a.jpg labels/a.txt',
    'voc': 'JPEGImages/a.jpg Annotations/a.xml',
    'voc with lists': 'JPEGImages/a.jpg Annotations/a.xml ImageSets/Main/train.txt '
    'ImageSets/Main/val.txt',
    'voc beside images': 'train/a.jpg train/a.xml valid/b.jpg valid/b.xml',
}
WORDS = {
    'yolo': ['YOLO', "from_yolo(images, labels, '{0}/data.yaml')", "'{0}/labels/val'"],
    'yolo of Roboflow': ['YOLO', "('{0}/train/images', '{0}/train/labels')", '{0}/valid/images'],
    'yolo without parts': ['YOLO', "from_yolo('{0}/images', '{0}/labels'", 'split(0.8'],
    'voc': ['Pascal VOC', "from_pascal_voc('{0}/JPEGImages', '{0}/Annotations')", 'split(0.8'],
    'voc with lists': ['Pascal VOC', '$(cat {0}/ImageSets/Main/$s.txt)', 'globox convert {0}/$s '],
    'voc beside images': ['Pascal VOC', 'globox convert {0}/train ', 'globox convert {0}/valid '],
}


@pytest.mark.parametrize('layout', FILES)
def test_other_layouts_are_answered_with_the_command_that_converts_them(cfg, tmp_path, layout):
    for name in FILES[layout].split():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(UserError) as error:
        set_data_root(cfg, str(tmp_path))
    for words in WORDS[layout]:
        assert words.format(tmp_path) in str(error.value)
    assert len(str(error.value).splitlines()) == 2  # the command stands on a line of its own


def test_converted_folder_is_taken(cfg, tmp_path):
    """What the command for YOLO leaves: an annotation file among the images."""
    coco = write_coco_folder(tmp_path / 'coco')
    for split, name in (('train2017', 'train'), ('val2017', 'val')):
        (tmp_path / 'labels' / name).mkdir(parents=True)
        (tmp_path / 'labels' / name / '10.txt').touch()
        (tmp_path / 'images').mkdir(exist_ok=True)
        (coco / split).rename(tmp_path / 'images' / name)
        (coco / f'annotations/instances_{split}.json').rename(
            tmp_path / 'images' / name / '_annotations.coco.json'
        )
    set_data_root(cfg, str(tmp_path))
    assert check_data(cfg, ('train', 'val', 'test')).errors == []
