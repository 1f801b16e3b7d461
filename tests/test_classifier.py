"""The ImageNet classifier: sizes, gradients, shapes."""

import pytest
import torch

from mmdet_mobileformer.models import ARCHS, MobileFormerClassifier

# Millions of parameters with the head, as the paper reports them.
PAPER_PARAMETERS = {
    '26m': 3.2,
    '52m': 3.5,
    '96m': 4.6,
    '151m': 7.6,
    '214m': 9.4,
    '294m': 11.4,
    '508m': 14.0,
}
TINY = dict(
    stem_channels=4,
    num_tokens=2,
    token_dim=8,
    groups=2,
    classifier_channels=10,
    classifier_dropout=0.5,
    blocks=[
        dict(kind='lite', mid_channels=8, out_channels=4),
        dict(kind='downsampling', mid_channels=8, out_channels=8, second_mid_channels=16),
        dict(kind='bottleneck', mid_channels=16, out_channels=8),
    ],
)


@pytest.mark.parametrize('variant', ARCHS)
def test_parameters_are_the_papers(variant):
    with torch.device('meta'):
        classifier = MobileFormerClassifier(variant)
    parameters = sum(p.numel() for p in classifier.parameters()) / 1e6
    assert abs(parameters - PAPER_PARAMETERS[variant]) < 0.06


@pytest.mark.parametrize('dynamic_relu', ['token', 'spatial'])
def test_every_parameter_gets_a_gradient(dynamic_relu):
    torch.manual_seed(0)
    classifier = MobileFormerClassifier(TINY, num_classes=5, dynamic_relu=dynamic_relu)
    # The released initialisation is so small that a tiny network's gradients could vanish.
    for parameter in classifier.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    logits = classifier(torch.randn(6, 3, 33, 47))
    assert logits.shape == (6, 5)
    torch.nn.functional.cross_entropy(logits, torch.arange(6) % 5).backward()
    without = [name for name, p in classifier.named_parameters() if p.grad is None]
    assert not without


def test_images_of_a_batch_do_not_mix():
    classifier = MobileFormerClassifier(TINY, num_classes=5).eval()
    images = torch.randn(3, 3, 40, 32)
    with torch.no_grad():
        together = classifier(images)
        alone = torch.cat([classifier(images[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_initialisation_is_the_released_one():
    classifier = MobileFormerClassifier('26m', num_classes=7)
    classifier.init_weights()
    head = classifier.head
    assert abs(head.hidden.weight.std() - 0.01) < 0.001
    assert not head.hidden.bias.any() and not head.fc.bias.any()
    conv = head.conv.conv
    assert abs(conv.weight.std() / (2 / conv.out_channels) ** 0.5 - 1) < 0.05


def test_dropout_is_the_archs():
    for variant, arch in ARCHS.items():
        with torch.device('meta'):
            head = MobileFormerClassifier(variant).head
        assert head.dropout.p == arch.classifier_dropout
        assert head.fc.in_features == arch.classifier_channels


def test_unknown_arch_is_refused():
    with pytest.raises(ValueError, match='choose from'):
        MobileFormerClassifier('300m')
