"""The blocks against loops that follow the paper's equations word by word."""

import math

import pytest
import torch
import torch.nn.functional as F
from naive_attention import attend
from torch import nn

from mmdet_mobileformer.models import (
    BlockSpec,
    Bottleneck,
    DynamicReLU,
    Former,
    FormerToMobile,
    LiteBottleneck,
    MobileFormerBlock,
    MobileToFormer,
)
from mmdet_mobileformer.models.convolution import channel_shuffle
from mmdet_mobileformer.models.padding import mask_at

N, C, H, W, M, D = 2, 8, 5, 7, 3, 16


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def rand(*shape):
    return torch.randn(*shape, dtype=torch.double)


@pytest.mark.parametrize('num_heads', [1, 2, 4])
@pytest.mark.parametrize('gated', [True, False])
def test_mobile_to_former_equals_loop(num_heads, gated):
    module = MobileToFormer(C, D, num_heads=num_heads, gated=gated).double()
    features, tokens = rand(N, C, H, W), rand(N, M, D)
    feature_pos, token_pos = rand(N, C, H, W), rand(N, M, D)
    mask = torch.zeros(N, H, W, dtype=torch.bool)
    mask[1, :, 4:] = True
    result, logits = module(features, tokens, feature_pos, token_pos, mask)
    assert logits.shape == (N, num_heads, M, H, W)
    for n in range(N):
        visible = ~mask[n].flatten()
        pixels = features[n].flatten(1).T[visible]
        keys = (features + feature_pos)[n].flatten(1).T[visible]
        update = attend(module.query((tokens + token_pos)[n]), keys, pixels, num_heads)
        if gated:
            update = update * 2 * F.relu6(module.gate(tokens[n]) + 3) / 6
        expected = module.norm(tokens[n] + module.proj(update))
        torch.testing.assert_close(result[n], expected)


@pytest.mark.parametrize('num_heads', [1, 2, 4])
def test_former_to_mobile_equals_loop(num_heads):
    module = FormerToMobile(C, D, num_heads=num_heads).double()
    features, tokens = rand(N, C, H, W), rand(N, M, D)
    feature_pos, token_pos = rand(N, C, H, W), rand(N, M, D)
    result = module(features, tokens, feature_pos, token_pos)
    for n in range(N):
        queries = (features + feature_pos)[n].flatten(1).T
        keys = module.key((tokens + token_pos)[n])
        update = attend(queries, keys, module.value(tokens[n]), num_heads)
        torch.testing.assert_close(result[n], features[n] + update.T.reshape(C, H, W))


def test_former_equals_loop():
    module = Former(D).double()
    tokens = rand(N, M, D)
    result = module(tokens)
    for n in range(N):
        update = attend(module.attention.query(tokens[n]), tokens[n], tokens[n], 4)
        hidden = module.attention_norm(tokens[n] + module.attention.proj(update))
        torch.testing.assert_close(result[n], module.ffn_norm(hidden + module.ffn(hidden)))


def slopes_of(module, token):
    theta = F.relu6(module.fc2(F.relu(module.fc1(token))) + 3) / 6
    return 2 * (theta[:C] - 0.5) + 1, 2 * (theta[C:] - 0.5)


def test_token_dynamic_relu_equals_loop_over_channels():
    module = DynamicReLU(D, C).double()
    features, tokens = 3 * rand(N, C, H, W), 5 * rand(N, M, D)
    result = module(features, tokens)
    for n in range(N):
        first, second = slopes_of(module, tokens[n, 0])
        for c in range(C):
            x = features[n, c]
            torch.testing.assert_close(result[n, c], torch.max(first[c] * x, second[c] * x))


