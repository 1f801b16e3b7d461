"""Behaviour of the backbone as mmdet's users know backbones."""

import copy
import math

import pytest
import torch
from mmdet.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

from mmdet_mobileformer.models import ARCHS, ArchSpec, BlockSpec, MobileFormer

TINY = dict(
    stem_channels=4,
    num_tokens=2,
    token_dim=64,  # a hidden layer wide enough that not all of its ReLUs are dead
    blocks=[
        dict(kind='lite', mid_channels=8, out_channels=4),
        dict(kind='downsampling', mid_channels=8, out_channels=8, second_mid_channels=16),
        dict(kind='bottleneck', mid_channels=16, out_channels=8),
        dict(kind='downsampling', mid_channels=16, out_channels=8, second_mid_channels=8),
        dict(kind='downsampling', mid_channels=16, out_channels=12, second_mid_channels=12),
        dict(kind='downsampling', mid_channels=24, out_channels=16, second_mid_channels=16),
    ],
)
MODES = ('token', 'spatial')

# Parameters in millions of the backbone alone: the published table's figures to its two digits.
PARAMETERS = {
    '26m': 1.43, '52m': 1.63, '96m': 2.00, '151m': 4.91, '214m': 5.73, '294m': 6.58, '508m': 8.43
}  # fmt: skip


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def build(arch=TINY, **kwargs):
    return MODELS.build(dict(type='MobileFormer', arch=arch, **kwargs))


def loss_of(outputs):
    return sum(output.float().square().mean() for output in outputs)


@pytest.mark.parametrize('arch', ARCHS)
def test_published_parameter_counts(arch):
    parameters = sum(p.numel() for p in build(arch).parameters()) / 1e6
    assert round(parameters, 2) == PARAMETERS[arch]


@pytest.mark.parametrize('arch', ARCHS)
def test_levels_have_the_declared_channels_and_strides(arch):
    levels = tuple(ARCHS[arch].level_blocks)
    backbone = build(arch, out_indices=levels).eval()
    with torch.no_grad():
        outputs = backbone(torch.randn(1, 3, 45, 71))
    assert backbone.strides == tuple(2 ** (level + 1) for level in levels)
    for output, channels, stride in zip(
        outputs, backbone.out_channels, backbone.strides, strict=True
    ):
        assert output.shape == (1, channels, math.ceil(45 / stride), math.ceil(71 / stride))


@pytest.mark.parametrize('size', [(32, 32), (33, 47), (32, 161)])
@pytest.mark.parametrize('mode', MODES)
def test_every_parameter_learns_at_any_size(size, mode):
    backbone = build(dynamic_relu=mode).train()
    loss_of(backbone(torch.randn(2, 3, *size))).backward()
    idle = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle
    assert all(torch.isfinite(p.grad).all() for p in backbone.parameters())


