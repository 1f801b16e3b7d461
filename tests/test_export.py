"""Exported files detect what their detectors detect, at any size and in padded batches."""

import copy
import json
import re
import sys

import cv2
import numpy as np
import onnx
import pytest
import torch
from coco_folder import CLASSES, write_annotations
from e2e_model import MODEL, draw_batch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData
from PIL import Image
from run_tool import ROOT, run_tool, start, tool
from tiny_detector import BACKBONE, retinanet, run_config

from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.export import OnnxDetector, compare, onnx_classes, quantize_file
from mmdet_mobileformer.export.check import Difference, _add
from mmdet_mobileformer.export.detections import detection_graph
from mmdet_mobileformer.export.nms import nms_keep
from mmdet_mobileformer.export.onnx_file import halve_weights
from mmdet_mobileformer.launch import check_exports

BATCHES = (((64, 96),), ((101, 65),), ((96, 160), (80, 160), (96, 100)))
# Two scales, each with a block that refines its features.
SMALL_HEAD = dict(
    scales=[
        dict(num_blocks=1, mobile='attention', mid_channels=32),
        dict(num_blocks=2, mobile='lite', mid_channels=32),
    ]
)


def train_a_moment(detector, steps):
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    detector.train()
    for step in range(steps):
        batch = draw_batch([(64, 96)] * 4, seed=step % 4)
        data = detector.data_preprocessor(batch, training=True)
        losses, _ = detector.parse_losses(detector(**data, mode='loss'))
        optimizer.zero_grad()
        losses.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimizer.step()
    return detector.eval().requires_grad_(False)


def retinanet_config():
    cfg = retinanet()
    cfg['bbox_head'].update(type='RetinaHead')
    cfg['bbox_head']['anchor_generator'].update(ratios=[0.5, 1.0, 2.0])
    cfg['test_cfg'].update(score_thr=0.05)
    return cfg


def end_to_end_config():
    backbone = dict(retinanet()['backbone'], dynamic_relu='spatial', out_indices=(3, 4))
    cfg = dict(copy.deepcopy(MODEL), backbone=backbone)
    cfg['neck'].update(in_channels=[16, 16])
    cfg['decoder'].update(SMALL_HEAD)
    return cfg


def pictures():
    return [image.permute(1, 2, 0).numpy() for image in draw_batch([(120, 180)] * 3)['inputs']]


