"""The parts of the end-to-end detector's head: attentions, activation, position and upsampling."""

import pytest
import torch
import torch.nn.functional as F
from mmdet.models.layers import SinePositionalEncoding
from naive_attention import attend
from torch import nn

from mmdet_mobileformer.models import DecoderBlock, LayerNorm2d
from mmdet_mobileformer.models.bridge import token_assignment
from mmdet_mobileformer.models.e2e import MobileFormerDecoder, ScaleFusion, ScaleSpec
from mmdet_mobileformer.models.e2e.attention_mobile import AttentionMobile
from mmdet_mobileformer.models.e2e.position import position_of_pixels, spread_over_heads
from mmdet_mobileformer.models.former import TokenSelfAttention

IMAGES, QUERIES, DIM, HEADS, HEIGHT, WIDTH = 2, 5, 16, 4, 3, 4


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def streams():
    features = torch.randn(IMAGES, DIM, HEIGHT, WIDTH)
    queries = torch.randn(IMAGES, QUERIES, DIM)
    return features, queries, torch.randn_like(features), torch.randn_like(queries)


@pytest.fixture
def padding_mask():
    mask = torch.zeros(IMAGES, HEIGHT, WIDTH, dtype=torch.bool)
    mask[1, :, 2:] = True
    return mask


@pytest.mark.parametrize('full_projections', [True, False])
def test_self_attention_of_the_queries(streams, full_projections):
    _, queries, _, query_pos = streams
    part = TokenSelfAttention(DIM, HEADS, full_projections)
    output = part(queries, query_pos)
    for i in range(IMAGES):
        placed = queries[i] + query_pos[i]
        key = part.key(placed) if full_projections else placed
        value = part.value(queries[i]) if full_projections else queries[i]
        expected = part.proj(attend(part.query(placed), key, value, HEADS))
        torch.testing.assert_close(output[i], expected)


def test_attention_mobile_is_an_encoder_layer_with_dynamic_relu(streams, padding_mask):
    features, queries, feature_pos, _ = streams
    part = AttentionMobile(DIM, 32, DIM, HEADS)
    nn.init.normal_(part.attention.in_proj_bias)
    output = part(features, queries, None, padding_mask, feature_pos)
    weights = part.attention.in_proj_weight.chunk(3)
    biases = part.attention.in_proj_bias.chunk(3)
    for i in range(IMAGES):
        pixels = features[i].flatten(1).T
        placed = (features + feature_pos)[i].flatten(1).T
        query, key, value = (
            F.linear(x, w, b)
            for x, w, b in zip((placed, placed, pixels), weights, biases, strict=True)
        )
        visible = ~padding_mask[i].flatten()
        update = attend(query, key[visible], value[visible], HEADS)
        update = part.attention.out_proj(update).T.reshape(1, DIM, HEIGHT, WIDTH)
        expected = part.attention_norm(features[i : i + 1] + update)
        hidden = part.act(part.expand(expected), queries[i : i + 1])
        expected = part.ffn_norm(expected + part.squeeze(hidden))
        torch.testing.assert_close(output[i : i + 1], expected, rtol=1e-4, atol=1e-5)


def test_norm_of_a_pixel_knows_no_other_pixel():
    norm = LayerNorm2d(DIM)
    nn.init.normal_(norm.weight)
    features = torch.randn(1, DIM, 2, 3)
    expected = F.layer_norm(features[0, :, 1, 2], (DIM,), norm.weight, norm.bias)
    torch.testing.assert_close(norm(features)[0, :, 1, 2], expected)


