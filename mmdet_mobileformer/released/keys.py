"""The key names of the authors' ImageNet checkpoints, and which variant a checkpoint is of."""

from collections.abc import Iterator, Mapping
from functools import cache

import torch
from torch import Tensor

from mmdet_mobileformer.checkpoints.compare import Difference
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.models.arch import ARCHS, BOTTLENECK, DOWNSAMPLING, LITE
from mmdet_mobileformer.models.classifier import MobileFormerClassifier

VARIANTS = tuple(ARCHS)

Names = tuple[tuple[str, str], ...]  # of modules of the released model (left) and ours (right)


def _norm(official: str, ours: str) -> Names:
    """Names of a convolution and its norm."""
    return (f'{official}.0', f'{ours}.conv'), (f'{official}.1', f'{ours}.bn')


def _act(official: str, ours: str) -> Names:
    """Names of the two layers of a dynamic ReLU."""
    return (f'{official}.hyper.0', f'{ours}.fc1'), (f'{official}.hyper.2', f'{ours}.fc2')


# In the order of the released model's state dict.
_MOBILE = {
    LITE: (
        *_norm('conv', 'depthwise'),
        ('conv.4', 'pointwise.conv'),
        ('conv.5', 'pointwise.bn'),
    ),
    BOTTLENECK: (
        *_norm('conv1', 'mobile.expand'),
        *_act('hyper1', 'mobile.act1'),
        *_norm('conv2', 'mobile.depthwise'),
        *_act('hyper2', 'mobile.act2'),
        *_norm('conv3', 'mobile.squeeze'),
    ),
    DOWNSAMPLING: (
        *_norm('conv1', 'mobile.depthwise1'),
        *_act('hyper1', 'mobile.act1'),
        *_norm('conv2', 'mobile.pointwise1'),
        *_norm('conv3', 'mobile.depthwise2'),
        *_act('hyper3', 'mobile.act2'),
        *_norm('conv4', 'mobile.pointwise2'),
    ),
}
_MOBILE_TO_FORMER = (
    ('local_global.alpha.0', 'mobile_to_former.gate'),
    ('local_global.q', 'mobile_to_former.query'),
    ('local_global.proj', 'mobile_to_former.proj'),
    ('local_global.layer_norm', 'mobile_to_former.norm'),
)
_FORMER = (
    ('global_block.ffn.0', 'former.ffn.0'),
    ('global_block.ffn.2', 'former.ffn.2'),
    ('global_block.ffn_norm', 'former.ffn_norm'),
    ('global_block.q', 'former.attention.query'),
    ('global_block.channel_mlp', 'former.attention.proj'),
    ('global_block.layer_norm', 'former.attention_norm'),
)
_FORMER_TO_MOBILE = (
    ('global_local.k', 'former_to_mobile.key'),
    ('global_local.proj', 'former_to_mobile.value'),
)
_HEAD = (
    *_MOBILE_TO_FORMER,
    ('classifier.conv.1', 'conv.conv'),
    ('classifier.conv.2', 'conv.bn'),
    ('classifier.fc.0', 'hidden'),
    ('classifier.fc.1', 'hidden_norm'),
    ('classifier.classifier.1', 'fc'),
)


def _modules(variant: str) -> Iterator[tuple[str, str]]:
    """Names of all modules with parameters, the authors' and ours."""
    yield from _norm('stem', 'backbone.stem')
    for index, spec in enumerate(ARCHS[variant].blocks):
        streams = () if spec.kind == LITE else (*_MOBILE_TO_FORMER, *_FORMER, *_FORMER_TO_MOBILE)
        for official, ours in (*_MOBILE[spec.kind], *streams):
            yield f'features.{index}.{official}', f'backbone.blocks.{index}.{ours}'
    for official, ours in _HEAD:
        yield official, f'head.{ours}'


@cache
def key_table(variant: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every key of a variant's released checkpoint, in its order, with our key and the shape."""
    with torch.device('meta'):
        weights = MobileFormerClassifier(variant).state_dict()
    table = {'tokens.weight': 'backbone.tokens'}
    for official, ours in _modules(variant):
        for key in weights:
            module, _, parameter = key.rpartition('.')
            if module == ours:
                table[f'{official}.{parameter}'] = key
    return {official: (ours, tuple(weights[ours].shape)) for official, ours in table.items()}


def recognise_variant(weights: Mapping[str, Tensor], source: str, official: bool = True) -> str:
    """Say which of the seven variants a classifier's weights are of.

    Args:
        weights: By the authors' names, or ours.
        source: Where they are from, for messages.
        official: Whether the names are the authors'.

    Raises:
        UserError: If they fit no variant exactly; the message names the nearest one and the first
            keys that are missing, too many, or of another shape.
    """
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    expected = {variant: expected_shapes(variant, official) for variant in VARIANTS}
    for variant in VARIANTS:
        if shapes == expected[variant]:
            return variant
    nearest = max(VARIANTS, key=lambda name: len(expected[name].items() & shapes.items()))
    format_name = "the authors' format" if official else 'the format of this project'
    if not expected[nearest].keys() & shapes.keys():
        raise UserError(
            f'{source} is no Mobile-Former classifier in {format_name}: not one of its keys is '
            f'known (its first is {next(iter(shapes), None)!r}); name another file.'
        )
    found = Difference(shapes, expected[nearest]).describe()
    raise UserError(
        f'{source} fits none of the variants {", ".join(VARIANTS)} in {format_name}; the nearest '
        f'is {nearest}, where {found}; name a whole, unchanged checkpoint.'
    )


def expected_shapes(variant: str, official: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of a variant's weights by the authors' names, or ours."""
    table = key_table(variant)
    if official:
        return {key: shape for key, (_, shape) in table.items()}
    return dict(table.values())


def from_official(weights: Mapping[str, Tensor], variant: str) -> dict[str, Tensor]:
    """Rename the authors' weights to ours; their keys must be those of the variant."""
    return {ours: weights[key] for key, (ours, _) in key_table(variant).items()}


def to_official(weights: Mapping[str, Tensor], variant: str) -> dict[str, Tensor]:
    """Rename our weights to the authors', in the order of their file."""
    return {key: weights[ours] for key, (ours, _) in key_table(variant).items()}
