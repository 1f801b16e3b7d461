"""Pictures of attention show what the forward pass computed."""

import cv2
import numpy as np
import pytest
import torch
from e2e_model import MODEL, NUM_CLASSES, build_detector, draw_batch
from mmdet.registry import MODELS
from mmengine.config import Config
from run_tool import run_tool
from tiny_detector import plain_text, retinanet, run_config

from mmdet_mobileformer.analysis.attention import query_paths, recorded_attention
from mmdet_mobileformer.analysis.attention_sheets import backbone_sheets, decoder_sheets
from mmdet_mobileformer.models import ARCHS, MobileFormer
from mmdet_mobileformer.models.bridge import token_assignment


def network_and_output(arch, mode, size=(64, 96)):
    torch.manual_seed(0)
    network = MobileFormer(arch, dynamic_relu=mode).eval()
    with torch.no_grad(), recorded_attention(network) as records:
        network(torch.randn(1, 3, *size))
    return network, records


@pytest.mark.parametrize('mode', ['token', 'spatial'])
@pytest.mark.parametrize('arch', ARCHS)
def test_every_block_of_every_size_is_recorded(arch, mode):
    network, records = network_and_output(arch, mode)
    blocks = [name for name, module in network.named_modules() if hasattr(module, 'former')]
    assert [record.name for record in records] == blocks
    for record in records:
        assert record.reads.shape[1] == network.arch.num_tokens
        assert torch.allclose(record.reads.sum((2, 3)), torch.ones(record.reads.shape[:2]))
        assert torch.allclose(record.takes.sum(1), torch.ones(1))
        assert (record.assignment is not None) == (mode == 'spatial')
        if record.assignment is not None:
            assert record.assignment.shape == record.takes.shape[1:]
            assert torch.allclose(record.assignment.sum(0), torch.ones(1))


def test_recorded_attention_equals_a_loop():
    torch.manual_seed(1)
    network = MobileFormer('26m', dynamic_relu='spatial').eval()
    block, inputs = network.blocks[2], {}
    handles = [
        module.register_forward_pre_hook(lambda module, args: inputs.update({module: args}))
        for module in (block.mobile_to_former, block.former_to_mobile)
    ]
    with torch.no_grad(), recorded_attention(network) as records:
        network(torch.randn(1, 3, 64, 96))
    for handle in handles:
        handle.remove()
    record = next(record for record in records if record.name == 'blocks.2')
    bridge = block.mobile_to_former
    features, tokens = (inputs[bridge][i][0].double() for i in range(2))
    heads, width = bridge.num_heads, features.shape[0] // bridge.num_heads
    query = tokens @ bridge.query.weight.double().T + bridge.query.bias
    logits = torch.zeros(heads, len(tokens), *features.shape[1:], dtype=torch.double)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for token in range(len(tokens)):
            for y in range(features.shape[1]):
                for x in range(features.shape[2]):
                    product = query[token, part] @ features[part, y, x]
                    logits[head, token, y, x] = product / width**0.5
    reads = logits.exp() / logits.exp().sum((2, 3), keepdim=True)
    torch.testing.assert_close(record.reads.double(), reads, rtol=1e-4, atol=1e-6)
    assignment = token_assignment(logits[None], block.stride)[0]
    torch.testing.assert_close(record.assignment.double(), assignment, rtol=1e-4, atol=1e-6)

    bridge = block.former_to_mobile
    features, tokens = (inputs[bridge][i][0].double() for i in range(2))
    width = features.shape[0] // heads
    key = tokens @ bridge.key.weight.double().T + bridge.key.bias
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        logits = torch.einsum('mc,chw->mhw', key[:, part], features[part]) / width**0.5
        takes = logits.exp() / logits.exp().sum(0)
        torch.testing.assert_close(record.takes[head].double(), takes, rtol=1e-4, atol=1e-6)


def test_recording_changes_nothing_and_leaves_no_hook():
    network, _ = network_and_output('26m', 'spatial')
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before = network(images)
        with recorded_attention(network) as records:
            during = network(images)
        recorded = len(records)
        network(images)
    assert len(records) == recorded > 0
    assert all(torch.equal(a, b) for a, b in zip(before, during, strict=True))


