"""What tools/test.py does, and its flags that rewrite a config: pictures, augmentation."""

import argparse
import os
from copy import deepcopy

from mmdet.evaluation import DumpDetResults
from mmengine.config import Config

from mmdet_mobileformer.checkpoints.compare import classes_of
from mmdet_mobileformer.checkpoints.reading import load_checkpoint_as_data
from mmdet_mobileformer.config_tree import data_sources
from mmdet_mobileformer.data_check.check import run_data_check
from mmdet_mobileformer.engine.acceleration import AccelerationHook
from mmdet_mobileformer.engine.distributed import init_distributed, leave_group, on_main_process
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.config import load_run_config
from mmdet_mobileformer.launch.data_flags import annotated_classes, set_classes
from mmdet_mobileformer.launch.hardening import harden_loading
from mmdet_mobileformer.launch.runner import build_runner
from mmdet_mobileformer.launch.work_dir import find_run

_META_KEYS = (
    *('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),  # those of PackDetInputs
    *('flip', 'flip_direction'),  # by which DetTTAModel turns boxes back
)


def test(args: argparse.Namespace) -> None:
    """Evaluate as the command line of tools/test.py says.

    Raises:
        UserError: If anything on the command line, in the config or in the data cannot work.
    """
    if args.work_dir is None and os.path.isdir(args.config):
        args.work_dir = args.config
    args.config, args.checkpoint = find_run([args.config, args.checkpoint])
    cfg = load_run_config(args)
    if args.classes:
        # The file knows what its head was sized for; the data may hold more.
        set_classes(cfg, _classes_of(args.checkpoint) or annotated_classes(cfg))
    if args.checkpoint.endswith('.onnx'):
        from mmdet_mobileformer.export import use_onnx_file  # needs ONNX Runtime

        if args.fuse or args.compile or args.tta:
            raise UserError(
                f'--fuse, --compile and --tta need a checkpoint, not {args.checkpoint}.'
            )
        use_onnx_file(cfg, args.checkpoint)
    else:
        cfg.load_from = args.checkpoint
    if args.show or args.show_dir:
        _draw(cfg, args)
    if args.tta:
        _augment(cfg)
    # Training's list of images stays.
    harden_loading(cfg, ('test',), args.skip_bad_images, 'bad_images_of_test.txt')
    init_distributed(cfg, args.launcher)
    on_main_process(run_data_check, cfg, ('test',))
    runner = build_runner(cfg)
    if args.fuse or args.compile:
        runner.register_hook(AccelerationHook(args.compile, args.fuse))
    if args.out:
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    runner.test()
    leave_group()


def _classes_of(path: str) -> tuple[str, ...]:
    if path.endswith('.onnx'):
        from mmdet_mobileformer.export import onnx_classes  # needs ONNX Runtime

        return onnx_classes(path)
    return classes_of(load_checkpoint_as_data(path)) if os.path.isfile(path) else ()


def _draw(cfg: Config, args: argparse.Namespace) -> None:
    """Let mmdet's visualisation hook draw every prediction beside its ground truth."""
    hooks = cfg.setdefault('default_hooks', {})
    hook = hooks.setdefault('visualization', dict(type='DetVisualizationHook'))
    hook.update(draw=True, show=args.show, wait_time=args.wait_time)
    if args.show_dir:
        hook['test_out_dir'] = args.show_dir


def _augment(cfg: Config) -> None:
    """Merge the predictions for each image and its mirror image, in place.

    ``tta_model`` and ``tta_pipeline`` of the config are used where there are any; else boxes are
    merged by NMS at IoU 0.5 and the test pipeline is run with and without a horizontal flip.
    """
    tta_model = cfg.get('tta_model') or dict(
        type='DetTTAModel',
        tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
    )
    cfg.model = dict(deepcopy(tta_model), module=cfg.model)
    for source in data_sources(cfg, 'test'):
        if source.config.get('pipeline'):
            pipeline = cfg.get('tta_pipeline') or _flipped(source.config['pipeline'])
            source.config['pipeline'] = pipeline


def _flipped(pipeline: list[dict]) -> list[dict]:
    """The pipeline with its last step, the packing, replaced by one for each mirror image."""
    flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
    pack = dict(type='PackDetInputs', meta_keys=_META_KEYS)
    return [*pipeline[:-1], dict(type='TestTimeAug', transforms=[flips, [pack]])]