def test_spatial_dynamic_relu_equals_loop_over_pixels():
    module = DynamicReLU(D, C).double()
    features, tokens = 3 * rand(N, C, H, W), 5 * rand(N, M, D)
    assignment = rand(N, M, H, W).softmax(dim=1)
    result = module(features, tokens, assignment)
    for n in range(N):
        pairs = [slopes_of(module, token) for token in tokens[n]]
        for y in range(H):
            for x in range(W):
                share = assignment[n, :, y, x]
                first = sum(a * pair[0] for a, pair in zip(share, pairs, strict=True))
                second = sum(a * pair[1] for a, pair in zip(share, pairs, strict=True))
                pixel = features[n, :, y, x]
                expected = torch.max(first * pixel, second * pixel)
                torch.testing.assert_close(result[n, :, y, x], expected)


def test_equal_tokens_make_both_modes_equal():
    module = DynamicReLU(D, C).double()
    features, tokens = rand(N, C, H, W), rand(N, 1, D).expand(-1, M, -1)
    assignment = rand(N, M, H, W).softmax(dim=1)
    torch.testing.assert_close(module(features, tokens, assignment), module(features, tokens))


def test_channel_shuffle_interleaves_groups():
    features = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert channel_shuffle(features, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize('block', ['lite', 'bottleneck'])
def test_drop_path_of_one_leaves_the_shortcut(block):
    norm_cfg = dict(type='BN')
    features, tokens = torch.randn(4, C, H, W), torch.randn(4, M, D)
    if block == 'lite':
        module = LiteBottleneck(C, 2 * C, C, norm_cfg, drop_path=1.0)
    else:
        module = Bottleneck(C, 2 * C, C, D, norm_cfg, drop_path=1.0)
    module.eval()
    assert not torch.equal(module(features, tokens), features)
    for child in module.modules():
        if child.__class__.__name__ == 'DropPath':
            child.train()
            child.drop_prob = 1 - 1e-9
    torch.testing.assert_close(module(features, tokens), features)


@pytest.mark.parametrize('kind', ['bottleneck', 'downsampling'])
@pytest.mark.parametrize('mode', ['token', 'spatial'])
def test_block_shapes_and_the_way_of_information(kind, mode):
    """Features learn of all tokens, tokens of all pixels that are not padding."""
    second = 2 * C if kind == 'downsampling' else None
    spec = BlockSpec(kind, mid_channels=2 * C, out_channels=C, second_mid_channels=second)
    block = MobileFormerBlock(C, spec, D, dict(type='BN'), dynamic_relu=mode).double().eval()
    features, tokens = rand(1, C, H, W).requires_grad_(), rand(1, M, D).requires_grad_()
    mask = torch.zeros(1, H, W, dtype=torch.bool)
    mask[:, :, -2:] = True
    maps, updated = block(features, tokens, mask)
    assert maps.shape == (1, C, math.ceil(H / spec.stride), math.ceil(W / spec.stride))
    assert updated.shape == tokens.shape
    (seen,) = torch.autograd.grad(updated.square().sum(), features, retain_graph=True)
    assert (seen[..., :-2] != 0).all() and (seen[..., -2:] == 0).all()
    (read,) = torch.autograd.grad(maps.square().sum(), tokens)
    assert (read.abs().sum(dim=-1) > 0).all()


def test_mask_of_a_map_is_that_of_the_pixels_at_its_corners():
    mask = torch.ones(1, 8, 9, dtype=torch.bool)
    mask[:, :3, :5] = False
    assert mask_at(mask, 2).tolist() == [[[False] * 3 + [True] * 2] * 2 + [[True] * 5] * 2]
    assert not mask_at(mask, 32).any() and mask_at(None, 2) is None


def test_norms_and_activations_are_those_of_the_paper():
    block = MobileFormerBlock(C, BlockSpec('bottleneck', 2 * C, C), D, dict(type='BN'))
    norms = [m for m in block.modules() if isinstance(m, (nn.LayerNorm, nn.BatchNorm2d))]
    assert {norm.eps for norm in norms} == {1e-5}
    assert [m.approximate for m in block.modules() if isinstance(m, nn.GELU)] == ['none']
    assert all(m.bias is None for m in block.modules() if isinstance(m, nn.Conv2d))
