"""The end-to-end detector as a whole: losses, gradients, queries, padding, switches, learning."""

import copy

import pytest
import torch
from e2e_model import (
    MODEL,
    NUM_CLASSES,
    anchored,
    build_detector,
    draw_batch,
    losses_of,
    overfitted_ap,
)
from mmdet.registry import MODELS

SIZES = [(64, 96), (48, 80)]
NUM_BLOCKS = sum(scale['num_blocks'] for scale in MODEL['decoder']['scales'])
SWITCHES = {
    'default': {},
    'token': dict(decoder=dict(dynamic_relu='token')),
    'fixed position': dict(decoder=dict(adapt_position=False)),
    'nearest': dict(decoder=dict(upsampling='nearest')),
    'no upsampling': dict(decoder=dict(upsampling=None)),
    'dropout': dict(decoder=dict(dropout=0.5)),
    'lite first': dict(
        decoder=dict(
            scales=[
                dict(num_blocks=1, mobile='lite', mid_channels=64),
                dict(num_blocks=2, mobile='attention', mid_channels=64),
                dict(num_blocks=1, mobile='attention', mid_channels=64),
            ]
        )
    ),
    '3 queries': dict(num_queries=3),
    'learned boxes': anchored(),
    'without prior': anchored(prior=False),
    'anchored, fixed position': anchored((0, 1, 0), adapt_position=False),
    'anchored, token': anchored((0, 1, 0), dynamic_relu='token'),
    'anchored, no upsampling': anchored((0, 0, 1), upsampling=None),
    'proposals of the first scale': anchored((3, 0, 0)),
    'proposals of the second scale': anchored((0, 2, 0)),
    'proposals of the last scale': anchored((0, 0, 1)),
}
ANCHORED = [name for name in SWITCHES if 'anchored' in name or 'proposals' in name]


def forward(detector, batch):
    """Class logits and boxes of every block."""
    data = detector.data_preprocessor(copy.deepcopy(batch), False)
    with torch.no_grad():
        return detector(**data, mode='tensor')


@pytest.mark.parametrize('num_objects', [2, 0], ids=['objects', 'no objects'])
@pytest.mark.parametrize('switch', SWITCHES)
def test_every_parameter_gets_a_gradient(switch, num_objects):
    detector = build_detector(**SWITCHES[switch]).train()
    losses = losses_of(detector, draw_batch(SIZES, num_objects))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    missing = [name for name, p in detector.named_parameters() if p.grad is None]
    assert not missing, missing


def test_losses_without_objects_are_those_of_classification_alone():
    losses = losses_of(build_detector().train(), draw_batch(SIZES, 0))
    for name, loss in losses.items():
        assert torch.isfinite(loss), name
        assert (loss > 0) if name.endswith('loss_cls') else (loss == 0), name
    one_empty = draw_batch(SIZES, 2)
    one_empty['data_samples'][1] = draw_batch(SIZES, 0)['data_samples'][1]
    for name, loss in losses_of(build_detector().train(), one_empty).items():
        assert torch.isfinite(loss) and loss > 0, name


def test_auxiliary_losses_are_as_many_as_blocks_less_one():
    losses = losses_of(build_detector().train(), draw_batch(SIZES))
    expected = {f'd{i}.' for i in range(NUM_BLOCKS - 1)} | {''}
    for kind in ('loss_cls', 'loss_bbox', 'loss_iou'):
        assert {name[: -len(kind)] for name in losses if name.endswith(kind)} == expected


def test_each_block_adds_a_prediction():
    logits, boxes = forward(build_detector().eval(), draw_batch(SIZES))
    assert logits.shape == (NUM_BLOCKS, 2, MODEL['num_queries'], NUM_CLASSES + 1)
    assert boxes.shape == (NUM_BLOCKS, 2, MODEL['num_queries'], 4)
    assert ((boxes > 0) & (boxes < 1)).all()
    lite_first, _ = forward(build_detector(**SWITCHES['lite first']).eval(), draw_batch(SIZES))
    assert len(lite_first) == 4


@pytest.mark.parametrize('switch', ['default', 'proposals of the second scale'])
def test_detections_after_an_earlier_block(switch):
    whole = build_detector(**SWITCHES[switch]).eval()
    early = build_detector(**SWITCHES[switch], test_cfg=dict(max_per_img=9, after_block=2)).eval()
    batch = draw_batch(SIZES)
    for at_first, in_all in zip(forward(early, batch), forward(whole, batch), strict=True):
        torch.testing.assert_close(at_first, in_all[:2])
    data = early.data_preprocessor(batch, False)
    with torch.no_grad():
        found, (boxes, scores, _) = early(**data, mode='predict'), early.detect(data['inputs'])
    assert len(found[0].pred_instances) == boxes.shape[1] == scores.shape[1] == 9
    losses, whole_losses = early(**data, mode='loss'), whole(**data, mode='loss')
    assert losses.keys() == whole_losses.keys()  # detections alone are made early


