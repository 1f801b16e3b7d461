"""Each form of fused.py, exported.py and the pixelwise files equals its formula, and gradients."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmdet_mobileformer.models import (
    ArchSpec,
    BlockSpec,
    MobileFormer,
    bridge,
    fused,
    layout,
    mobile,
    pixelwise,
    pixelwise_training,
)
from mmdet_mobileformer.models.bridge import FormerToMobile, MobileToFormer, token_assignment
from mmdet_mobileformer.models.convolution import conv_norm
from mmdet_mobileformer.models.dynamic_relu import two_slopes
from mmdet_mobileformer.models.e2e import attention_mobile
from mmdet_mobileformer.models.e2e.block import DecoderBlock
from mmdet_mobileformer.models.norm import LayerNorm2d
from mmdet_mobileformer.models.padding import hide_padding

TINY = ArchSpec(
    stem_channels=8,
    num_tokens=2,
    token_dim=16,
    blocks=(
        BlockSpec('lite', 16, 8),
        *(BlockSpec('downsampling', 16, 8, second_mid_channels=16) for _ in range(2)),
        *(BlockSpec('bottleneck', 16, 8), BlockSpec('downsampling', 16, 8, second_mid_channels=16)),
        BlockSpec('downsampling', 16, 8, second_mid_channels=16),
    ),
)
N, C, H, W, M = 2, 8, 5, 7, 3


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def rand(*shape):
    return torch.randn(*shape, dtype=torch.double)


def assert_equal_with_gradients(form, formula, inputs):
    inputs = [x.requires_grad_() for x in inputs]
    ours, theirs = form(*inputs), formula(*inputs)
    torch.testing.assert_close(ours, theirs)
    grad = torch.randn_like(theirs)
    gradients = [torch.autograd.grad(result, inputs, grad) for result in (ours, theirs)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize('spatial', [False, True])
def test_two_slopes(spatial):
    tokens = M if spatial else 1
    inputs = [rand(N, C, H, W), rand(N, C, tokens), rand(N, C, tokens)]
    inputs += [rand(N, M, H, W).softmax(dim=1)] * spatial
    assert_equal_with_gradients(fused.two_slopes, two_slopes, inputs)
    assert torch.autograd.gradcheck(fused.two_slopes, inputs)


@pytest.mark.parametrize('spatial', [False, True])
def test_two_slopes_without_gradients(spatial):
    tokens = M if spatial else 1
    inputs = [rand(N, C, H, W), rand(N, C, tokens), rand(N, C, tokens)]
    inputs += [rand(N, M, H, W).softmax(dim=1)] * spatial
    torch.testing.assert_close(fused.two_slopes(*inputs), two_slopes(*inputs))


def conv_with_norm(channels, outputs, kernel, norm, **kwargs):
    conv = conv_norm(channels, outputs, kernel, norm and dict(type=norm), **kwargs).double().eval()
    for value in [] if norm is None else conv.norm.state_dict().values():
        if value.is_floating_point():
            torch.nn.init.uniform_(value, 0.5, 1.5)
    return conv


@pytest.mark.parametrize('norm', ['BN', LayerNorm2d, None])
@pytest.mark.parametrize(
    ('kind', 'spatial'),
    [
        (kind, spatial)
        for kind in ('pointwise', 'both', 'after', 'depthwise', 'several outputs')
        for spatial in (False, True, None)
        if (kind, spatial) != ('pointwise', None)  # nothing would follow the convolution
    ],
)
def test_pixelwise_chain_equals_its_layers(kind, norm, spatial, monkeypatch):
    monkeypatch.setattr(pixelwise, 'pixels_at_once', lambda channels: 4)
    before, after = None, None
    if kind in ('pointwise', 'both'):
        before_norm = None if kind == 'pointwise' and norm is LayerNorm2d else norm
        before = conv_with_norm(C, 2 * C, 1, before_norm)
    elif kind in ('depthwise', 'several outputs'):
        times = 3 if kind == 'several outputs' else 1
        before = conv_with_norm(C, times * C, 3, norm, groups=C, act_cfg=dict(type='ReLU6'))
    if kind != 'pointwise':
        after = conv_with_norm(C if before is None else before.conv.out_channels, 4, 1, norm)
    width = C if before is None else before.conv.out_channels
    tokens = M if spatial else 1
    slopes = (rand(N, width, tokens).abs(), rand(N, width, tokens))  # a1 is at least 0
    slopes = None if spatial is None else slopes
    if slopes is not None and not spatial:
        slopes[0][:, 0], slopes[1][:, 0] = 0, -0.5
    assignment = rand(N, M, H, W).softmax(dim=1) if spatial else None
    features = rand(N, C, H, W)

    expected = features if before is None else before(features)
    expected = expected if slopes is None else two_slopes(expected, *slopes, assignment)
    expected = expected if after is None else after(expected)
    with torch.no_grad():
        features = features.contiguous(memory_format=torch.channels_last)
        assert pixelwise.applies(features, before, after)
        assert not pixelwise.applies(features.contiguous(), before, after)
        ours = pixelwise.chained(features, before, after, slopes, assignment)
    torch.testing.assert_close(ours, expected)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert not pixelwise.applies(features, before, after)  # with gradients


@pytest.mark.parametrize('norm', ['BN', LayerNorm2d, None])
@pytest.mark.parametrize('trains_norm', [False, True])
@pytest.mark.parametrize('kind', ['pointwise', 'both', 'after', 'depthwise', 'several outputs'])
@pytest.mark.parametrize('spatial', [False, True])
def test_pixelwise_training_equals_its_layers(spatial, kind, trains_norm, norm, monkeypatch):
    monkeypatch.setattr(pixelwise_training, 'pixels_at_once', lambda channels: 4)
    before, after = None, None
    if kind in ('pointwise', 'both'):
        before = conv_with_norm(C, 2 * C, 1, norm).train(trains_norm)
    elif kind in ('depthwise', 'several outputs'):
        times = 3 if kind == 'several outputs' else 1
        before = conv_with_norm(C, times * C, 3, norm, groups=C).train(trains_norm)
    width = C if before is None else before.conv.out_channels
    if kind != 'pointwise':
        after = conv_with_norm(width, 4, 1, norm).train(trains_norm)
    tokens = M if spatial else 1
    features = rand(N, C, H, W).contiguous(memory_format=torch.channels_last)
    inputs = [features, rand(N, width, tokens), rand(N, width, tokens)]
    inputs += [rand(N, M, H, W).softmax(dim=1)] * spatial
    convs = [conv for conv in (before, after) if conv is not None]
    weights = [weight for conv in convs for weight in conv.parameters()]

    def layers(x, a1, a2, *others):
        x = x if before is None else before.unfolded(x)
        x = two_slopes(x, a1, a2, others[0] if spatial else None)
        return x if after is None else after.unfolded(x)

    def chained(x, a1, a2, *others):
        assignment = others[0] if spatial else None
        return pixelwise_training.chained(x, before, after, (a1, a2), assignment)

    assert not pixelwise_training.applies(features.contiguous(), before, after)
    # Batch statistics need the whole map, which then is remembered anyway.
    needs_map = kind == 'pointwise' and trains_norm and norm == 'BN'
    assert pixelwise_training.applies(features, before, after) == (not needs_map)
    assert_equal_with_gradients(chained, layers, [*inputs, *weights])
    assert chained(*inputs).is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert not pixelwise_training.applies(features, before, after)


@pytest.mark.parametrize('dropout', [0.3, 1.0])
@pytest.mark.parametrize('spatial', [False, True])
def test_pixelwise_dropout_drops_what_its_mask_says(spatial, dropout):
    before, after = conv_with_norm(C, 2 * C, 1, None), conv_with_norm(2 * C, 4, 1, None)
    tokens = M if spatial else 1
    features = rand(N, C, H, W).contiguous(memory_format=torch.channels_last)
    inputs = [features, rand(N, 2 * C, tokens), rand(N, 2 * C, tokens)]
    inputs += [rand(N, M, H, W).softmax(dim=1)] * spatial

    def chained(x, a1, a2, *assignment):
        torch.manual_seed(1)
        return pixelwise_training.chained(x, before, after, (a1, a2), *assignment, dropout=dropout)

    def layers(x, a1, a2, *assignment):
        torch.manual_seed(1)
        kept = torch.empty(N, H, W, 2 * C, dtype=torch.bool).bernoulli_(1 - dropout)
        update = two_slopes(before(x), a1, a2, *assignment) * kept.permute(0, 3, 1, 2)
        return after(update / (1 - dropout) if dropout < 1 else update)

    assert_equal_with_gradients(chained, layers, inputs)


@pytest.mark.parametrize('norm', ['BN', LayerNorm2d, None])
@pytest.mark.parametrize(('size', 'stride'), [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize('spatial', [False, True, None])
def test_exported_chain_equals_its_layers(size, stride, norm, spatial, monkeypatch):
    settings = dict(act_cfg=dict(type='ReLU6'), stride=stride, groups=1 if size == 1 else C)
    before = conv_with_norm(C, 3 * C, size, norm, **settings)
    after = conv_with_norm(3 * C, 4, 1, norm)
    features = rand(N, C, H, W)
    height, width = before(features).shape[2:]
    tokens = M if spatial else 1
    slopes = None if spatial is None else (rand(N, 3 * C, tokens), rand(N, 3 * C, tokens))
    assignment = rand(N, M, height, width).softmax(dim=1) if spatial else None

    expected = before(features)
    expected = expected if slopes is None else two_slopes(expected, *slopes, assignment)
    expected = after(expected)
    with torch.no_grad():
        assert not pixelwise.applies(features, before, after)
        monkeypatch.setattr(torch.compiler, 'is_exporting', lambda: True)
        assert pixelwise.applies(features, before, after)
        ours = pixelwise.chained(features, before, after, slopes, assignment)
    torch.testing.assert_close(ours, expected)


def test_exported_block_has_the_fast_forms():
    block = DecoderBlock(16, 'lite', 64, num_heads=4).eval()
    inputs = [torch.randn(N, 16, H, W), torch.randn(N, M, 16)]
    with torch.no_grad():
        expected = block(*inputs, *inputs)
        program = torch.export.export(block, (*inputs, *inputs), strict=False)
        torch.testing.assert_close(program.module()(*inputs, *inputs), expected)
    convs, norms, softmaxes = (
        [node for node in program.graph.nodes if node.name.startswith(name)]
        for name in ('conv2d', 'layer_norm', 'softmax')
    )
    assert len(convs) == 4  # of the depthwise one, an output a channel each
    assert all(conv.meta['val'].shape[1] == conv.args[6] == 16 for conv in convs)
    assert len(norms) == 5 and all(norm.args[0].meta['val'].ndim == 3 for norm in norms)
    assert len(softmaxes) == 4  # with Former's
    assert all(softmax.args[1] in (-1, softmax.meta['val'].ndim - 1) for softmax in softmaxes)


def test_the_bridge_exports_what_it_computes(monkeypatch):
    bridge = FormerToMobile(C, C, num_heads=2).eval().double()
    features, tokens, logits = rand(N, C, H, W), rand(N, M, C), rand(N, 2, M, H, W)
    with torch.no_grad():
        expected = bridge(features, tokens), token_assignment(logits, stride=2)
        monkeypatch.setattr(torch.compiler, 'is_exporting', lambda: True)
        monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: True)
        ours = bridge(features, tokens), token_assignment(logits, stride=2)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize('size', [(1, 1), (1, 2), (2, 3), (5, 8), (6, 6), (7, 9)])
def test_halved_is_adaptive_average_pooling_and_the_assignment_is_normalised_after_it(size):
    half = [math.ceil(side / 2) for side in size]
    logits = rand(N, 2, M, *size)
    maps = logits.mean(dim=1)
    assert_equal_with_gradients(fused.halved, lambda x: F.adaptive_avg_pool2d(x, half), [maps])
    expected = F.adaptive_avg_pool2d(maps, half).softmax(dim=1)
    torch.testing.assert_close(token_assignment(logits, stride=2), expected)
    torch.testing.assert_close(token_assignment(logits, stride=1), maps.softmax(dim=1))


@pytest.mark.parametrize('mode', ['token', 'spatial'])
@pytest.mark.parametrize(('trains', 'norm_eval'), [(False, False), (True, True), (True, False)])
def test_channels_last_lasts_and_changes_no_number(trains, norm_eval, mode, monkeypatch):
    backbone = MobileFormer(TINY, dynamic_relu=mode, norm_eval=norm_eval).double().train(trains)
    images = rand(2, 3, 65, 96)
    results, seen = [], []
    backbone.blocks[-1].register_forward_pre_hook(
        lambda _, inputs: seen.append(layout.is_channels_last(inputs[0]))
    )
    for arrange in (layout.channels_last, lambda images: images):
        monkeypatch.setattr(MobileFormer, 'arrange', staticmethod(arrange))
        with torch.set_grad_enabled(trains):
            maps = backbone(images)
        sums = [level.square().sum() for level in maps]
        gradients = torch.autograd.grad(sum(sums), [*backbone.parameters()]) if trains else []
        results.append((maps, gradients))
    torch.testing.assert_close(*results)
    # Batch statistics would be summed in float32 where channels lie side by side.
    assert seen == [norm_eval or not trains, False]
    assert all(level.is_contiguous() != seen[0] for level in results[0][0])


@pytest.mark.parametrize('trains', [False, True])
def test_16_bits_on_a_cpu_keep_the_order_of_the_shape(trains):
    backbone = MobileFormer(TINY).train(trains)
    with torch.set_grad_enabled(trains), torch.autocast('cpu', torch.bfloat16):
        maps = backbone(torch.randn(2, 3, 65, 96))
    assert all(level.is_contiguous() and level.isfinite().all() for level in maps)


@pytest.mark.parametrize('spatial', [False, True])
@pytest.mark.parametrize('fixed', [False, True])
def test_activated_conv(spatial, fixed):
    conv = conv_norm(C, 2 * C, 3, dict(type='BN'), groups=C).double()
    for value in conv.norm.state_dict().values():
        if value.is_floating_point():
            torch.nn.init.uniform_(value, 0.5, 1.5)
    conv.norm.train(not fixed)
    mask = torch.zeros(N, H, W, dtype=torch.bool)
    mask[1, :, 4:] = True
    tokens = M if spatial else 1
    inputs = [rand(N, C, H, W), rand(N, C, tokens), rand(N, C, tokens)]
    inputs = [x.requires_grad_() for x in inputs]
    assignment = rand(N, M, H, W).softmax(dim=1).requires_grad_() if spatial else None
    formula = conv.norm(conv.conv(hide_padding(two_slopes(*inputs, assignment), mask)))
    ours = fused.activated_conv(*inputs, assignment, conv, mask)
    torch.testing.assert_close(ours, formula)
    grad = torch.randn_like(formula)
    inputs += [*conv.parameters(), *([assignment] * spatial)]
    gradients = [torch.autograd.grad(result, inputs, grad) for result in (ours, formula)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize('has_prior', [False, True])
def test_bridge_by_head_and_in_chunks_of_pixels(has_prior, monkeypatch):
    monkeypatch.setattr(bridge, 'pixels_at_once', lambda channels: 4)
    reads, adds = MobileToFormer(C, 16).double().eval(), FormerToMobile(C, 16).double().eval()
    features, tokens, feature_pos = rand(N, C, H, W), rand(N, 9, 16), rand(N, C, H, W)
    mask = torch.zeros(N, H, W, dtype=torch.bool)
    mask[1, :, 4:] = True
    prior = (rand(N, 2, 9, 5), rand(1, 5, H * W)) if has_prior else None
    expected = reads(features, tokens, feature_pos, None, mask, prior)
    map_before = adds(features, tokens, feature_pos)
    with torch.no_grad():
        features = features.contiguous(memory_format=torch.channels_last)
        ours = reads(features, tokens, feature_pos, None, mask, prior)
        map_after = adds(features, tokens, feature_pos)
    for one, other in zip(ours, expected, strict=True):  # the prior's product is float32's there
        torch.testing.assert_close(one, other.double(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(map_after, map_before)
    assert map_after.is_contiguous(memory_format=torch.channels_last)


def test_training_adds_many_tokens_without_their_maps():
    bridge = FormerToMobile(C, 16, num_heads=2).double().eval()
    inputs = [rand(N, C, H, W), rand(N, 9, 16), rand(N, C, H, W), *bridge.parameters()]
    assert_equal_with_gradients(
        lambda *inputs: bridge.train()(*inputs[:3]),
        lambda *inputs: bridge.eval()(*inputs[:3]),
        inputs,
    )


@pytest.mark.parametrize('grad', [False, True])
def test_dropout_in_training_needs_no_gradients(grad):
    block = attention_mobile.AttentionMobile(C, 4 * C, 16, num_heads=2)
    features = torch.randn(N, C, H, W).contiguous(memory_format=torch.channels_last)
    inputs = features, torch.randn(N, M, 16), None, block.expand, block.squeeze
    with torch.set_grad_enabled(grad):
        for training in (False, True):
            act = block.act.train(training)
            once, again = (act(*inputs, dropout=0.5) for _ in range(2))
            assert torch.equal(once, again) != training


@pytest.mark.parametrize('kind', ['attention', 'lite'])
def test_a_block_with_a_prior_trains_in_double_in_both_layouts(kind):
    block = DecoderBlock(16, kind, 32, num_heads=2, prior=True).double().train()
    features, tokens, boxes = rand(N, 16, H, W), rand(N, 9, 16), rand(N, 9, 4).sigmoid()
    extent = torch.ones(1, 2, dtype=torch.double)
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        maps = [features.contiguous(memory_format=memory_format)] * 2
        outputs = block(maps[0], tokens, maps[1], tokens, boxes=boxes, extent=extent)
        loss = sum(output.square().sum() for output in outputs)
        results.append(torch.autograd.grad(loss, [*block.parameters()]))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)  # the prior's product is float32's


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_depthwise_convolution_with_several_outputs_a_channel(memory_format):
    conv = conv_norm(C, 3 * C, 3, None, groups=C).double().conv
    features = rand(N, C, H, W).contiguous(memory_format=memory_format)
    assert conv._conv_forward(features, conv.weight, None).is_contiguous(
        memory_format=memory_format
    )
    inputs = [features, conv.weight.detach().clone(), conv.bias.detach().clone()]
    assert_equal_with_gradients(
        conv._conv_forward, lambda x, w, b: F.conv2d(x, w, b, padding=1, groups=C), inputs
    )
    with torch.autocast('cpu', torch.bfloat16):
        assert conv.float()(rand(N, C, H, W).float()).dtype == torch.bfloat16


def test_bounded_relu():
    inputs = [6 * rand(N, C, H, W)]
    assert_equal_with_gradients(fused.BoundedReLU.apply, F.relu6, inputs)


@pytest.mark.parametrize('kind', ['attention', 'lite'])
def test_what_training_recomputes_changes_no_gradient(kind, monkeypatch):
    block = DecoderBlock(16, kind, 32, num_heads=2, dropout=0.2).double().train()
    inputs = [rand(N, 16, H, W), rand(N, 9, 16), rand(N, 16, H, W), rand(N, 9, 16)]
    inputs = [x.requires_grad_() for x in inputs]
    results = []
    for _ in range(2):
        torch.manual_seed(1)
        outputs = block(*inputs)
        loss = sum(output.square().sum() for output in outputs)
        results.append(torch.autograd.grad(loss, [*inputs, *block.parameters()]))
        for module in (bridge, mobile, attention_mobile):
            monkeypatch.setattr(module, 'recomputed_in_training', lambda _, forward: forward)
    torch.testing.assert_close(*results)