def test_norm_has_the_gradients_of_layer_norm():
    norm = LayerNorm2d(DIM).double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    features = torch.randn(2, DIM, 3, 2, dtype=torch.float64, requires_grad=True)
    wanted = [features, norm.weight, norm.bias]
    grad = torch.randn_like(features)
    pixels = features.permute(0, 2, 3, 1)
    expected = F.layer_norm(pixels, (DIM,), norm.weight, norm.bias, norm.eps).permute(0, 3, 1, 2)
    for ours, theirs in zip(
        torch.autograd.grad(norm(features), wanted, grad),
        torch.autograd.grad(expected, wanted, grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_norm_of_large_values_in_16_bits(dtype):
    norm, features = LayerNorm2d(DIM).to(dtype), 300 * torch.randn(1, DIM, 2, 2)
    expected = LayerNorm2d(DIM)(features)
    torch.testing.assert_close(norm(features.to(dtype)).float(), expected, rtol=0.02, atol=0.02)
    with torch.autocast('cpu', torch.bfloat16):
        assert LayerNorm2d(DIM)(features.bfloat16()).dtype == torch.float32


def driven_block(mobile, dynamic_relu):
    """A block whose dynamic ReLU depends visibly on the queries."""
    block = DecoderBlock(DIM, mobile, 32, HEADS, dynamic_relu=dynamic_relu).eval()
    for linear in (block.mobile.act.fc1, block.mobile.act.fc2):
        nn.init.normal_(linear.weight, std=0.5)
    return block


@pytest.mark.parametrize('mobile', ['attention', 'lite'])
def test_spatial_dynamic_relu_of_the_head_against_a_loop(streams, mobile):
    features, queries, feature_pos, query_pos = streams
    block = driven_block(mobile, 'spatial')
    seen = {}
    block.mobile.act.register_forward_hook(
        lambda module, args, output: seen.update(args=args, output=output)
    )
    with torch.no_grad():
        _, logits = block.mobile_to_former(features, queries, feature_pos, query_pos)
        _, updated, _ = block(features, queries, feature_pos, query_pos)
        theta = F.hardsigmoid(block.mobile.act.fc2(F.relu(block.mobile.act.fc1(updated))))
    x, *_, before, then = seen['args']
    x = before(x)
    activated, channels = torch.empty_like(x), x.shape[1]
    for i in range(IMAGES):
        for h in range(HEIGHT):
            for w in range(WIDTH):
                share = logits[i, :, :, h, w].mean(0).softmax(0)
                mixed = sum(share[q] * theta[i, q] for q in range(QUERIES))
                first, second = 2 * mixed[:channels], 2 * mixed[channels:] - 1
                pixel = x[i, :, h, w]
                activated[i, :, h, w] = torch.maximum(first * pixel, second * pixel)
    torch.testing.assert_close(seen['output'], then(activated))


@pytest.mark.parametrize('mobile', ['attention', 'lite'])
def test_token_dynamic_relu_of_the_head_is_driven_by_the_mean_query(streams, mobile):
    block = driven_block(mobile, 'token')
    seen = {}
    block.mobile.act.register_forward_hook(lambda module, args, output: seen.update(args=args))
    _, updated, _ = block(*streams)
    _, drivers, assignment, *_ = seen['args']
    assert assignment is None
    torch.testing.assert_close(drivers[:, 0], updated.mean(dim=1))
    spatial = driven_block(mobile, 'spatial')
    spatial.load_state_dict(block.state_dict())
    assert not torch.allclose(spatial(*streams)[0], block(*streams)[0])


def test_position_embedding_adapts_as_equation_4_says(streams):
    features, queries, feature_pos, query_pos = streams
    block = DecoderBlock(DIM, 'lite', 32, HEADS).eval()
    _, updated, shift = block(features, queries, feature_pos, query_pos)
    first, _, second = block.position_update
    torch.testing.assert_close(shift, second(F.relu(first(updated))))
    fixed = DecoderBlock(DIM, 'lite', 32, HEADS, adapt_position=False).eval()
    assert fixed(features, queries, feature_pos, query_pos)[2] is None


@pytest.mark.parametrize('mobile', ['attention', 'lite'])
def test_what_padded_pixels_hold_does_not_reach_the_queries(streams, padding_mask, mobile):
    features, queries, feature_pos, query_pos = streams
    block = driven_block(mobile, 'spatial')
    other = torch.where(padding_mask[:, None], torch.randn_like(features), features)
    visible = ~padding_mask[:, None].expand_as(features)
    before = block(features, queries, feature_pos, query_pos, padding_mask)
    after = block(other, queries, feature_pos, query_pos, padding_mask)
    torch.testing.assert_close(after[1:], before[1:])
    if mobile == 'attention':  # without convolutions nothing of the padding reaches visible pixels
        torch.testing.assert_close(after[0][visible], before[0][visible])


@pytest.mark.parametrize('sizes', [((2, 3), (4, 6)), ((3, 5), (5, 9)), ((1, 1), (1, 2))])
def test_upsampling_meets_the_exact_size_and_adds_the_backbones_map(sizes):
    coarse, fine = (torch.randn(1, DIM, *size) for size in sizes)
    results = {}
    for upsampling in ('bilinear', 'nearest'):
        fusion = ScaleFusion(DIM, upsampling)
        results[upsampling] = fusion(coarse, fine)
        mode = dict(mode=upsampling)
        if upsampling == 'bilinear':
            mode['align_corners'] = False
        upsampled = F.interpolate(coarse, size=sizes[1], **mode)
        torch.testing.assert_close(results[upsampling], fusion.conv(upsampled + fine))
    assert results['bilinear'].shape == fine.shape


def test_without_upsampling_the_coarse_features_are_dropped():
    coarse, fine = torch.randn(1, DIM, 2, 2), torch.randn(1, DIM, 4, 4)
    fusion = ScaleFusion(DIM, None)
    assert torch.equal(fusion(coarse, fine), fusion(coarse + 1, fine))
    scales = [dict(num_blocks=2, mobile='lite', mid_channels=DIM)] * 2
    without, bilinear = (
        MobileFormerDecoder(scales, DIM, HEADS, upsampling=up) for up in (None, 'bilinear')
    )
    # Nothing reads what Mobile would make of the last features of the coarse scale.
    assert without.scales[0][1].mobile is None and bilinear.scales[0][1].mobile is not None
    assert without.scales[0][0].mobile is not None and bilinear.scales[1][1].mobile is None


def test_every_head_of_the_bridge_can_tell_both_coordinates():
    encoding = SinePositionalEncoding(DIM, normalize=True)
    pos = encoding(None, input=torch.zeros(1, 1, HEIGHT, WIDTH))
    spread = spread_over_heads(pos, HEADS)
    torch.testing.assert_close(spread.sort(dim=1).values, pos.sort(dim=1).values)
    for head in spread[0].unflatten(0, (HEADS, -1)):
        along_y = (head[:, :, :1] != head[:, :1, :1]).any(2).any(1)
        along_x = (head[:, :1, :] != head[:, :1, :1]).any(2).any(1)
        assert (along_y.sum(), along_x.sum()) == (len(head) / 2, len(head) / 2)
        assert not (along_y & along_x).any()
        # Sine and cosine of an angle stay together: their squares add up to one.
        squares = (head**2).unflatten(0, (-1, 2)).sum(1)
        torch.testing.assert_close(squares, torch.ones_like(squares))


@pytest.mark.parametrize('size', [(HEIGHT, WIDTH), (1, 5), (4, 1)])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_position_of_pixels_from_a_column_and_a_row(size, layout):
    encoding = SinePositionalEncoding(DIM // 2, normalize=True)
    features = torch.randn(IMAGES, DIM, *size).contiguous(memory_format=layout)
    expected = spread_over_heads(encoding(None, input=features), HEADS)
    position = position_of_pixels(encoding, HEADS, features, None)
    torch.testing.assert_close(position.expand_as(features), expected)
    mask = torch.zeros(IMAGES, *size, dtype=torch.bool)
    torch.testing.assert_close(position_of_pixels(encoding, HEADS, features, mask), expected)


def test_assignment_of_pixels_is_a_distribution_over_all_queries():
    logits = torch.randn(IMAGES, HEADS, QUERIES, HEIGHT, WIDTH)
    assignment = token_assignment(logits, stride=1)
    torch.testing.assert_close(assignment.sum(1), torch.ones(IMAGES, HEIGHT, WIDTH))


def test_wrong_settings_are_named():
    scales = [dict(num_blocks=1, mobile='lite', mid_channels=32)]
    with pytest.raises(ValueError, match=r'conv.*attention.*lite'):
        ScaleSpec(num_blocks=1, mobile='conv', mid_channels=8)
    with pytest.raises(ValueError, match='num_blocks 0'):
        ScaleSpec(num_blocks=0, mobile='lite', mid_channels=8)
    with pytest.raises(ValueError, match='scales is empty'):
        MobileFormerDecoder([])
    with pytest.raises(ValueError, match='bicubic'):
        MobileFormerDecoder(scales * 2, DIM, HEADS, upsampling='bicubic')
    with pytest.raises(ValueError, match='static'):
        MobileFormerDecoder(scales, DIM, HEADS, dynamic_relu='static')
    with pytest.raises(ValueError, match='20 and 8'):
        MobileFormerDecoder(scales, 20, 8)
    decoder = MobileFormerDecoder(scales, DIM, HEADS)
    maps = [torch.zeros(1, DIM, 2, 2)] * 2
    with pytest.raises(ValueError, match='1 scales but got 2 feature maps'):
        decoder(maps, torch.zeros(1, 3, DIM), torch.zeros(1, 3, DIM))