def export(folder, model, detector, *flags):
    """Write data, config and checkpoint, and return what tools/export_onnx.py says to them."""
    for split in ('train2017', 'val2017'):
        (folder / 'data' / split).mkdir(parents=True)
    (folder / 'data' / 'annotations').mkdir()
    batch = draw_batch([(64, 96)] * 4, seed=0)
    categories = [dict(id=index, name=name) for index, name in enumerate(CLASSES)]
    data = dict(images=[], annotations=[], categories=categories)
    for index, sample in enumerate(batch['data_samples']):
        name, image = f'{index}.png', batch['inputs'][index].permute(1, 2, 0).numpy()
        for split in ('train2017', 'val2017'):
            cv2.imwrite(str(folder / 'data' / split / name), image)
        data['images'].append(dict(id=index, file_name=name, height=64, width=96))
        objects = sample.gt_instances
        for box, label in zip(objects.bboxes, objects.labels.tolist(), strict=True):
            x1, y1, x2, y2 = box.tolist()
            number, size = len(data['annotations']) + 1, [x2 - x1, y2 - y1]
            about = dict(id=number, image_id=index, category_id=label, iscrowd=0)
            data['annotations'].append(dict(about, bbox=[x1, y1, *size], area=size[0] * size[1]))
    for split in ('train2017', 'val2017'):
        write_annotations(folder / 'data', split, data)

    settings = run_config(folder / 'data', folder / 'run', 1, model=model)
    for part in ('dataloader', 'evaluator', 'cfg'):
        settings[f'test_{part}'] = copy.deepcopy(settings[f'val_{part}'])
    settings['test_cfg']['type'] = 'TestLoop'
    settings['log_level'] = 'INFO'
    Config(settings).dump(folder / 'config.py')
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(state_dict=detector.state_dict(), meta=meta), folder / 'model.pth')
    files = ['config.py', 'model.pth', 'model.onnx']
    done = tool('export_onnx', *files, *flags, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Folder with config, checkpoint and exported file of a RetinaNet, the detector, the output."""
    folder = tmp_path_factory.mktemp('export')
    torch.manual_seed(0)
    detector = train_a_moment(MODELS.build(retinanet_config()), 60)
    return folder, detector, export(folder, retinanet_config(), detector)


def test_the_tool_compares_the_file_with_pytorch(run):
    folder, _, output = run
    assert 'largest differences from PyTorch' in output and ' 0 detections on one side' in output
    about = {item.key: item.value for item in onnx.load(folder / 'model.onnx').metadata_props}
    assert json.loads(about['classes']) == list(CLASSES)
    assert json.loads(about['preprocessing'])['pad_size_divisor'] == 32
    assert "type='RetinaNet'" in about['config']
    nodes = onnx.load(folder / 'model.onnx').graph.node
    assert {node.domain for node in nodes} <= {'', 'ai.onnx'}
    assert str(ROOT).encode() not in (folder / 'model.onnx').read_bytes()  # nothing of this machine


def test_evaluating_the_file_gives_the_ap_of_the_checkpoint(run):
    folder, _, _ = run
    figures = []
    for file in ('model.pth', 'model.onnx'):
        done = tool('test', 'config.py', file, '--work-dir', file[6:], cwd=folder)
        assert done.returncode == 0, done.stderr[-2000:]
        result = next((folder / file[6:]).glob('*/*.json'))
        figures.append(json.loads(result.read_text())['coco/bbox_mAP'])
    assert figures[0] > 0.0
    assert figures[1] == pytest.approx(figures[0], abs=1e-3)


def test_the_documented_script_detects(run):
    folder, _, _ = run
    image = pictures()[0]
    turned = Image.fromarray(np.rot90(image[..., ::-1]))
    orientation = Image.Exif()
    orientation[0x0112] = 6  # to be turned back by whoever shows it
    turned.save(folder / 'picture.png', exif=orientation)
    script = ROOT / 'docs' / 'onnx_inference.py'
    done = start([sys.executable, script, 'model.onnx', 'picture.png', '0.05'], folder)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    exported = OnnxDetector(str(folder / 'model.onnx'), detector_preprocessor())
    batch = draw_batch([(120, 180)])
    batch['inputs'] = [torch.from_numpy(image).permute(2, 0, 1).contiguous()]
    found = exported.test_step(batch)[0].pred_instances
    # PIL hands out RGB, and this detector's preprocessing keeps OpenCV's BGR: the script must know.
    assert len(lines) == len(found) > 0
    for (name, score, *box), label, wanted_score, wanted_box in zip(
        lines, found.labels, found.scores, found.bboxes, strict=True
    ):
        assert name == CLASSES[label] and float(score) == pytest.approx(
            float(wanted_score), abs=2e-3
        )
        assert np.allclose([float(v) for v in box], wanted_box, atol=0.2)


@pytest.fixture(scope='module')
def end_to_end(tmp_path_factory):
    """The end-to-end detector, trained for a moment, its file, and what the tool said."""
    folder = tmp_path_factory.mktemp('end_to_end')
    torch.manual_seed(0)
    detector = MODELS.build(end_to_end_config())
    detector.init_weights()
    detector = train_a_moment(detector, 100)
    output = export(folder, end_to_end_config(), detector, '--int8')
    return detector, folder / 'model.onnx', output


def test_the_end_to_end_detector_is_exported_too(end_to_end):
    detector, path, output = end_to_end
    assert 'largest differences from PyTorch' in output and ' 0 detections on one side' in output
    exported = OnnxDetector(str(path), MODEL['data_preprocessor'])
    found = compare(detector, exported, pictures(), 0.1, 1e-3, BATCHES)
    assert found.compared == 12 * sum(map(len, BATCHES))  # all queries, whatever their score
    assert found.within(0.1, 1e-3), found


def test_the_tool_prints_what_8_bits_cost_and_both_figures_hold(end_to_end):
    _, path, output = end_to_end
    said = re.search(r'model\.int8\.onnx: .* AP (\S+) instead of (\S+), a loss of', output)
    after, before = map(float, said.groups())
    done = tool('test', 'config.py', 'model.pth', '--work-dir', 'pth', cwd=path.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    figure = json.loads(next((path.parent / 'pth').glob('*/*.json')).read_text())['coco/bbox_mAP']
    assert before == pytest.approx(figure, abs=1e-3) and figure > 0.0
    assert 0.0 <= after <= 1.0


def test_half_weights_are_smaller_and_detect_nearly_the_same(end_to_end, tmp_path):
    detector, path, _ = end_to_end
    half = tmp_path / 'half.onnx'
    model = onnx.load(path)
    halve_weights(model)
    onnx.save(model, half)
    assert half.stat().st_size < path.stat().st_size
    exported = OnnxDetector(str(half), MODEL['data_preprocessor'])
    found = compare(detector, exported, pictures(), 5.0, 0.05, BATCHES)
    assert found.compared and found.within(5.0, 0.05), found


def wide_head_config():
    """Most weights lie in one level's neck and head, and every anchor becomes a detection."""
    cfg = retinanet()
    blocks = [dict(kind='lite', mid_channels=8, out_channels=8, stride=2)] * 4
    cfg['backbone'].update(arch=dict(BACKBONE['arch'], blocks=blocks), out_indices=(4,))
    cfg['neck'].update(in_channels=[8], out_channels=96, num_outs=1)
    cfg['bbox_head'].update(type='RetinaHead', in_channels=96, feat_channels=96)
    cfg['bbox_head']['anchor_generator'].update(strides=[32], scales=[8])
    nms = dict(type='nms', iou_threshold=1.0)
    cfg['test_cfg'].update(nms_pre=1000, max_per_img=1000, nms=nms)
    return cfg


def test_the_tool_halves_the_weights_and_folds_the_norms(tmp_path, capsys):
    torch.manual_seed(0)
    detector = MODELS.build(wide_head_config())
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                torch.nn.init.uniform_(value, 0.5, 1.5)
    torch.nn.init.normal_(detector.bbox_head.retina_cls.weight, std=0.1)  # scores 0.1 to 0.9
    files = [tmp_path / name for name in ('config.py', 'model.pth', 'model.onnx', 'picture.png')]
    settings = run_config(tmp_path, tmp_path, 1, model=wide_head_config())
    settings['test_dataloader'] = settings['val_dataloader']
    Config(settings).dump(files[0])
    torch.save(dict(state_dict=detector.state_dict()), files[1])
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    cv2.imwrite(str(files[3]), cv2.resize(noise, (960, 640)))

    flags = ['--fp16', '--fuse', '--images', files[3]]
    assert run_tool('export_onnx', *files[:3], *flags) == 0
    said = re.search(
        r'over (\d+) detections: boxes (\S+) pixels, scores (\S+); 0 detections on one side only',
        capsys.readouterr().out,
    )
    count, box, score = map(float, said.groups())
    assert count == 3 * (8 * 10 + 11 * 8 + 14 * 20 + 3 * 8 * 11)  # of all anchors and classes
    assert 0.1 < box <= 5.0 and 0.0 < score <= 0.05  # too much for weights in 32 bits
    model = onnx.load(files[2])
    assert {item.key: item.value for item in model.metadata_props}['weights'] == 'fp16'
    # Which a convolution has of its norm, if that is folded.
    assert 'detector.backbone.stem.conv.bias' in {item.name for item in model.graph.initializer}
    # The whole file is smaller than the weights alone would be in 32 bits.
    assert files[2].stat().st_size < 4 * sum(map(torch.numel, detector.parameters()))


def test_quantised_file_computes_convolutions_in_8_bits(end_to_end, tmp_path):
    _, path, _ = end_to_end
    generator = np.random.default_rng(0)

    def feeds(count):
        for _ in range(count):
            yield dict(
                image=generator.standard_normal((1, 3, 64, 96), np.float32),
                image_size=np.array([[64, 96]]),
                original_size=np.array([[128, 192]]),
            )

    out = tmp_path / 'model.int8.onnx'
    convolutions = sum(node.op_type == 'Conv' for node in onnx.load(path).graph.node)
    assert quantize_file(path, out, feeds(3)) == convolutions
    exported = OnnxDetector(str(out), MODEL['data_preprocessor'])
    about = {item.key: item.value for item in onnx.load(out).metadata_props}
    assert about['weights'] == 'int8' and onnx_classes(out) == CLASSES
    result = exported.test_step(draw_batch([(64, 96)]))[0].pred_instances
    assert torch.isfinite(result.bboxes).all() and torch.isfinite(result.scores).all()


def test_other_detectors_and_files_are_refused(run, tmp_path):
    _, detector, _ = run
    with pytest.raises(UserError, match='FasterRCNN'):
        detection_graph(type('FasterRCNN', (torch.nn.Module,), {})())
    soft = copy.deepcopy(detector)
    nms = dict(type='soft_nms', iou_threshold=0.5)
    soft.bbox_head.test_cfg = ConfigDict(soft.bbox_head.test_cfg, nms=nms)
    with pytest.raises(UserError, match='soft_nms'):
        detection_graph(soft)
    with pytest.raises(UserError, match=r'nowhere\.onnx does not exist'):
        OnnxDetector(str(tmp_path / 'nowhere.onnx'))
    (tmp_path / 'broken.onnx').write_bytes(b'no model')
    with pytest.raises(UserError, match=r'broken\.onnx cannot be opened'):
        OnnxDetector(str(tmp_path / 'broken.onnx'))
    identity = onnx.helper.make_graph(
        [onnx.helper.make_node('Identity', ['x'], ['y'])],
        'other',
        *([onnx.helper.make_tensor_value_info(name, 1, [1])] for name in 'xy'),
    )
    other = onnx.helper.make_model(
        identity, opset_imports=[onnx.helper.make_opsetid('', 18)], ir_version=10
    )
    onnx.save(other, tmp_path / 'other.onnx')
    with pytest.raises(UserError, match=r"inputs \('x',\)"):
        OnnxDetector(str(tmp_path / 'other.onnx'))


def test_what_does_not_fit_is_a_sentence_before_anything_is_written(run, tmp_path, capsys):
    folder, _, _ = run
    config, out = folder / 'config.py', tmp_path / 'out.onnx'
    padding = Config.fromfile(config)
    padding.test_dataloader.dataset.pipeline.insert(-1, dict(type='Pad', size_divisor=64))
    padding.dump(tmp_path / 'padding.py')
    leading_out = json.loads((folder / 'data/annotations/instances_val2017.json').read_text())
    leading_out['images'][0]['file_name'] = '../config.py'
    (folder / 'data/annotations/leading_out.json').write_text(json.dumps(leading_out))

    narrow = ['model.neck.out_channels=4', 'model.bbox_head.in_channels=4']
    elsewhere = ['test_dataloader.dataset.ann_file=annotations/leading_out.json']
    fewer = [f'test_dataloader.dataset.metainfo.classes=[{",".join(CLASSES[:2])}]']
    export_it, file = ['export_onnx', config, folder / 'model.pth', out], folder / 'model.onnx'
    cases = [
        ([*export_it, '--cfg-options', *narrow], 'does not fit the detector of'),
        ([*export_it, '--cfg-options', *elsewhere], "'../config.py'"),
        (['export_onnx', tmp_path / 'padding.py', *export_it[2:]], 'has a Pad'),
        (['test', tmp_path / 'padding.py', file], 'has a Pad'),
        (['test', config, file, '--cfg-options', *fewer], f'detects {len(CLASSES)} classes'),
    ]
    for command, words in cases:
        assert run_tool(*command) == 2
        assert words in capsys.readouterr().err
    assert not out.exists()


def detector_preprocessor():
    return retinanet()['data_preprocessor']


def test_suppression_keeps_the_best_of_overlapping_boxes():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [50, 0, 60, 10]]])
    scores = torch.tensor([[0.5, 0.9, 0.4, 0.01]])
    assert nms_keep(boxes, scores, 0.5, 0.05, 10).tolist() == [[False, True, True, False]]
    assert nms_keep(boxes, scores, 0.5, 0.05, 1).tolist() == [[False, True, False, False]]


