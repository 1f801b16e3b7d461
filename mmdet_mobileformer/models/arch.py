"""The seven published architectures as data, and the specification of one's own."""

from dataclasses import dataclass, fields, replace
from itertools import accumulate
from operator import mul
from typing import Any, Self

LITE = 'lite'
BOTTLENECK = 'bottleneck'
DOWNSAMPLING = 'downsampling'
BLOCK_KINDS = (LITE, BOTTLENECK, DOWNSAMPLING)

STEM_STRIDE = 2


@dataclass(frozen=True)
class BlockSpec:
    """One block of the network: its kind and its final channel numbers.

    Raises:
        ValueError: If the kind is unknown, or a number does not fit the kind.
    """

    kind: str  # one of BLOCK_KINDS
    mid_channels: int  # channels between the (first) depthwise and pointwise convolution
    out_channels: int
    stride: int | None = None  # None: what the kind implies, 2 for downsampling and 1 otherwise
    second_mid_channels: int | None = None  # of a downsampling block's second depthwise convolution

    def __post_init__(self) -> None:
        if self.kind not in BLOCK_KINDS:
            raise ValueError(f'unknown kind of block {self.kind!r}; choose from {BLOCK_KINDS}')
        strides = {LITE: (1, 2), BOTTLENECK: (1,), DOWNSAMPLING: (2,)}[self.kind]
        if self.stride is None:
            object.__setattr__(self, 'stride', strides[0])
        if self.stride not in strides:
            raise ValueError(f'a {self.kind} block has stride {strides}, not {self.stride}')
        if (self.kind == DOWNSAMPLING) != (self.second_mid_channels is not None):
            raise ValueError(
                'second_mid_channels belongs to downsampling blocks and to no other; '
                f'got {self.second_mid_channels} for a {self.kind} block'
            )


@dataclass(frozen=True)
class ArchSpec:
    """A whole network. Level i of it is the last block of stride 2^(i+1).

    Raises:
        ValueError: If channel numbers do not divide as the blocks need it.
    """

    stem_channels: int
    num_tokens: int
    token_dim: int  # of every token, in every block
    blocks: tuple[BlockSpec, ...]
    groups: int = 1  # of the pointwise convolutions; channels are shuffled where it is above 1
    classifier_channels: int = 1280  # hidden width of the ImageNet classifier
    classifier_dropout: float = 0.2

    def __post_init__(self) -> None:
        if not self.blocks or self.token_dim % 4 or self.num_tokens < 1:
            raise ValueError(
                'an architecture needs at least one block and one token, and a token_dim that four '
                f'heads divide; got {len(self.blocks)} blocks, {self.num_tokens} tokens of '
                f'{self.token_dim}'
            )
        in_channels = self.stem_channels
        for index, block in enumerate(self.blocks):
            _check_block(index, block, in_channels, self.groups)
            in_channels = block.out_channels

    @classmethod
    def parse(cls, arch: str | dict[str, Any] | Self) -> Self:
        """Turn a published name, a config's dict or a specification into a specification.

        Args:
            arch: One of :data:`ARCHS`, an ``ArchSpec``, or a dict of its fields whose ``blocks``
                are dicts of the fields of ``BlockSpec``.

        Raises:
            ValueError: If the name, or a field of the dict, is unknown, or ``arch`` is neither.
        """
        if isinstance(arch, cls):
            return arch
        if not isinstance(arch, dict):
            if arch not in tuple(ARCHS):  # a tuple, since a list has no hash
                raise ValueError(
                    f'unknown arch {arch!r}; choose from {tuple(ARCHS)} or give its specification'
                )
            return ARCHS[arch]
        _check_fields(arch, cls)
        for block in arch.get('blocks', ()):
            _check_fields(block, BlockSpec)
        blocks = tuple(BlockSpec(**block) for block in arch.get('blocks', ()))
        return cls(**{**arch, 'blocks': blocks})

    @property
    def block_strides(self) -> tuple[int, ...]:
        """Stride of every block's output with respect to the image."""
        strides = accumulate((block.stride for block in self.blocks), mul, initial=STEM_STRIDE)
        return tuple(strides)[1:]

    @property
    def level_blocks(self) -> dict[int, int]:
        """Index of the last block of each level, by level."""
        return {stride.bit_length() - 2: index for index, stride in enumerate(self.block_strides)}


def _check_fields(given: dict[str, Any], spec: type) -> None:
    known = [field.name for field in fields(spec)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f'unknown field {unknown} of {spec.__name__}; its fields are {known}')


