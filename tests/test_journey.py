"""From data to labelled pictures by the tools: train, predict, export, predict with the file."""

import copy
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from coco_folder import CLASSES, write_coco_folder
from e2e_model import ANCHORED, MODEL
from mmengine.config import Config
from pycocotools.coco import COCO
from run_tool import run_tool
from tiny_detector import retinanet, run_config


def retinanet_of_five_levels():
    """Its last level, of stride 128, is one pixel high where an image has less than 129."""
    cfg = retinanet()
    cfg['backbone'].update(out_indices=(2, 3, 4))
    cfg['neck'].update(in_channels=[8, 16, 16], num_outs=5, add_extra_convs='on_output')
    cfg['bbox_head'].update(
        # So random that no two detections score the same.
        init_cfg=dict(type='Normal', layer='Conv2d', std=0.3)
    )
    strides = [8, 16, 32, 64, 128]
    cfg['bbox_head']['anchor_generator'].update(strides=strides, ratios=[0.5, 1.0, 2.0])
    return cfg


def anchored():
    cfg = copy.deepcopy(dict(MODEL, **ANCHORED))
    scales = [
        dict(num_blocks=1, mobile='attention', mid_channels=32),
        dict(num_blocks=2, mobile='lite', mid_channels=32, proposal_maps=1),
    ]
    cfg['decoder'].update(scales=scales, anchored=True)
    cfg['backbone'].update(out_indices=(3, 4))
    cfg['neck'].update(in_channels=[24, 32])
    return cfg


@pytest.fixture(scope='module', params=[retinanet_of_five_levels, anchored])
def trained(request, tmp_path_factory):
    """Folder of the data and work directory of a run of one epoch."""
    folder = tmp_path_factory.mktemp('journey')
    data = write_coco_folder(folder / 'data')
    settings = run_config(data, folder / 'run', 1, model=request.param())
    settings['train_cfg']['val_interval'] = 1
    settings['default_hooks']['checkpoint'].pop('save_best')
    for part in ('dataloader', 'evaluator'):
        settings[f'test_{part}'] = copy.deepcopy(settings[f'val_{part}'])
    settings['test_cfg'] = dict(type='TestLoop')
    settings['visualizer'] = dict(type='DetLocalVisualizer', name='visualizer')
    Config(settings).dump(folder / 'tiny.py')
    assert run_tool('train', folder / 'tiny.py', '--work-dir', folder / 'run') == 0
    return data, folder / 'run'


def results(path):
    found = json.loads(path.read_text())
    return sorted((r['image_id'], r['category_id'], -r['score'], *r['bbox']) for r in found)


def test_train_predict_export_predict(trained, tmp_path, capsys, monkeypatch):
    data, work_dir = trained
    pictures, out = data / 'val2017', tmp_path / 'pictures'
    flags = ['--out-dir', out, '--score-thr', '0.01']
    files = [tmp_path / name for name in ('torch.json', 'onnx.json')]
    words = [work_dir, pictures, *flags, '--json', files[0], '--batch-size', '2']
    assert run_tool('predict', *words) == 0
    said = capsys.readouterr().out
    assert '3 images in ' in said and 'images/s)' in said
    for name in ('10.png', '11.png', '12.png'):
        drawn, plain = (cv2.imread(str(folder / name)) for folder in (out, pictures))
        assert drawn.shape == plain.shape and (drawn != plain).any()
    # The ids are those of the annotations: pycocotools takes the file.
    annotations = COCO(str(data / 'annotations' / 'instances_val2017.json'))
    annotations.loadRes(str(files[0]))
    assert {r[1] for r in results(files[0])} <= set(annotations.getCatIds())

    model = tmp_path / 'model.onnx'
    assert run_tool('export_onnx', work_dir, model) == 0
    shutil.rmtree(out)
    # ONNX Runtime takes the CPU, whether there is a GPU or not.
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    assert run_tool('predict', model, pictures, *flags, '--json', files[1]) == 0
    assert len(list(out.glob('*.png'))) == 3
    ours, theirs = map(results, files)
    assert len(ours) == len(theirs) > 0
    assert np.allclose(ours, theirs, atol=0.1)


@pytest.mark.parametrize('trained', [retinanet_of_five_levels], indirect=True)
def test_a_file_that_failed_its_comparison_does_not_stay(trained, tmp_path, capsys):
    model = tmp_path / 'model.onnx'
    assert run_tool('export_onnx', trained[1], model, '--tolerance', '0', '0') == 2
    assert 'was removed' in capsys.readouterr().err and not model.exists()