def test_the_last_kept_detections_may_be_others():
    boxes = 10.0 * torch.arange(4.0)[:, None] + torch.tensor([0, 0, 5, 5])
    wanted = InstanceData(
        bboxes=boxes[:3], scores=torch.tensor([0.9, 0.5, 0.2]), labels=torch.zeros(3)
    )
    found = copy.deepcopy(wanted)
    found.bboxes[2] = boxes[3]  # another one that scores nearly the same
    found.scores[2] += 1e-4
    for most, compared, box in ((3, 2, 0.0), (9, 3, 10.0)):  # 9: nothing was left out
        difference = Difference()
        _add(difference, wanted, found, most, 0.1, 1e-3)
        assert (difference.compared, difference.box, difference.missing) == (compared, box, 0)


def test_what_differs_is_found():
    assert not Difference(compared=3, box=0.2).within(0.1, 1.0)
    assert not Difference(compared=3, missing=1).within(0.1, 1.0)
    assert Difference(compared=3, box=0.05, score=0.001).within(0.1, 0.001)


def test_the_check_of_every_export_compares_six_sizes(tmp_path, capsys, monkeypatch):
    settings = run_config(tmp_path, tmp_path / 'run', 1, model=retinanet_config())
    pipeline = settings['val_dataloader']['dataset']['pipeline']
    (resize,) = (transform for transform in pipeline if transform['type'] == 'Resize')
    resize.update(scale=(192, 128), scale_factor=None)
    settings['test_dataloader'] = settings['val_dataloader']
    Config(settings).dump(tmp_path / 'tiny.py')
    assert run_tool('check_exports', tmp_path / 'tiny.py') == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith('tiny ')]
    sizes = ['128x192', '192x128', '64x96', '96x64', '160x240', '240x160']
    assert [row[1] for row in rows] == sizes
    assert all(int(row[2]) > 0 for row in rows)  # something to compare

    monkeypatch.setattr(check_exports, 'export_detector', lambda *_: None)
    monkeypatch.setattr(check_exports, 'OnnxDetector', lambda *_: None)
    for name, result in (('compared', 0), ('missing', 1), ('box', 0.2), ('score', 0.01)):
        found = Difference(**{'compared': 9, name: result})
        monkeypatch.setattr(check_exports, 'compare', lambda *_, found=found, **__: found)
        assert run_tool('check_exports', tmp_path / 'tiny.py') == 2
        error = capsys.readouterr().err
        assert all(f'tiny.py at {size}' in error for size in sizes)
