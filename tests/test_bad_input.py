"""Images, boxes and settings that spoil a training: each works, or is named in a sentence."""

import copy
import errno
from argparse import Namespace

import cv2
import numpy as np
import pytest
import torch
from coco_folder import read_annotations, write_annotations, write_coco_folder
from detector_step import tiny_batch
from e2e_model import MODEL
from mmcv.transforms import LoadImageFromFile
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from PIL import Image
from run_tool import run_tool
from tiny_detector import plain_text, retinanet, run_config, train

from mmdet_mobileformer import errors
from mmdet_mobileformer.engine import LoadWholeImage
from mmdet_mobileformer.engine.images import truncation
from mmdet_mobileformer.errors import LocalError, UserError
from mmdet_mobileformer.launch.config import load_config
from mmdet_mobileformer.launch.hardening import harden_loading, harden_training


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(Config, 'pretty_text', property(plain_text))
    init_default_scope('mmdet')


@pytest.fixture
def data(tmp_path):
    return write_coco_folder(tmp_path / 'coco', num_train=2, num_val=2)


def add_image(root, name, pixels, boxes=((4, 4, 30, 30),), width=None, height=None, **annotation):
    """Add a training image with boxes of the first category; `pixels` may be an encoded file."""
    path = root / 'train2017' / name
    if isinstance(pixels, bytes):
        path.write_bytes(pixels)
    else:
        Image.fromarray(pixels).save(path)
        height, width = pixels.shape[:2]
    content = read_annotations(root)
    image = {
        'id': 100 + len(content['images']),
        'file_name': name,
        'width': width,
        'height': height,
    }
    content['images'].append(image)
    for box in boxes:
        entry = dict(id=1000 + len(content['annotations']), image_id=image['id'], category_id=7)
        entry.update(bbox=list(box), area=box[2] * box[3], iscrowd=0, **annotation)
        content['annotations'].append(entry)
    write_annotations(root, 'train2017', content)


NOISE = np.random.default_rng(0).integers(0, 255, (64, 96, 4), dtype=np.uint8)


