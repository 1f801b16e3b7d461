"""The networks compute what the released model computes with the same weights."""

import numpy as np
import pytest
import torch
from reference.reference_weights import expected, image, state_dict

from mmdet_mobileformer.models import ARCHS, ClassificationHead, MobileFormer
from mmdet_mobileformer.released.keys import from_official

CASES = ['26m_token', '96m_token', '151m_spatial', '294m_token', '508m_token']
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-6}  # of each array's standard deviation


def part_of(weights, prefix):
    return {
        key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)
    }


@pytest.mark.parametrize('case', CASES)
def test_maps_tokens_and_logits(case):
    variant, dynamic_relu = case.split('_')
    reference = expected(case)
    weights = from_official(state_dict(variant), variant)
    backbone = MobileFormer(
        variant, dynamic_relu=dynamic_relu, out_indices=tuple(ARCHS[variant].level_blocks)
    ).eval()
    head = ClassificationHead(variant).eval()
    backbone.load_state_dict(part_of(weights, 'backbone.'))
    head.load_state_dict(part_of(weights, 'head.'))
    images = image(tuple(reference['shape']), int(reference['seed']))
    for dtype, tolerance in TOLERANCES.items():
        backbone.to(dtype)
        head.to(dtype)
        with torch.no_grad():
            maps, tokens = backbone.forward_tokens(images.to(dtype))
            logits = head(maps[-1], tokens)
        computed = {f'stride{stride}': m for stride, m in zip(backbone.strides, maps, strict=True)}
        computed.update(tokens=tokens, logits=logits)
        assert set(computed) | {'shape', 'seed'} == set(reference)
        for name, value in computed.items():
            error = np.abs(value.numpy() - reference[name]).max() / reference[name].std()
            assert error < tolerance, (name, dtype, error)


@pytest.mark.parametrize('case', CASES)
def test_training_form_computes_the_same(case):
    """With gradients switched on, activations run in another form."""
    variant, dynamic_relu = case.split('_')
    reference = expected(case)
    weights = part_of(from_official(state_dict(variant), variant), 'backbone.')
    backbone = MobileFormer(variant, dynamic_relu=dynamic_relu, out_indices=(4,)).eval()
    backbone.load_state_dict(weights)
    (last,), tokens = backbone.forward_tokens(
        image(tuple(reference['shape']), int(reference['seed']))
    )
    assert last.requires_grad
    for name, value in (('stride32', last), ('tokens', tokens)):
        error = np.abs(value.detach().numpy() - reference[name]).max() / reference[name].std()
        assert error < 1e-4, (name, error)
