"""What a run leaves behind serves mmdet's own API, and our configs mmdet's own tools."""

import runpy
import sys
from pathlib import Path

import mmcv
import mmdet
import pytest
import torch
from coco_folder import CLASSES, write_coco_folder
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmengine.config import Config
from run_tool import run_tool
from tiny_detector import plain_text

from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.hardening import harden_loading, harden_training

CONFIGS = Path(__file__).parents[1] / 'configs'
QUICK = {
    'train_cfg.max_epochs': 1,
    'train_cfg.val_interval': 1,
    'default_hooks.checkpoint.interval': 1,
    'model.test_cfg.score_thr': 0.0,
    'randomness.seed': 0,
    'log_level': 'ERROR',
}
for split in ('train', 'val', 'test'):
    QUICK[f'{split}_dataloader.num_workers'] = 0
    QUICK[f'{split}_dataloader.persistent_workers'] = False


@pytest.fixture(scope='module', params=['retinanet_mf52m_small', 'e2e_mf26m_shapes'])
def run(request, tmp_path_factory):
    """Config and work directory of a run on a folder with a broken image, and the folder."""
    root = tmp_path_factory.mktemp(request.param)
    data = write_coco_folder(root / 'coco', num_train=2, num_val=2)
    (data / 'train2017' / '10.png').write_bytes(b'')
    config = CONFIGS / f'{request.param}.py'
    args = ['--data-root', data, '--classes', 'auto', '--skip-bad-images', '--from-scratch']
    args += ['--work-dir', root / 'work', '--cfg-options', *(f'{k}={v}' for k, v in QUICK.items())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, 'pretty_text', property(plain_text))
        assert run_tool('train', config, *args) == 0
    return config, root / 'work', data


def test_mmdets_api_takes_the_saved_config(run, tmp_path):
    config, work_dir, data = run
    saved, checkpoint = str(work_dir / config.name), str(work_dir / 'epoch_1.pth')
    folder = data / 'val2017'
    paths = sorted(map(str, folder.iterdir()))
    model = init_detector(saved, checkpoint, device='cpu')
    assert model.dataset_meta['classes'] == CLASSES and len(model.dataset_meta['palette']) == 3
    one, first, _ = inference_detector(model, paths[0]), *inference_detector(model, paths)
    # Last: mmdet leaves the model's config as one for arrays.
    array = inference_detector(model, mmcv.imread(paths[0]))
    for found in (first, array):
        assert torch.equal(found.pred_instances.bboxes, one.pred_instances.bboxes)
    assert one.pred_instances.labels.max() < len(CLASSES)
    inferencer = DetInferencer(saved, checkpoint, device='cpu', show_progress=False)
    for inputs, count in ((paths[0], 1), (mmcv.imread(paths[0]), 1), (str(folder), 2)):
        out = tmp_path / str(type(inputs)) / str(count)
        found = inferencer(inputs, batch_size=2, out_dir=str(out), pred_score_thr=0.0)
        assert len(found['predictions']) == count and len(list((out / 'vis').iterdir())) == count


def test_evaluation_leaves_the_saved_config(run, monkeypatch):
    config, work_dir, _ = run
    monkeypatch.setattr(Config, 'pretty_text', property(plain_text))
    saved = work_dir / config.name
    before = saved.read_text()
    assert run_tool('test', saved, work_dir / 'epoch_1.pth', '--tta', '--skip-bad-images') == 0
    assert saved.read_text() == before


def test_checkpoint_of_other_classes_is_refused_by_mmdets_api_too(run):
    config, work_dir, _ = run
    with pytest.raises(UserError, match='take the config that the training saved'):
        init_detector(str(config), str(work_dir / 'epoch_1.pth'), device='cpu')


SHIPPED = sorted([*CONFIGS.glob('*.py'), *CONFIGS.glob('[ac]*/[!_]*.py')])


@pytest.mark.parametrize('path', SHIPPED, ids=lambda path: path.stem)
def test_configs_name_what_runs(path):
    cfg = Config.fromfile(path)
    cfg.work_dir = 'work'
    before = cfg.to_dict()
    assert harden_training(cfg) + harden_loading(cfg) == []
    assert cfg.to_dict() == before


def test_mmdets_own_tool_trains_our_configs_as_ours_does(tmp_path, monkeypatch):
    data = write_coco_folder(tmp_path / 'coco', num_train=2, num_val=1)
    cfg = Config.fromfile(CONFIGS / 'retinanet_mf52m_small.py')
    cfg.merge_from_dict(QUICK)
    cfg.model.bbox_head.num_classes = len(CLASSES)
    for kind in ('train', 'val'):
        dataset = cfg[f'{kind}_dataloader'].dataset
        dataset.update(data_root=str(data), metainfo=dict(classes=CLASSES))
    cfg.val_evaluator.ann_file = str(data / 'annotations' / 'instances_val2017.json')
    cfg.dump(tmp_path / 'own.py')
    argv = ['train.py', str(tmp_path / 'own.py'), '--work-dir', str(tmp_path / 'work')]
    monkeypatch.setattr(sys, 'argv', argv)
    tool = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'
    runpy.run_path(str(tool), run_name='__main__')
    checkpoint = torch.load(tmp_path / 'work' / 'epoch_1.pth', weights_only=False)
    assert checkpoint['resume_state']['iters_per_epoch'] == 1
