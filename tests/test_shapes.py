"""The embedded shapes: exact annotations, the same bytes each time, and safe writing."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmengine.config import Config
from pycocotools.coco import COCO
from run_tool import run_tool

from mmdet_mobileformer.datasets import (
    CLASSES,
    ShapesSpec,
    render_scene,
    write_shapes_dataset,
)
from mmdet_mobileformer.datasets.shapes import MIN_VISIBLE, SIZE_RANGES, rasterise

ROOT = Path(__file__).parents[1]
SPEC = ShapesSpec(num_train=60, num_val=12, width=160, height=120, seed=3)
SIZE = (SPEC.width, SPEC.height)


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    """A small set on the disk."""
    root = tmp_path_factory.mktemp('data') / 'shapes'
    assert write_shapes_dataset(root, SPEC)
    return root


def annotations_of(root, split):
    return COCO(str(root / f'annotations/instances_{split}2017.json'))


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob('*') if p.is_file()}


@pytest.mark.parametrize(
    ('kind', 'area'),
    [
        ('circle', np.pi),
        ('ring', np.pi * 0.75),
        ('square', 2),
        ('triangle', np.sqrt(27) / 4),
        ('star', 5 * 0.42 * np.sin(np.pi / 5)),
    ],
)
@pytest.mark.parametrize('angle', [0, 17, 45, 290])
def test_a_shape_fills_the_area_of_its_outline(kind, area, angle):
    radius = 40
    left, top, mask = rasterise(kind, (1003, 998), radius * 16, angle)
    assert mask.sum() == pytest.approx(area * radius**2, rel=0.02)
    # nothing is cut at the patch's edge, and nothing reaches beyond the circumscribed circle
    assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
    y, x = np.nonzero(mask)
    assert np.hypot(x + left + 0.5 - 1003 / 16, y + top + 0.5 - 998 / 16).max() <= radius + 0.1


def test_a_scene_follows_from_seed_split_and_index_alone():
    image, instances = render_scene(5, 'train', 9, SIZE)
    again, instances_again = render_scene(5, 'train', 9, SIZE)
    assert np.array_equal(image, again)
    assert all(
        np.array_equal(a.mask, b.mask) for a, b in zip(instances, instances_again, strict=True)
    )
    for other in ((6, 'train', 9), (5, 'val', 9), (5, 'train', 10)):
        assert not np.array_equal(image, render_scene(*other, SIZE)[0])


def test_shapes_stay_mostly_visible_and_leave_crowds_alone():
    areas = []
    for index in range(120):
        image, instances = render_scene(0, 'train', index, (320, 240))
        assert image.shape == (240, 320, 3) and image.dtype == np.uint8
        assert np.sum([instance.mask for instance in instances], axis=0).max(initial=0) <= 1
        areas += [instance.mask.sum() for instance in instances if not instance.is_crowd]
    # the smallest shape, cut as far as it may be, with a little for rounding to pixels
    assert min(areas) >= 0.95 * MIN_VISIBLE * SIZE_RANGES[0][0] ** 2
    small, large = (np.array(areas) < 32**2).mean(), (np.array(areas) > 96**2).mean()
    assert small > 0.1 and large > 0.1 and small + large < 0.7


def test_the_picture_shows_what_the_mask_says():
    """Far from its outline a shape's pixels differ from the same place without it."""
    for index in range(20):
        image, instances = render_scene(0, 'val', index, (320, 240))
        for instance in instances:
            inner = cv2.erode(instance.mask.astype(np.uint8), np.ones((7, 7))) > 0
            ring = cv2.dilate(instance.mask.astype(np.uint8), np.ones((9, 9))) > 0
            outside = ring & ~np.any([other.mask for other in instances], axis=0)
            if inner.sum() > 200 and outside.sum() > 200:
                saturation = [np.ptp(image[m].mean(0)) for m in (inner, outside)]
                assert saturation[0] > saturation[1]


@pytest.mark.parametrize('split', ['train', 'val'])
def test_annotations_are_exact(shapes, split):
    coco = annotations_of(shapes, split)
    assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    num_images = SPEC.num_images(split)
    assert len(coco.imgs) == num_images
    assert len(list((shapes / f'{split}2017').iterdir())) == num_images
    for image in coco.imgs.values():
        pixels = cv2.imread(str(shapes / f'{split}2017' / image['file_name']))
        assert pixels.shape == (image['height'], image['width'], 3) == (*SIZE[::-1], 3)
        scene, instances = render_scene(SPEC.seed, split, image['id'] - 1, SIZE)
        assert np.abs(pixels.astype(int) - scene).mean() < 6  # what JPEG leaves of it
        annotations = coco.imgToAnns[image['id']]
        assert len(annotations) == len(instances)
        for annotation, instance in zip(annotations, instances, strict=True):
            mask = coco.annToMask(annotation)
            assert np.array_equal(mask, instance.mask)
            assert annotation['area'] == mask.sum()
            y, x = np.nonzero(mask)
            assert annotation['bbox'] == [
                x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]  # fmt: skip
            assert annotation['category_id'] == instance.label + 1
            assert annotation['iscrowd'] == instance.is_crowd


