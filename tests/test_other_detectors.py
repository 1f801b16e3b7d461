"""The backbone serves mmdet's own configs (two stages, anchor-free, real-time) and the docs'."""

import re
from pathlib import Path

import mmdet
import pytest
import torch
from detector_step import check_prediction, check_training_step
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.optim import OptimWrapper

import mmdet_mobileformer  # noqa: F401 (registers the backbone)

CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'
NUM_CLASSES = 80
FEW = dict(nms_pre=50, max_per_img=20)  # proposals: tiny images need no more
# The stages that each detector takes, of strides 4 to 32, and what makes it quicker.
DETECTORS = {
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py': (
        (1, 2, 3, 4),
        {
            'roi_head.bbox_head.fc_out_channels': 64,
            'train_cfg.rpn_proposal': FEW,
            'train_cfg.rcnn.sampler.num': 32,
            'test_cfg.rpn': FEW,
        },
    ),
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py': ((2, 3, 4), {}),
    'rtmdet/rtmdet_tiny_8xb32-300e_coco.py': ((2, 3, 4), {}),
}


@pytest.mark.parametrize('config', DETECTORS)
def test_detector_trains_and_predicts(config):
    register_all_modules()
    torch.manual_seed(0)
    out_indices, settings = DETECTORS[config]
    cfg = Config.fromfile(CONFIGS / config)
    cfg.merge_from_dict({f'model.{name}': value for name, value in settings.items()})
    model = cfg.model
    model.backbone = dict(type='MobileFormer', arch='26m', out_indices=out_indices)
    model.neck.in_channels = [12, 24, 64, 96][-len(out_indices) :]
    if 'start_level' in model.neck:
        model.neck.start_level = 0
    check_detector(model)


def check_detector(model):
    detector = MODELS.build(model)
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-3)
    check_training_step(detector, OptimWrapper(optimizer), NUM_CLASSES, size=(128, 96))
    check_prediction(detector, NUM_CLASSES, size=(128, 96))


def configs_of(page):
    """The whole configs on a page of the documentation."""
    text = (Path(__file__).parents[1] / page).read_text()
    blocks = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
    return [block for block in blocks if '_base_ = ' in block]


PAGES = [(p, i) for p in ('README.md', 'docs/extending.md') for i in range(len(configs_of(p)))]


@pytest.mark.parametrize(('page', 'index'), PAGES)
def test_configs_of_the_documentation_work(page, index, tmp_path):
    register_all_modules()
    torch.manual_seed(0)
    (tmp_path / 'mine.py').write_text(configs_of(page)[index])
    cfg = Config.fromfile(tmp_path / 'mine.py')
    if cfg.model.backbone.type == 'MobileFormer':
        cfg.model.backbone.init_cfg = None
        check_detector(cfg.model)
    else:  # about our runtime alone
        assert cfg.default_hooks.checkpoint.type == 'DurableCheckpointHook'
        assert cfg.train_cfg.type == 'ResumableTrainLoop'
