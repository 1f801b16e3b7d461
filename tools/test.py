"""Evaluate a detector: ``python tools/test.py WORK_DIR`` or ``... CONFIG CHECKPOINT``."""

import argparse
import os

from mmdet.evaluation import DumpDetResults

from mmdet_mobileformer.checkpoints.reading import check_checkpoint, checkpoint_classes
from mmdet_mobileformer.data_check.check import run_data_check
from mmdet_mobileformer.engine.acceleration import AccelerationHook
from mmdet_mobileformer.engine.distributed import init_distributed, leave_group, on_main_process
from mmdet_mobileformer.errors import UserError, run_tool
from mmdet_mobileformer.launch import data_flags
from mmdet_mobileformer.launch.arguments import add_common_arguments, build_runner, load_run_config
from mmdet_mobileformer.launch.hardening import harden_loading
from mmdet_mobileformer.launch.test_flags import set_test_time_augmentation, set_visualization
from mmdet_mobileformer.launch.work_dir import find_run


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Evaluate a detector')
    parser.add_argument('config', help='work directory of a training, or config file')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='checkpoint file, or FILE.onnx that tools/export_onnx.py wrote; default: the best '
        'checkpoint of the work directory, else its newest',
    )
    add_common_arguments(parser)
    parser.add_argument('--out', metavar='FILE.pkl', help='write all predictions to this file')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument(
        '--show-dir',
        help='write pictures of predictions beside ground truth to this folder, inside '
        '<work-dir>/<time> unless absolute',
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that --show waits at each picture'
    )
    parser.add_argument(
        '--skip-bad-images',
        action='store_true',
        help='find nothing in images that cannot be read and list them, instead of stopping',
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument(
        '--fuse', action='store_true', help='fold the norms into the convolutions, which is faster'
    )
    parser.add_argument(
        '--compile', action='store_true', help='compile the detector, which takes a minute or more'
    )
    return parser.parse_intermixed_args()  # options may stand between config and checkpoint


def main() -> None:
    """Evaluate as the command line says."""
    args = parse_args()
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out {args.out} must end in .pkl or .pickle.')
    if args.work_dir is None and os.path.isdir(args.config):
        args.work_dir = args.config
    args.config, args.checkpoint = find_run([args.config, args.checkpoint])
    cfg = load_run_config(args)
    check_checkpoint(args.checkpoint)
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
    harden_loading(cfg, args.skip_bad_images, 'bad_images_of_test.txt')  # training's list stays
    init_distributed(cfg, args.launcher)
    on_main_process(run_data_check, cfg, ('test',))
    runner = build_runner(cfg)
    if args.fuse or args.compile:
        runner.register_hook(AccelerationHook(args.compile, args.fuse))
    if args.out:
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    runner.test()
    leave_group()


def _classes_of(path: str) -> tuple[str, ...] | None:
    if not path.endswith('.onnx'):
        return checkpoint_classes(path)
    from mmdet_mobileformer.export import onnx_classes  # needs ONNX Runtime

    return onnx_classes(path)


if __name__ == '__main__':
    run_tool(main)
