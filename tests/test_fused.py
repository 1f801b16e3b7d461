"""Each form of models/fused.py equals its formula, in its results and in its gradients."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmdet_mobileformer.models import ArchSpec, BlockSpec, MobileFormer, bridge, fused, mobile
from mmdet_mobileformer.models.bridge import token_assignment
from mmdet_mobileformer.models.convolution import conv_norm
from mmdet_mobileformer.models.dynamic_relu import two_slopes
from mmdet_mobileformer.models.e2e import attention_mobile
from mmdet_mobileformer.models.e2e.block import DecoderBlock
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


def test_two_slopes_in_chunks_of_pixels(monkeypatch):
    monkeypatch.setattr(fused, 'CHUNK', 4 * C)
    inputs = [rand(N, C, H, W), rand(N, C, M), rand(N, C, M), rand(N, M, H, W).softmax(dim=1)]
    inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
    ours = fused.two_slopes(*inputs)
    torch.testing.assert_close(ours, two_slopes(*inputs))
    assert ours.is_contiguous(memory_format=torch.channels_last)


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
def test_channels_last_in_inference_lasts_and_changes_no_number(mode):
    backbone = MobileFormer(TINY, dynamic_relu=mode).double().eval()
    images = rand(2, 3, 65, 96)
    with torch.no_grad():
        inference = backbone(images)
        with torch.autocast('cpu', torch.bfloat16):
            assert all(torch.isfinite(level).all() for level in backbone.float()(images.float()))
    assert not any(level.is_contiguous() for level in inference)
    for one, other in zip(inference, backbone.double()(images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


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
