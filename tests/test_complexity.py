"""Counting agrees with a formula, sees all of attention, and leaves the model as it was."""

import pytest
import torch
from mmdet.models.detectors.base import BaseDetector
from torch import nn

from mmdet_mobileformer.analysis.complexity import count_cost


class AttentionDetector(BaseDetector):
    """A convolution as backbone, and both of torch's attentions as the rest."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 4, stride=4, bias=False)
        self.tokens = nn.Parameter(torch.zeros(5, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def _forward(self, inputs, data_samples=None):
        pixels = self.backbone(inputs).flatten(2).transpose(1, 2)
        tokens = self.tokens.expand(len(inputs), -1, -1)
        tokens = nn.functional.scaled_dot_product_attention(tokens, pixels, pixels)
        return self.attention(tokens, pixels, pixels, need_weights=False)[0]

    extract_feat = loss = predict = _forward


@pytest.mark.parametrize('device', ['cpu', 'meta'])
def test_macs_are_those_of_the_formula(device):
    detector = AttentionDetector().to(device).train()
    detector.backbone.weight.requires_grad_(False)
    costs = count_cost(detector, 32, 64)
    pixels, tokens, dim = 8 * 16, 5, 8
    attention = 2 * tokens * pixels * dim
    projections = 2 * (tokens + pixels) * dim * dim
    assert costs['backbone'].macs == pixels * 8 * 3 * 16
    assert costs['neck'].macs == costs['neck'].params == 0
    assert costs['head'].macs == 2 * attention + projections
    assert costs['total'].macs == costs['backbone'].macs + costs['head'].macs
    assert costs['total'].params == 3 * 8 * 16 + 5 * 8 + 4 * 8 * 8 + 4 * 8
    assert detector.training and detector.tokens.requires_grad
    assert not detector.backbone.weight.requires_grad
