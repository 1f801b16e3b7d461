"""What --compile of the tools does, on the smallest of detectors."""

import pickle

import pytest
import torch
from coco_folder import write_coco_folder
from mmengine.config import Config
from run_tool import run_tool
from tiny_detector import BACKBONE, retinanet, run_config

from mmdet_mobileformer.engine import acceleration

PARTS = {'backbone', 'neck', 'bbox_head'}


def shortest():
    """A RetinaNet of one level behind two blocks: the compiler takes a second a block."""
    cfg = retinanet()
    blocks = [
        dict(kind='lite', mid_channels=8, out_channels=8, stride=2),
        dict(kind='downsampling', mid_channels=16, out_channels=16, second_mid_channels=16),
    ]
    cfg['backbone'].update(arch=dict(BACKBONE['arch'], blocks=blocks), out_indices=(2,))
    cfg['neck'].update(in_channels=[16], num_outs=1)
    cfg['bbox_head']['anchor_generator'].update(strides=[8], scales=[4])
    return cfg


@pytest.fixture
def compiled_by(monkeypatch):
    """Starts a tool that makes graphs but no machine code.

    The call returns for each detector that the tool has compiled whether it is to be trained, and
    the parts of it whose weights graphs have computed with.
    """
    compile_detector, detectors, used = acceleration.compile_detector, [], set()

    def backend(graph, _):
        def run(*inputs):
            used.update(id(value) for value in inputs if isinstance(value, torch.nn.Parameter))
            return graph(*inputs)

        return run

    def to_graphs(detector, training=False, **options):
        assert options['backend'] == 'inductor'
        detectors.append((detector, training))
        compile_detector(detector, training, **options | {'backend': backend})

    monkeypatch.setattr(acceleration, 'compile_detector', to_graphs)

    def start(*args):
        torch._dynamo.reset()
        detectors.clear()
        used.clear()
        assert run_tool(*args) == 0
        return [
            (training, {n.split('.')[0] for n, w in detector.named_parameters() if id(w) in used})
            for detector, training in detectors
        ]

    yield start
    torch._dynamo.reset()


@pytest.fixture
def config(tmp_path):
    """Of a run that trains for one step and tests with one batch."""
    data = write_coco_folder(tmp_path / 'coco', num_train=2, num_val=2)
    settings = run_config(data, tmp_path / 'work', 1, model=shortest())
    for part in ('dataloader', 'evaluator', 'cfg'):
        settings[f'test_{part}'] = settings.pop(f'val_{part}')
    settings['test_cfg'] = dict()
    settings['default_hooks']['checkpoint'].pop('save_best')
    Config(settings).dump(tmp_path / 'tiny.py')
    return tmp_path / 'tiny.py'


def test_training_and_testing_compiled(compiled_by, config, capsys):
    assert compiled_by('train', config, '--compile') == [(True, PARTS)]
    checkpoint = config.parent / 'work' / 'epoch_1.pth'
    tables, predictions = [], []
    for flags, parts in (([], []), (['--compile'], [(False, PARTS)])):
        capsys.readouterr()
        out = config.parent / 'found.pkl'
        assert compiled_by('test', config, checkpoint, '--out', out, *flags) == parts
        tables.append([line for line in capsys.readouterr().out.splitlines() if '@[' in line])
        predictions.append([item['pred_instances'] for item in pickle.loads(out.read_bytes())])
    assert tables[0] == tables[1] and len(tables[0]) == 12 and not tables[0][0].endswith('0.000')
    for without, others in zip(*predictions, strict=True):
        torch.testing.assert_close(others, without, rtol=1e-4, atol=1e-4)