def test_the_set_has_empty_images_and_crowds(shapes):
    coco = annotations_of(shapes, 'train')
    assert any(not coco.imgToAnns[image] for image in coco.imgs)
    assert coco.getAnnIds(iscrowd=True)
    assert {a['category_id'] for a in coco.anns.values()} == set(coco.cats)


def test_the_same_set_comes_out_again_and_is_left_as_it_is(shapes, tmp_path):
    before = contents(shapes)
    stamps = {p: p.stat().st_mtime_ns for p in shapes.rglob('*')}
    assert write_shapes_dataset(shapes, SPEC) is False
    assert stamps == {p: p.stat().st_mtime_ns for p in shapes.rglob('*')}
    (tmp_path / 'new').mkdir()  # an empty folder is as good as none
    assert write_shapes_dataset(tmp_path / 'new', SPEC)
    assert contents(tmp_path / 'new') == before
    assert [p.name for p in tmp_path.iterdir()] == ['new']


def test_more_images_begin_with_the_same_ones(shapes, tmp_path):
    write_shapes_dataset(tmp_path / 'more', ShapesSpec(2, 14, *SIZE, SPEC.seed))
    longer, shorter = contents(tmp_path / 'more'), contents(shapes)
    assert all(longer[p] == shorter[p] for p in shorter if p.parts[0] == 'val2017')


def test_another_folder_is_refused_and_kept(shapes, tmp_path):
    with pytest.raises(FileExistsError, match=r'something else .*choose another folder'):
        write_shapes_dataset(shapes, ShapesSpec(1, 1))
    (tmp_path / 'mine.txt').write_text('keep')
    with pytest.raises(FileExistsError, match='holds something else'):
        write_shapes_dataset(tmp_path, SPEC)
    assert [p.name for p in tmp_path.iterdir()] == ['mine.txt']
    with pytest.raises(FileExistsError, match='holds something else'):
        write_shapes_dataset(tmp_path / 'mine.txt', SPEC)


def test_a_damaged_set_is_refused(tmp_path):
    spec = ShapesSpec(2, 1, 64, 64)
    write_shapes_dataset(tmp_path / 'set', spec)
    (tmp_path / 'set/annotations/instances_train2017.json').write_text('[1')
    with pytest.raises(FileExistsError, match='holds something else'):
        write_shapes_dataset(tmp_path / 'set', spec)


def test_nothing_is_left_of_an_interrupted_run(tmp_path, monkeypatch):
    def interrupted(seed, split, index, size):
        if index == 3:
            raise KeyboardInterrupt
        return render_scene(seed, split, index, size)

    monkeypatch.setattr('mmdet_mobileformer.datasets.shapes_coco.render_scene', interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_shapes_dataset(tmp_path / 'set', ShapesSpec(5, 1, 64, 64))
    assert not list(tmp_path.iterdir())


def test_the_config_reads_the_set(shapes):
    cfg = Config.fromfile(ROOT / 'configs/retinanet_mf26m_shapes.py')
    assert cfg.model.bbox_head.num_classes == len(CLASSES)
    for loader, split in ((cfg.train_dataloader, 'train'), (cfg.val_dataloader, 'val')):
        loader.dataset.update(data_root=str(shapes), _scope_='mmdet')
        dataset = DATASETS.build(loader.dataset)
        assert dataset.metainfo['classes'] == CLASSES
        assert len(dataset) == SPEC.num_images(split)  # those without objects included
        coco = annotations_of(shapes, split)
        crowds = {coco.anns[i]['image_id'] for i in coco.getAnnIds(iscrowd=True)}
        for sample in dataset:
            data = sample['data_samples']
            anns = coco.imgToAnns[data.img_id]
            assert len(data.gt_instances) == sum(not a['iscrowd'] for a in anns)
            assert len(data.ignored_instances) == (data.img_id in crowds)


def test_the_tool_writes_finds_and_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        assert run_tool('make_shapes_dataset', *arguments) == 0
        return capsys.readouterr().out

    def refusal(*arguments):
        assert run_tool('make_shapes_dataset', *arguments) == 2
        return capsys.readouterr().err

    options = ('--num-train', '2', '--num-val', '1', '--size', '64x80')
    assert 'wrote 2 training and 1 validation images to data/shapes' in run(*options)
    file = tmp_path / 'data/shapes/annotations/instances_val2017.json'
    assert json.loads(file.read_text())['images'][0]['width'] == 64
    assert 'nothing to do' in run(*options)
    message = refusal(*options, '--seed', '7')
    assert len(message.strip().splitlines()) == 1 and 'holds something else' in message
    assert "'large' is no size; write WIDTHxHEIGHT" in refusal('--size', 'large')
    assert 'non-negative' in refusal('--seed', '-1', '--out', 'other')
