"""Each form of models/fused.py equals its formula, in its results and in its gradients."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmdet_mobileformer.models import fused
from mmdet_mobileformer.models.bridge import token_assignment
from mmdet_mobileformer.models.dynamic_relu import two_slopes

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


@pytest.mark.parametrize('size', [(1, 1), (1, 2), (2, 3), (5, 8), (6, 6), (7, 9)])
def test_halved_is_adaptive_average_pooling_and_the_assignment_is_normalised_after_it(size):
    half = [math.ceil(side / 2) for side in size]
    logits = rand(N, 2, M, *size)
    maps = logits.mean(dim=1)
    assert_equal_with_gradients(fused.halved, lambda x: F.adaptive_avg_pool2d(x, half), [maps])
    expected = F.adaptive_avg_pool2d(maps, half).softmax(dim=1)
    torch.testing.assert_close(token_assignment(logits, stride=2), expected)
    torch.testing.assert_close(token_assignment(logits, stride=1), maps.softmax(dim=1))