def rotated_by_exif(path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    Image.fromarray(NOISE[..., :3]).save(path, exif=exif)


@pytest.mark.parametrize('model', [None, MODEL], ids=['retinanet', 'e2e'])
def test_unusual_images_train(data, tmp_path, model):
    add_image(data, 'grey.png', NOISE[..., 0])
    add_image(data, 'rgba.png', NOISE)
    add_image(data, '16 bit.png', NOISE[..., 0].astype(np.uint16) * 256)
    add_image(data, 'two pixels.png', NOISE[:2, :2], boxes=[(0, 0, 2, 2)])
    add_image(data, 'ширина 幅.png', np.tile(NOISE[:2, :, :3], (1, 8, 1)), boxes=[(0, 0, 50, 2)])
    add_image(data, 'no objects.png', NOISE[..., :3], boxes=[])
    add_image(data, 'many objects.png', NOISE[..., :3], boxes=[(4, 4, 30, 30)] * 15)
    add_image(
        data, 'outside.png', NOISE[..., :3], boxes=[(-9, -9, 8, 8), (5, 5, 0, 9), (1, 1, 0.5, 3)]
    )
    rotated_by_exif(data / 'train2017' / 'turned.jpg')
    content = (data / 'train2017' / 'turned.jpg').read_bytes()
    add_image(data, 'turned.jpg', content, boxes=[(4, 40, 30, 50)], width=64, height=96)
    model = copy.deepcopy(model or retinanet())
    model['backbone']['norm_eval'] = True  # of one pixel alone there are no statistics
    runner = train(data, tmp_path / 'work', model)
    assert runner.iter == 2 + 9  # MODEL has 12 queries, so 15 objects are more than those
    assert all(torch.isfinite(value).all() for value in runner.model.state_dict().values())


def test_image_of_one_pixel_is_named(tmp_path):
    Image.fromarray(NOISE[:1]).save(tmp_path / 'line.png')
    with pytest.raises(
        LocalError, match=r'line\.png cannot be read \(it is one pixel wide or high'
    ):
        LoadWholeImage()(dict(img_path=str(tmp_path / 'line.png')))


def test_how_images_are_read(tmp_path):
    load = LoadWholeImage()
    Image.fromarray(NOISE).save(tmp_path / 'rgba.png')
    image = load(dict(img_path=str(tmp_path / 'rgba.png')))['img']
    assert np.array_equal(image, NOISE[..., 2::-1])  # blue first, without transparency
    deep = NOISE[..., 0].astype(np.uint16) * 256 + 17
    Image.fromarray(deep).save(tmp_path / 'deep.png')
    image = load(dict(img_path=str(tmp_path / 'deep.png')))['img']
    assert image.dtype == np.uint8 and np.array_equal(image[..., 0], deep // 256)
    rotated_by_exif(tmp_path / 'turned.jpg')
    assert load(dict(img_path=str(tmp_path / 'turned.jpg')))['img'].shape == (96, 64, 3)


@pytest.mark.parametrize('ending', ['jpg', 'png'])
def test_truncated_image_is_recognised(tmp_path, ending):
    path = tmp_path / f'image.{ending}'
    cv2.imwrite(str(path), NOISE[..., :3])
    content = path.read_bytes()
    assert truncation(str(path)) is None
    path.write_bytes(content + b'\xff\xda trailing')  # as some cameras write
    assert truncation(str(path)) is None
    path.write_bytes(content[: len(content) // 2])
    assert truncation(str(path))
    with pytest.raises(LocalError, match=f'image.{ending} cannot be read'):
        LoadWholeImage()(dict(img_path=str(path)))


def test_broken_image_stops_by_default_and_is_listed_when_skipped(data, tmp_path, capfd):
    path = data / 'train2017' / '11.png'
    path.write_bytes(path.read_bytes()[:500])
    (data / 'val2017' / '10.png').write_bytes(b'')
    cfg = Config(run_config(data, tmp_path / 'work', 1, model=retinanet(), num_workers=1))
    cfg.default_hooks.checkpoint.save_best = None
    cfg.log_level = 'WARNING'
    cfg.dump(tmp_path / 'tiny.py')
    assert run_tool('train', tmp_path / 'tiny.py') == 2
    said = capfd.readouterr().err
    assert str(path) in said and '--skip-bad-images' in said and 'Traceback' not in said
    assert run_tool('train', tmp_path / 'tiny.py', '--skip-bad-images') == 0
    said = ''.join(capfd.readouterr())
    assert 'Skipped 2 images that cannot be read' in said and str(path) in said
    listed = (tmp_path / 'work' / 'bad_images.txt').read_text()
    assert str(path) in listed and '10.png' in listed

    # An evaluation lists its own images alone, and leaves training's list.
    cfg.merge_from_dict(
        {f'test_{name}': cfg[f'val_{name}'] for name in ('dataloader', 'evaluator')}
    )
    cfg.test_cfg = dict()
    cfg.default_hooks.visualization = dict(type='DetVisualizationHook')
    cfg.visualizer = dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
    cfg.dump(tmp_path / 'tiny.py')
    report = tmp_path / 'work' / 'bad_images_of_test.txt'
    report.write_text('of-an-earlier-run.png\tbroken\n')
    checkpoint = tmp_path / 'work' / 'epoch_1.pth'
    flags = ['--skip-bad-images', '--show-dir', tmp_path / 'pictures']
    assert run_tool('test', tmp_path / 'tiny.py', checkpoint, *flags) == 0
    assert [path.stem for path in (tmp_path / 'pictures').iterdir()] == ['11']
    assert (tmp_path / 'work' / 'bad_images.txt').read_text() == listed
    (line,) = report.read_text().splitlines()
    assert '10.png' in line


def test_pipelines_and_wrappers_are_hardened_wherever_and_however_they_are_named(data, tmp_path):
    cfg = Config(run_config(data, tmp_path, 1))
    cfg.custom_hooks = [
        dict(type='PipelineSwitchHook', switch_pipeline=[dict(type=LoadImageFromFile)])
    ]
    cfg.optim_wrapper.type = OptimWrapper
    harden_training(cfg)
    harden_loading(cfg, skip_bad_images=True)
    (loading,) = cfg.custom_hooks[0]['switch_pipeline']
    assert loading['type'] == 'mmdet.LoadWholeImage' and loading['on_error'] == 'replace'
    assert cfg.optim_wrapper.type == 'FiniteOptimWrapper'


def test_a_config_that_imports_what_is_not_installed(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("custom_imports = dict(imports=['not_installed_here'])\n")
    with pytest.raises(UserError, match=r'config\.py.*not_installed_here'):
        load_config(Namespace(config=str(config), cfg_options=None))


def test_a_full_disk_under_the_logs_is_a_sentence(capsys):
    def main():
        raise OSError(errno.ENOSPC, 'No space left on device', 'scalars.json')

    with pytest.raises(SystemExit) as end:
        errors.run_tool(main)
    assert end.value.code == 2
    assert 'scalars.json cannot be written (No space left' in capsys.readouterr().err


def test_error_of_a_loader_worker_is_one_sentence(data, tmp_path, capsys):
    cfg = Config(run_config(data, tmp_path / 'work', 1, model=retinanet(), num_workers=1))
    harden_loading(cfg)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    (data / 'train2017' / '10.png').unlink()
    with pytest.raises(SystemExit):
        errors.run_tool(lambda: list(loader))
    said = capsys.readouterr().err
    assert '10.png cannot be read' in said and len(said.splitlines()) == 1


@pytest.mark.parametrize('kind', ['retinanet', 'e2e'])
def test_crowds_are_no_targets(kind):
    # As in DETR and in mmdet's RetinaNet without `ignore_iof_thr`, a crowd box changes nothing: the
    # area counts as background unless another box covers it.
    torch.manual_seed(0)
    model = MODELS.build(retinanet() if kind == 'retinanet' else copy.deepcopy(MODEL)).train()
    losses = []
    for ignored in (0, 1):
        batch = tiny_batch(3, size=(64, 64), num_images=1)
        sample = batch['data_samples'][0]
        crowd = InstanceData(bboxes=torch.tensor([[1.0, 1, 60, 60]]), labels=torch.tensor([0]))
        sample.ignored_instances = crowd[:ignored]
        sample.gt_instances = sample.gt_instances[:0]  # the image has nothing but the crowd
        torch.manual_seed(1)
        losses.append(model(**model.data_preprocessor(batch, True), mode='loss'))
    for name, value in losses[0].items():
        one, other = (
            torch.stack(list(torch.atleast_1d(v))) if torch.is_tensor(v) else torch.stack(v)
            for v in (value, losses[1][name])
        )
        assert torch.isfinite(one).all() and torch.allclose(one, other), name
