"""Shipped configs, exported and compared with PyTorch by the command that does it for all."""

from pathlib import Path

from run_tool import run_tool

CONFIGS = Path(__file__).parents[1] / 'configs'


def test_a_retinanet_of_five_levels_and_an_anchored_detector_are_exported(capsys):
    """At small sizes, the last level (stride 128) more than a pixel high and just one."""
    configs = [CONFIGS / f'{name}.py' for name in ('retinanet_mf26m_coco', 'e2e_mf26m_small')]
    small = 'test_dataloader.dataset.pipeline.1.scale=(320,200)'
    assert run_tool('check_exports', *configs, '--cfg-options', small) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    sizes = ['200x320', '320x200', '100x160', '160x100', '250x400', '400x250']
    for config in configs:
        assert [row[1] for row in rows if row[0] == config.stem] == sizes
