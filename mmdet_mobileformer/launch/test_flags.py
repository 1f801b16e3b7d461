"""Flags of tools/test.py that rewrite a config: pictures and test-time augmentation."""

from copy import deepcopy

from mmengine.config import Config

from mmdet_mobileformer.config_tree import data_sources
from mmdet_mobileformer.errors import UserError

_META_KEYS = (
    *('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),  # those of PackDetInputs
    *('flip', 'flip_direction'),  # by which DetTTAModel turns boxes back
)


def set_visualization(cfg: Config, show: bool, show_dir: str | None, wait_time: float) -> None:
    """Let mmdet's visualisation hook draw every prediction beside its ground truth.

    Args:
        cfg: The config, changed in place.
        show: Whether to show the pictures in a window.
        show_dir: Folder for the pictures, relative to the run's log folder; None writes none.
        wait_time: Seconds at each shown picture.

    Raises:
        UserError: If the config has no visualisation hook.
    """
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise UserError(
            f'--show and --show-dir need default_hooks.visualization in {cfg.filename}; '
            "set it to dict(type='DetVisualizationHook')."
        )
    hook.update(draw=True, show=show, wait_time=wait_time)
    if show_dir:
        hook['test_out_dir'] = show_dir


def set_test_time_augmentation(cfg: Config) -> None:
    """Merge the predictions for each image and its mirror image, in place.

    ``tta_model`` and ``tta_pipeline`` of the config are used where there are any; else boxes are
    merged by NMS at IoU 0.5 and the test pipeline is run with and without a horizontal flip.

    Raises:
        UserError: If there is no pipeline to augment.
    """
    datasets = [s.config for s in data_sources(cfg, 'test') if s.config.get('pipeline')]
    if not datasets:
        raise UserError(f'--tta needs a pipeline in the test data set of {cfg.filename}.')
    tta_model = cfg.get('tta_model') or dict(
        type='DetTTAModel',
        tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
    )
    cfg.model = dict(deepcopy(tta_model), module=cfg.model)
    for dataset in datasets:
        dataset['pipeline'] = cfg.get('tta_pipeline') or _flipped(dataset['pipeline'])


def _flipped(pipeline: list[dict]) -> list[dict]:
    """The pipeline with its last step, the packing, replaced by one for each mirror image."""
    flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
    pack = dict(type='PackDetInputs', meta_keys=_META_KEYS)
    return [*pipeline[:-1], dict(type='TestTimeAug', transforms=[flips, [pack]])]
