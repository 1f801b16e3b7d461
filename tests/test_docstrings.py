"""The examples in the docstrings run and print what they say."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'mmdet_mobileformer'
WITH_EXAMPLES = sorted(
    '.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts)
    for path in PACKAGE.rglob('*.py')
    if '.mim' not in path.parts and '>>> ' in path.read_text()
)


@pytest.mark.parametrize('module', WITH_EXAMPLES)
def test_examples(module):
    results = doctest.testmod(import_module(module))
    assert results.attempted and not results.failed
