"""What tools/test.py does."""

import argparse
import os

from mmdet.evaluation import DumpDetResults

from mmdet_mobileformer.checkpoints.compare import classes_of
from mmdet_mobileformer.checkpoints.reading import load_checkpoint_as_data
from mmdet_mobileformer.data_check.check import run_data_check
from mmdet_mobileformer.engine.acceleration import AccelerationHook
from mmdet_mobileformer.engine.distributed import init_distributed, leave_group, on_main_process
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch import data_flags
from mmdet_mobileformer.launch.arguments import load_run_config
from mmdet_mobileformer.launch.hardening import harden_loading
from mmdet_mobileformer.launch.runner import build_runner
from mmdet_mobileformer.launch.test_flags import set_test_time_augmentation, set_visualization
from mmdet_mobileformer.launch.work_dir import find_run, make_work_dir


def test(args: argparse.Namespace) -> None:
    """Evaluate as the command line says.

    Args:
        args: Of tools/test.py.

    Raises:
        UserError: If anything on the command line, in the config or in the data cannot work.
    """
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out {args.out} must end in .pkl or .pickle.')
    if args.work_dir is None and os.path.isdir(args.config):
        args.work_dir = args.config
    args.config, args.checkpoint = find_run([args.config, args.checkpoint])
    cfg = load_run_config(args)
    exported = args.checkpoint.endswith('.onnx')
    if exported and (args.fuse or args.compile or args.tta):
        raise UserError(f'--fuse, --compile and --tta need a checkpoint, not {args.checkpoint}.')
    if exported and args.launcher != 'none':
        raise UserError(
            f'{args.checkpoint} is evaluated by one process; leave --launcher (tools/dist_test.sh) '
            'out, or evaluate the checkpoint.'
        )
    if args.classes:
        # The file knows what its head was sized for; the data may hold more.
        classes = _classes_of(args.checkpoint)
        if classes:  # what the data check then names
            cfg.data_check = dict(cfg.get('data_check') or {}, classes_of=args.checkpoint)
        data_flags.set_classes(cfg, classes or data_flags.annotated_classes(cfg))
    if exported:
        from mmdet_mobileformer.export import use_onnx_file  # needs ONNX Runtime

        use_onnx_file(cfg, args.checkpoint)
    else:
        cfg.load_from = args.checkpoint
    if args.show or args.show_dir:
        set_visualization(cfg, args.show, args.show_dir, args.wait_time)
    if args.tta:
        set_test_time_augmentation(cfg)
    # Training's list of images stays.
    harden_loading(cfg, ('test',), args.skip_bad_images, 'bad_images_of_test.txt')
    init_distributed(cfg, args.launcher)
    on_main_process(make_work_dir, cfg.work_dir)
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