@pytest.mark.parametrize('mode', ['token', 'spatial'])
def test_queries_lead_to_the_detections(mode):
    detector = build_detector(decoder=dict(dynamic_relu=mode)).eval()
    data = detector.data_preprocessor(draw_batch([(64, 96)]), False)
    with torch.no_grad(), recorded_attention(detector) as records:
        logits, boxes = detector(**data, mode='tensor')
        found = detector(**data, mode='predict')[0].pred_instances
    of_decoder = [record for record in records if record.name.startswith('decoder.')]
    assert len(of_decoder) == 2 * detector.decoder.num_blocks  # two passes
    assert all(record.reads.shape[1] == 12 for record in of_decoder)
    assert any(record.assignment is not None for record in of_decoder) == (mode == 'spatial')
    paths = query_paths(detector, logits, boxes, 3)
    size = torch.tensor([96.0, 64, 96, 64])
    for path, score, label, box in zip(
        paths, found.scores[:3], found.labels[:3], found.bboxes[:3], strict=True
    ):
        assert path.score == pytest.approx(float(score), abs=1e-6)
        assert path.label == int(label) < NUM_CLASSES
        torch.testing.assert_close(path.boxes[-1] * size, box, rtol=0, atol=0.01)
        assert len(path.boxes) == detector.decoder.num_blocks and path.first_own == 0
    # Detections that look the same in the legend have an entry each.
    image, blocks = np.full((64, 96, 3), 200, np.uint8), of_decoder[: detector.decoder.num_blocks]
    sheets = decoder_sheets(image, blocks, paths[:1] * 3, ('a', 'b', 'c'), 'test')
    for name, others in (('detections.png', 0), ('decoder_pixels.png', 1)):
        assert len(sheets[name].legends[0].get_texts()) == 3 + others


def test_panels_show_the_recorded_attention():
    image = np.full((64, 96, 3), 200, np.uint8)
    _, records = network_and_output('26m', 'spatial')
    figure = backbone_sheets(image, records, 'test')['backbone_stride16.png']
    record = next(r for r in records if r.takes.shape[-2:] == (4, 6))
    reads = record.reads.mean(0)[0]
    overlay = figure.axes[0].images[-1]
    opacity = torch.from_numpy(np.asarray(overlay.get_array())[..., 3]).float()
    torch.testing.assert_close(opacity.square(), reads / reads.max(), rtol=1e-3, atol=1e-5)
    height, width = reads.shape
    stride = 96 / width
    assert overlay.get_extent() == [0, width * stride, height * stride, 0]
    assert f'peak {float(reads.max() / reads.mean()):.3g}×' in figure.axes[0].get_title()


@pytest.mark.parametrize('kind', ['retinanet', 'e2e'])
def test_tool_draws_a_run_of_own_classes(kind, tmp_path):
    model = retinanet(2) if kind == 'retinanet' else MODEL
    cfg = run_config(tmp_path, tmp_path, 1, model=model)
    cfg['test_dataloader'], cfg['test_cfg'] = cfg['val_dataloader'], dict(type='TestLoop')
    (tmp_path / 'config.py').write_text(plain_text(Config(cfg)))
    detector = MODELS.build(model)
    classes = ('cat', 'dog') if kind == 'retinanet' else ('a', 'b', 'c')
    meta = dict(dataset_meta=dict(classes=classes))
    torch.save(dict(state_dict=detector.state_dict(), meta=meta), tmp_path / 'epoch_1.pth')
    cv2.imwrite(str(tmp_path / 'image.png'), np.full((50, 70, 3), 90, np.uint8))

    where = (tmp_path / 'config.py', tmp_path / 'epoch_1.pth')
    out = tmp_path / 'out'
    assert run_tool('show_attention', *where, tmp_path / 'image.png', '--out-dir', out) == 0
    names = {path.name for path in out.iterdir()}
    assert 'backbone_stride16.png' in names
    assert ('detections.png' in names) == (kind == 'e2e')
    assert run_tool('show_attention', *where, tmp_path / 'none.png') == 2