@pytest.mark.parametrize('out_indices', [(0,), (1, 2), (2, 3), (4,)])
def test_blocks_behind_the_last_level_are_not_built(out_indices):
    backbone = build(out_indices=out_indices)
    loss_of(backbone(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for n, p in backbone.named_parameters() if n != 'tokens')


@pytest.mark.parametrize('mode', MODES)
def test_bfloat16_and_autocast_are_finite(mode):
    backbone = build(dynamic_relu=mode)
    image = torch.randn(2, 3, 64, 64)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss_of(backbone(image)).backward()
    assert all(torch.isfinite(p.grad).all() for p in backbone.parameters())
    half = build(dynamic_relu=mode).bfloat16()
    outputs = half(image.bfloat16())
    loss_of(outputs).backward()
    assert all(o.dtype == torch.bfloat16 and torch.isfinite(o).all() for o in outputs)
    assert all(torch.isfinite(p.grad).all() for p in half.parameters())


@pytest.mark.parametrize('mode', MODES)
def test_recomputation_changes_no_number(mode):
    plain = build(dynamic_relu=mode, drop_path_rate=0.2).train()
    recomputed = copy.deepcopy(plain)
    recomputed.with_cp = True
    image = torch.randn(2, 3, 64, 64)
    for backbone in (plain, recomputed):
        torch.manual_seed(1)
        loss_of(backbone(image)).backward()
    for (name, one), other in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name
    for (name, one), other in zip(plain.named_buffers(), recomputed.buffers(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize('mode', MODES)
def test_batch_equals_singles(mode):
    backbone = build(dynamic_relu=mode).double().eval()
    images = torch.randn(2, 3, 65, 50, dtype=torch.double)
    together = backbone(images)
    for n in range(2):
        for both, alone in zip(together, backbone(images[n : n + 1]), strict=True):
            torch.testing.assert_close(both[n : n + 1], alone)


def test_masked_padding_gets_no_attention():
    """Tokens after the first bridge cannot see what stands in the padding."""
    backbone = build(out_indices=(1,)).double().eval()
    # One lite block, whose convolutions see a border, and one bridge.
    backbone.blocks = backbone.blocks[:2]
    image = torch.randn(1, 3, 64, 96, dtype=torch.double)
    other = image.clone()
    other[..., 72:] = 5.0  # convolutions of the stem and first block reach three pixels further
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[..., 64:] = True
    tokens = [backbone.forward_tokens(x, mask)[1] for x in (image, other)]
    torch.testing.assert_close(*tokens)
    unmasked = [backbone.forward_tokens(x)[1] for x in (image, other)]
    assert not torch.allclose(*unmasked)


def test_train_and_eval_return_self_and_norm_eval_fixes_statistics():
    backbone = build(norm_eval=True)
    assert backbone.train() is backbone
    assert not any(m.training for m in backbone.modules() if isinstance(m, _BatchNorm))
    assert backbone.eval() is backbone
    assert any(m.training for m in build().train().modules() if isinstance(m, _BatchNorm))


@pytest.mark.parametrize('stages', [-1, 0, 1, 2, 3, 5])
def test_frozen_stages_freeze_what_they_say(stages):
    backbone = build(frozen_stages=stages).train()
    before = copy.deepcopy(backbone.state_dict())
    trainable = [p for p in backbone.parameters() if p.requires_grad]
    if trainable:
        optimizer = torch.optim.SGD(trainable, lr=1.0)
        loss_of(backbone(torch.randn(2, 3, 64, 64))).backward()
        optimizer.step()
    else:
        backbone(torch.randn(2, 3, 64, 64))
    moved = {
        '.'.join(name.split('.')[: 2 if name.startswith('blocks') else 1])
        for name, value in backbone.state_dict().items()
        if not torch.equal(value, before[name])
    }
    expected = set() if stages >= 0 else {'stem', 'tokens'}
    strides = backbone.arch.block_strides
    expected |= {f'blocks.{i}' for i, s in enumerate(strides) if stages < 1 or s > 2**stages}
    assert moved == expected


def test_state_survives_saving_and_both_modes_share_it(tmp_path):
    token, spatial = build(dynamic_relu='token').eval(), build(dynamic_relu='spatial').eval()
    torch.save(token.state_dict(), tmp_path / 'weights.pth')
    spatial.load_state_dict(torch.load(tmp_path / 'weights.pth', weights_only=True))
    image = torch.randn(1, 3, 64, 64)
    again = build(dynamic_relu='token').eval()
    again.load_state_dict(spatial.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again(image), token(image), strict=True))


def test_released_initialisation():
    backbone = build('26m')
    backbone.init_weights()
    for name, module in backbone.named_modules():
        if isinstance(module, torch.nn.Linear) and module.weight.numel() > 5000:
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.05), name
            assert not module.bias.any(), name
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 5000:
            side = module.kernel_size[0]
            expected = math.sqrt(2 / (side**2 * module.out_channels))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05), name
    assert backbone.tokens.std().item() == pytest.approx(1, rel=0.15)


def test_architecture_by_specification_or_dict():
    spec = ArchSpec(**{**TINY, 'blocks': tuple(BlockSpec(**block) for block in TINY['blocks'])})
    assert MobileFormer(spec).arch == MobileFormer(TINY).arch
    assert TINY['blocks'][0] == dict(kind='lite', mid_channels=8, out_channels=4), 'left as it was'


@pytest.mark.parametrize(
    ('kwargs', 'words'),
    [
        (dict(arch='300m'), "unknown arch '300m'.*294m"),
        (dict(arch='26m', out_indices=(0, 1)), '26m has no level 0 .stride 2.*1, 2, 3, 4'),
        (dict(out_indices=(5,)), 'no level 5'),
        (dict(out_indices=(2, 1)), 'must ascend'),
        (dict(out_indices=()), 'must ascend'),
        (dict(dynamic_relu='pixel'), "'pixel'.*token.*spatial"),
        (dict(frozen_stages=6), 'frozen_stages.*6'),
        (dict(arch=dict(TINY, widths=3)), r"unknown field \['widths'\] of ArchSpec"),
        (dict(arch=dict(TINY, num_tokens=0)), '0 tokens'),
        (dict(arch=dict(TINY, blocks=[dict(kind='lite', mid_channels=9, out_channels=4)])), 'of 4'),
        (
            dict(arch=dict(TINY, blocks=[dict(kind='wide', mid_channels=8, out_channels=4)])),
            "'wide'",
        ),
        (
            dict(arch=dict(TINY, blocks=[dict(kind='bottleneck', mid_channels=8, out_channels=5)])),
            'multiple of 2',
        ),
        (
            dict(
                arch=dict(
                    TINY,
                    stem_channels=6,
                    groups=4,
                    blocks=[dict(kind='lite', mid_channels=18, out_channels=4)],
                )
            ),
            'block 0 .lite.: mid_channels 18 must be a multiple of 4 groups',
        ),
    ],
)
def test_wrong_arguments_are_named(kwargs, words):
    with pytest.raises(ValueError, match=words):
        build(**kwargs)


def test_missing_pretrained_file_stops(tmp_path):
    name = str(tmp_path / 'nowhere.pth')
    backbone = build(init_cfg=dict(type='Pretrained', checkpoint=name, prefix='backbone.'))
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pth.*from-scratch'):
        backbone.init_weights()