def test_the_page_on_inference_runs(trained, tmp_path, monkeypatch, capsys):
    data, work_dir = trained
    monkeypatch.chdir(tmp_path)
    shutil.copy(data / 'val2017' / '10.png', 'picture.jpg')
    page = (Path(__file__).parents[1] / 'docs' / 'inference.md').read_text()
    (code,) = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    exec(code.replace('WORK_DIR', str(work_dir)), {})
    assert str(CLASSES) in capsys.readouterr().out
    assert (tmp_path / 'pictures' / 'vis' / 'picture.jpg').exists()


def test_a_refused_training_leaves_the_config_of_the_run(trained, tmp_path, capsys):
    data, work_dir = trained
    (config,) = work_dir.glob('*.py')
    before = config.read_text()
    other = write_coco_folder(tmp_path / 'other', num_train=5)
    words = [data.parent / 'tiny.py', '--work-dir', work_dir, '--data-root', other, '--resume']
    assert run_tool('train', *words) == 2
    assert 'there are 5' in capsys.readouterr().err and config.read_text() == before


class Camera:
    """OpenCV's capture of a camera that is looked through until Ctrl-C."""

    def __init__(self, number):
        assert number == 0
        self.frames = iter(np.zeros((3, 64, 96, 3), np.uint8))

    def isOpened(self):  # noqa: N802 (OpenCV's name)
        return True

    def get(self, what):
        return 0.0

    def read(self):
        image = next(self.frames, None)
        if image is None:
            raise KeyboardInterrupt
        return True, image


def test_a_camera_ends_with_ctrl_c_and_keeps_what_it_saw(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cv2, 'VideoCapture', Camera)
    assert run_tool('predict', trained[1], '0', '--json', 'found.json') == 0
    assert '3 images in' in capsys.readouterr().out
    assert {image for image, *_ in results(Path('found.json'))} == {1, 2, 3}


def test_what_can_be_detected_in(trained, tmp_path, capsys, monkeypatch):
    data, work_dir = trained
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'mixed').mkdir()
    shutil.copy(data / 'val2017' / '10.png', 'mixed/good.png')
    (tmp_path / 'mixed' / 'bad.jpg').write_bytes(b'no picture')
    assert run_tool('predict', work_dir, 'mixed') == 0
    said = capsys.readouterr().out
    assert 'skipped mixed/bad.jpg' in said and '1 skipped' in said
    assert [path.name for path in (tmp_path / 'predictions').iterdir()] == ['good.png']

    # Roboflow's layout: the annotation file lies among the images.
    shutil.copytree('mixed', 'valid', ignore=shutil.ignore_patterns('bad.jpg'))
    categories = [dict(id=10 * index, name=name) for index, name in enumerate(CLASSES, 1)]
    annotations = dict(images=[dict(id=77, file_name='good.png')], categories=categories)
    Path('valid/_annotations.coco.json').write_text(json.dumps(annotations))
    assert run_tool('predict', work_dir, 'valid', '--json', 'found.json') == 0
    found = results(Path('found.json'))
    assert {(image, category % 10) for image, category, *_ in found} == {(77, 0)}

    writer = cv2.VideoWriter('in.avi', cv2.VideoWriter_fourcc(*'MJPG'), 5, (96, 64))
    for value in (0, 100, 200):
        writer.write(np.full((64, 96, 3), value, np.uint8))
    writer.release()
    assert run_tool('predict', work_dir, 'in.avi', '--classes', CLASSES[0]) == 0
    assert cv2.VideoCapture('predictions/in.mp4').get(cv2.CAP_PROP_FRAME_COUNT) == 3
    shutil.copy('valid/_annotations.coco.json', '.')  # of pictures, not of a video beside it
    assert run_tool('predict', work_dir, 'in.avi', '--json', 'found.json') == 0
    found = results(Path('found.json'))
    assert found
    assert {category for _, category, *_ in found} <= set(range(1, len(CLASSES) + 1))

    (tmp_path / 'empty').mkdir()
    capsys.readouterr()
    for words, sentence in (
        (['empty'], 'empty is no picture, and no folder or pattern of any'),
        (['nowhere.jpg'], 'nowhere.jpg is no picture'),
        (['*.nothing'], '*.nothing is no picture'),
        (['mixed/bad.jpg'], 'no picture of mixed/bad.jpg could be read'),
        (['mixed', '--classes', 'kangaroo'], "does not know 'kangaroo'"),
        (['mixed', '--out-dir', 'mixed'], 'holds the pictures themselves'),
        (['mixed', '--device', 'cuda:7'], '--device cuda:7 cannot be used'),
        (['mixed', '--batch-size', '0'], '--batch-size 0 must be at least 1'),
        ([], 'names no picture'),
    ):
        assert run_tool('predict', work_dir, *words) == 2
        assert sentence in capsys.readouterr().err