def _check_block(index: int, block: BlockSpec, in_channels: int, groups: int) -> None:
    """Depthwise convolutions multiply channels, heads and groups divide them."""
    mid, out, second = block.mid_channels, block.out_channels, block.second_mid_channels
    rules = [
        (mid % groups == 0, f'mid_channels {mid} must be a multiple of {groups} groups'),
        (out % groups == 0, f'out_channels {out} must be a multiple of {groups} groups'),
        (
            block.kind != BOTTLENECK or in_channels % groups == 0,
            f'input channels {in_channels} must be a multiple of {groups} groups',
        ),
        (
            block.kind == BOTTLENECK or mid % in_channels == 0,
            f'mid_channels {mid} must be a multiple of {in_channels} input channels',
        ),
        (
            block.kind != DOWNSAMPLING or second % out == 0,
            f'second_mid_channels {second} must be a multiple of out_channels {out}',
        ),
        (
            block.kind == LITE or in_channels % 2 == out % 2 == 0,
            f'input channels {in_channels} and out_channels {out} must be a multiple of 2 heads',
        ),
    ]
    for holds, message in rules:
        if not holds:
            raise ValueError(f'block {index} ({block.kind}): {message}')


# Released model; 294M also paper, table 1. Comments give the resolution for a 224 x 224 image.
# fmt: off
_MF26M = ArchSpec(
    stem_channels=8, num_tokens=3, token_dim=128, groups=4,
    classifier_channels=1024, classifier_dropout=0.1,
    blocks=(
        BlockSpec(LITE, mid_channels=24, out_channels=12, stride=2),  # 56²
        BlockSpec(BOTTLENECK, mid_channels=36, out_channels=12),  # 56²
        BlockSpec(DOWNSAMPLING, mid_channels=72, out_channels=24, second_mid_channels=96),  # 28²
        BlockSpec(BOTTLENECK, mid_channels=72, out_channels=24),  # 28²
        BlockSpec(DOWNSAMPLING, mid_channels=144, out_channels=48, second_mid_channels=192),  # 14²
        BlockSpec(BOTTLENECK, mid_channels=192, out_channels=48),  # 14²
        BlockSpec(BOTTLENECK, mid_channels=288, out_channels=64),  # 14²
        BlockSpec(DOWNSAMPLING, mid_channels=384, out_channels=96, second_mid_channels=384),  # 7²
        BlockSpec(BOTTLENECK, mid_channels=576, out_channels=96),  # 7²
    ),
)
ARCHS: dict[str, ArchSpec] = {
    '26m': _MF26M,
    '52m': replace(_MF26M, groups=1, classifier_dropout=0.2),
    '96m': ArchSpec(
        stem_channels=12, num_tokens=4, token_dim=128,
        classifier_channels=1280, classifier_dropout=0.2,
        blocks=(
            BlockSpec(LITE, mid_channels=24, out_channels=12),  # 112²
            BlockSpec(DOWNSAMPLING, mid_channels=72, out_channels=16, second_mid_channels=64),  # 56²
            BlockSpec(DOWNSAMPLING, mid_channels=96, out_channels=32, second_mid_channels=128),  # 28²
            BlockSpec(BOTTLENECK, mid_channels=96, out_channels=32),  # 28²
            BlockSpec(DOWNSAMPLING, mid_channels=192, out_channels=64, second_mid_channels=256),  # 14²
            BlockSpec(BOTTLENECK, mid_channels=256, out_channels=64),  # 14²
            BlockSpec(BOTTLENECK, mid_channels=384, out_channels=88),  # 14²
            BlockSpec(DOWNSAMPLING, mid_channels=528, out_channels=128, second_mid_channels=512),  # 7²
            BlockSpec(BOTTLENECK, mid_channels=768, out_channels=128),  # 7²
        ),
    ),
    '151m': ArchSpec(
        stem_channels=12, num_tokens=6, token_dim=192,
        classifier_channels=1280, classifier_dropout=0.2,
        blocks=(
            BlockSpec(LITE, mid_channels=24, out_channels=12),  # 112²
            BlockSpec(DOWNSAMPLING, mid_channels=72, out_channels=16, second_mid_channels=64),  # 56²
            BlockSpec(BOTTLENECK, mid_channels=48, out_channels=16),  # 56²
            BlockSpec(DOWNSAMPLING, mid_channels=96, out_channels=32, second_mid_channels=128),  # 28²
            BlockSpec(BOTTLENECK, mid_channels=96, out_channels=32),  # 28²
            BlockSpec(DOWNSAMPLING, mid_channels=192, out_channels=64, second_mid_channels=256),  # 14²
            BlockSpec(BOTTLENECK, mid_channels=256, out_channels=64),  # 14²
            BlockSpec(BOTTLENECK, mid_channels=384, out_channels=88),  # 14²
            BlockSpec(BOTTLENECK, mid_channels=528, out_channels=88),  # 14²
            BlockSpec(DOWNSAMPLING, mid_channels=528, out_channels=128, second_mid_channels=512),  # 7²
            BlockSpec(BOTTLENECK, mid_channels=768, out_channels=128),  # 7²
            BlockSpec(BOTTLENECK, mid_channels=768, out_channels=128),  # 7²
        ),
    ),
    '214m': ArchSpec(
        stem_channels=12, num_tokens=6, token_dim=192,
        classifier_channels=1600, classifier_dropout=0.2,
        blocks=(
            BlockSpec(LITE, mid_channels=24, out_channels=12),  # 112²
            BlockSpec(DOWNSAMPLING, mid_channels=72, out_channels=20, second_mid_channels=80),  # 56²
            BlockSpec(BOTTLENECK, mid_channels=60, out_channels=20),  # 56²
            BlockSpec(DOWNSAMPLING, mid_channels=120, out_channels=40, second_mid_channels=160),  # 28²
            BlockSpec(BOTTLENECK, mid_channels=160, out_channels=40),  # 28²
            BlockSpec(DOWNSAMPLING, mid_channels=240, out_channels=80, second_mid_channels=320),  # 14²
            BlockSpec(BOTTLENECK, mid_channels=320, out_channels=80),  # 14²
            BlockSpec(BOTTLENECK, mid_channels=480, out_channels=112),  # 14²
            BlockSpec(BOTTLENECK, mid_channels=672, out_channels=112),  # 14²
            BlockSpec(DOWNSAMPLING, mid_channels=672, out_channels=160, second_mid_channels=640),  # 7²
            BlockSpec(BOTTLENECK, mid_channels=960, out_channels=160),  # 7²
            BlockSpec(BOTTLENECK, mid_channels=960, out_channels=160),  # 7²
        ),
    ),
    '294m': ArchSpec(
        stem_channels=16, num_tokens=6, token_dim=192,
        classifier_channels=1920, classifier_dropout=0.3,
        blocks=(
            BlockSpec(LITE, mid_channels=32, out_channels=16),  # 112²
            BlockSpec(DOWNSAMPLING, mid_channels=96, out_channels=24, second_mid_channels=96),  # 56²
            BlockSpec(BOTTLENECK, mid_channels=96, out_channels=24),  # 56²
            BlockSpec(DOWNSAMPLING, mid_channels=144, out_channels=48, second_mid_channels=192),  # 28²
            BlockSpec(BOTTLENECK, mid_channels=192, out_channels=48),  # 28²
            BlockSpec(DOWNSAMPLING, mid_channels=288, out_channels=96, second_mid_channels=384),  # 14²
            BlockSpec(BOTTLENECK, mid_channels=384, out_channels=96),  # 14²
            BlockSpec(BOTTLENECK, mid_channels=576, out_channels=128),  # 14²
            BlockSpec(BOTTLENECK, mid_channels=768, out_channels=128),  # 14²
            BlockSpec(DOWNSAMPLING, mid_channels=768, out_channels=192, second_mid_channels=768),  # 7²
            BlockSpec(BOTTLENECK, mid_channels=1152, out_channels=192),  # 7²
            BlockSpec(BOTTLENECK, mid_channels=1152, out_channels=192),  # 7²
        ),
    ),
    '508m': ArchSpec(
        stem_channels=24, num_tokens=6, token_dim=192,
        classifier_channels=1920, classifier_dropout=0.3,
        blocks=(
            BlockSpec(LITE, mid_channels=48, out_channels=24),  # 112²
            BlockSpec(DOWNSAMPLING, mid_channels=144, out_channels=40, second_mid_channels=160),  # 56²
            BlockSpec(BOTTLENECK, mid_channels=120, out_channels=40),  # 56²
            BlockSpec(DOWNSAMPLING, mid_channels=240, out_channels=72, second_mid_channels=288),  # 28²
            BlockSpec(BOTTLENECK, mid_channels=216, out_channels=72),  # 28²
            BlockSpec(DOWNSAMPLING, mid_channels=432, out_channels=128, second_mid_channels=512),  # 14²
            BlockSpec(BOTTLENECK, mid_channels=512, out_channels=128),  # 14²
            BlockSpec(BOTTLENECK, mid_channels=768, out_channels=176),  # 14²
            BlockSpec(BOTTLENECK, mid_channels=1056, out_channels=176),  # 14²
            BlockSpec(DOWNSAMPLING, mid_channels=1056, out_channels=240, second_mid_channels=960),  # 7²
            BlockSpec(BOTTLENECK, mid_channels=1440, out_channels=240),  # 7²
            BlockSpec(BOTTLENECK, mid_channels=1440, out_channels=240),  # 7²
        ),
    ),
}
# fmt: on