def test_detections_before_the_blocks_are_the_proposals():
    settings = SWITCHES['proposals of the second scale']
    detector = build_detector(**settings, test_cfg=dict(max_per_img=9, after_block=0)).eval()
    made = []
    detector.proposal_head.register_forward_hook(lambda *args: made.append(args[2]))
    data = detector.data_preprocessor(draw_batch(SIZES), False)
    with torch.no_grad():
        found = detector(**data, mode='predict')[0].pred_instances
        logits, boxes = detector(**data, mode='tensor')
    torch.testing.assert_close(boxes[0], made[1].query_boxes)
    pixels = made[1].boxes.gather(1, made[1].chosen[..., None].expand(-1, -1, 4))
    torch.testing.assert_close(boxes[0], pixels)  # chosen among the pixels, with their classes
    chosen = made[1].chosen[..., None].expand(-1, -1, NUM_CLASSES)
    torch.testing.assert_close(logits[0], made[1].logits.gather(1, chosen))
    torch.testing.assert_close(found.scores, logits[0, 0].sigmoid().flatten().topk(9)[0])


@pytest.mark.parametrize('switch', ['default', 'token', 'fixed position'])
def test_permuting_the_queries_permutes_the_outputs_and_nothing_else(switch):
    detector = build_detector(**SWITCHES[switch]).eval()
    batch = draw_batch(SIZES)
    before = forward(detector, batch)
    order = torch.randperm(MODEL['num_queries'], generator=torch.Generator().manual_seed(1))
    detector.query_embedding.weight.data = detector.query_embedding.weight.data[order]
    for old, new in zip(before, forward(detector, batch), strict=True):
        torch.testing.assert_close(new, old[:, :, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('switch', ['token', 'fixed position', 'nearest', 'no upsampling'])
def test_a_switch_changes_the_predictions(switch):
    """Also with the same weights wherever both settings have them."""
    default = build_detector().eval()
    for name, parameter in default.named_parameters():  # away from the start, which has no effect
        if 'position_update' in name or '.act.' in name:
            torch.nn.init.normal_(parameter, std=0.3)
    switched = build_detector(**SWITCHES[switch]).eval()
    switched.load_state_dict(default.state_dict(), strict=False)
    batch = draw_batch(SIZES)
    assert not torch.allclose(forward(default, batch)[0][-1], forward(switched, batch)[0][-1])


def test_dropout_acts_in_training_only():
    batch = draw_batch(SIZES)
    with_dropout, without = build_detector(**SWITCHES['dropout']), build_detector()
    for detector, varies in ((with_dropout, True), (without, False)):
        # The statistics of BatchNorm must not be what makes two runs differ.
        detector.train()
        detector.backbone.eval()
        first, second = (forward(detector, batch)[0] for _ in range(2))
        assert torch.equal(first, second) != varies
    torch.testing.assert_close(forward(with_dropout.eval(), batch), forward(without.eval(), batch))


@pytest.mark.parametrize('switch', ['default', 'proposals of the second scale'])
def test_recomputing_changes_no_loss_and_no_gradient(switch):
    results = []
    for with_cp in (False, True):
        settings = copy.deepcopy(SWITCHES[switch])
        settings['backbone'] = dict(MODEL['backbone'], with_cp=with_cp)
        settings['decoder'] = dict(settings.get('decoder', {}), with_cp=with_cp, dropout=0.1)
        detector = build_detector(**settings).train()
        torch.manual_seed(5)
        losses = losses_of(detector, draw_batch(SIZES))
        sum(losses.values()).backward()
        results.append((losses, {n: p.grad for n, p in detector.named_parameters()}))
    torch.testing.assert_close(results[0], results[1])


def test_saving_and_loading_changes_nothing(tmp_path):
    detector, other = build_detector().eval(), build_detector(seed=1).eval()
    batch = draw_batch(SIZES)
    torch.save(detector.state_dict(), tmp_path / 'detector.pth')
    assert not torch.allclose(forward(detector, batch)[0], forward(other, batch)[0])
    other.load_state_dict(torch.load(tmp_path / 'detector.pth', weights_only=True))
    assert torch.equal(forward(detector, batch)[0], forward(other, batch)[0])


@pytest.mark.parametrize('switch', ['default', 'proposals of the last scale'])
@pytest.mark.parametrize(('num_queries', 'num_objects'), [(2, 5), (3, 3), (120, 2)])
def test_queries_may_be_more_or_fewer_than_objects_and_results(switch, num_queries, num_objects):
    detector = build_detector(**SWITCHES[switch], num_queries=num_queries)
    batch = draw_batch(SIZES, num_objects)
    assert all(torch.isfinite(loss) for loss in losses_of(detector.train(), batch).values())
    with torch.no_grad():
        results = detector.eval().test_step(copy.deepcopy(batch))
    assert [len(result.pred_instances) for result in results] == [min(num_queries, 100)] * 2


@pytest.mark.parametrize('size', [(32, 32), (33, 47), (75, 129), (160, 32)])
@pytest.mark.parametrize('divisor', [1, 32])
@pytest.mark.parametrize('switch', ['default', 'proposals of the first scale'])
def test_any_size_from_32_pixels_on(switch, size, divisor):
    preprocessor = dict(MODEL['data_preprocessor'], pad_size_divisor=divisor)
    detector = build_detector(**SWITCHES[switch], data_preprocessor=preprocessor)
    batch = draw_batch([size, (40, 64)], 1)
    assert all(torch.isfinite(loss) for loss in losses_of(detector.train(), batch).values())
    with torch.no_grad():
        results = detector.eval().test_step(copy.deepcopy(batch))
    for result, (height, width) in zip(results, [size, (40, 64)], strict=True):
        boxes = result.pred_instances.bboxes
        assert (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()


def mask_among(args):
    masks = [a for a in args if isinstance(a, torch.Tensor) and a.dtype == torch.bool]
    return masks[0] if masks else None


def test_attention_of_backbone_and_decoder_gets_the_padding():
    detector = build_detector().eval()
    seen = []
    for module in (detector.backbone.blocks[1], detector.decoder.scales[0][0]):
        module.register_forward_hook(lambda module, args, output: seen.append(mask_among(args)))
    forward(detector, draw_batch([(64, 96), (32, 64)]))
    backbone_mask, decoder_mask = seen
    assert backbone_mask.shape == (2, 16, 24) and decoder_mask.shape == (2, 2, 3)
    for mask, stride in ((backbone_mask, 4), (decoder_mask, 32)):
        assert not mask[0].any()
        assert not mask[1, : 32 // stride, : 64 // stride].any()
        assert mask[1, 32 // stride :].all() and mask[1, :, 64 // stride :].all()
    seen.clear()
    forward(detector, draw_batch([(64, 96)]))
    assert seen == [None, None]


@pytest.mark.parametrize(
    'switch',
    ['default', 'token', 'nearest', 'no upsampling', 'lite first', 'learned boxes', *ANCHORED],
)
@pytest.mark.parametrize('size', [(64, 64), (50, 75)])
@pytest.mark.parametrize(('divisor', 'larger'), [(32, (160, 128)), (1, (161, 130))])
def test_an_image_alone_and_beside_a_larger_one_is_the_same(switch, size, divisor, larger):
    preprocessor = dict(MODEL['data_preprocessor'], pad_size_divisor=divisor)
    settings = SWITCHES[switch]
    detector = build_detector(**settings, data_preprocessor=preprocessor).eval()
    for name, parameter in detector.named_parameters():  # so that padding would have an effect
        if name.endswith('bias'):
            torch.nn.init.normal_(parameter, std=0.3)
    pair = draw_batch([size, larger])
    alone = dict(inputs=pair['inputs'][:1], data_samples=pair['data_samples'][:1])
    for together, single in zip(forward(detector, pair), forward(detector, alone), strict=True):
        torch.testing.assert_close(together[:, :1], single, rtol=1e-3, atol=1e-4)


def test_configuration_is_left_as_it_was():
    cfg = copy.deepcopy(MODEL)
    MODELS.build(cfg)
    assert cfg['bbox_head'] == MODEL['bbox_head'] and cfg['test_cfg'] == MODEL['test_cfg']


def test_wrong_settings_of_the_detector_are_named():
    with pytest.raises(ValueError, match='num_queries must be at least 1, not 0'):
        build_detector(num_queries=0)
    with pytest.raises(ValueError, match=r'anchored=True does not go with a DETRHead'):
        build_detector(decoder=dict(anchored=True))
    with pytest.raises(ValueError, match=r'\[0, 1, 0\] and anchored=False'):
        build_detector(decoder=dict(anchored((0, 1, 0))['decoder'], anchored=False))
    with pytest.raises(ValueError, match='scale 2 of 3 proposes from 2 maps'):
        build_detector(**anchored((0, 0, 2)))
    with pytest.raises(ValueError, match='after_block must be 1 to 5, the number of blocks; got 6'):
        build_detector(test_cfg=dict(after_block=6))
    with pytest.raises(ValueError, match='after_block must be 1 to 5, the number of blocks; got 0'):
        build_detector(test_cfg=dict(after_block=0))
    with pytest.raises(ValueError, match='embed_dims 64 must equal'):
        build_detector(bbox_head=dict(MODEL['bbox_head'], embed_dims=64))


def test_it_overfits_eight_images():
    scales = [dict(scale, num_blocks=1) for scale in MODEL['decoder']['scales']]
    detector = build_detector(dict(scales=scales), num_queries=6).train()
    assert overfitted_ap(detector, steps=160) >= 0.9
