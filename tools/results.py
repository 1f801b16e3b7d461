"""Measure what docs/results.md shows: ``python tools/results.py run --data-root DIR``."""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from _command import run

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'results.md'
FIGURES = ROOT / 'docs' / 'results.json'
CURVES = ROOT / 'docs' / 'images' / 'results.png'
# Loading in the trainer's own process: its time counts, and there is one core.
SETTINGS = [
    'default_hooks.processor_time.type=ProcessorTimeHook',
    *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val')),
    *(f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val')),
]


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: What the table calls it, and its folder.
        config: The config under ``configs/``.
        data: 'bccd', 'bccd_wbc160' (made from it) or 'shapes'; one table each.
        seeds: Number of trainings.
        words: Further words for tools/train.py.
        options: Settings that replace those of the config, as key=value.
    """

    name: str
    config: str
    data: str = 'bccd'
    seeds: int = 1
    words: str = ''
    options: tuple[str, ...] = ()

    def folder(self, root: Path, seed: int) -> Path:
        """Work directory of one training."""
        name = re.sub(r'\W+', '_', self.name.lower())
        return root / self.data / name / str(seed)


DEMO = '--pretrained {work_dir}/shapes/retinanet_26m_320x240/0/epoch_9.pth'
SMALL = 'e2e_mf26m_small.py'
SHAPES = 'e2e_mf26m_shapes.py'
WHOLE_SHAPES = 'e2e_mf26m_shapes_320x240.py'
TOKEN = ('model.backbone.dynamic_relu=token', 'model.decoder.dynamic_relu=token')
FIXED = ('model.decoder.adapt_position=False',)
PLAIN = ('model.denoising=None',)
EIGHT = ('model.decoder.num_heads=8',)  # heads, as the decoder has by default
NARROW = ('model.decoder.scales.1.mid_channels=128',)
LEARNED = ('model.decoder.scales.1.proposal_maps=0', *PLAIN)
# The epochs of the small configs make ten minutes of one core, 14 without denoising; the very small
# set has twenty.
ROWS = (
    Row('End-to-end 26m', SMALL, seeds=3),
    Row('End-to-end 26m, 128 channels at 1/8', SMALL, seeds=3, options=NARROW),
    Row('End-to-end 26m, 8 heads', SMALL, seeds=3, options=EIGHT),
    Row('8 heads, 13 epochs', SMALL, seeds=3, words='--epochs 13', options=EIGHT),
    Row('End-to-end 52m', 'e2e_mf52m_small.py', seeds=3),
    Row('RetinaNet 52m', 'retinanet_mf52m_small.py', seeds=3),
    Row('RetinaNet 26m', 'comparison/retinanet_mf26m.py', seeds=3),
    Row('RetinaNet MobileNetV2', 'comparison/retinanet_mobilenetv2.py'),
    Row('FCOS MobileNetV2', 'comparison/fcos_mobilenetv2.py'),
    Row('RTMDet-tiny', 'comparison/rtmdet_tiny.py'),
    Row('YOLOX-tiny', 'comparison/yolox_tiny.py'),
    Row('DINO ResNet-18', 'comparison/dino_r18.py'),
    Row('No denoising', SMALL, seeds=3, words='--epochs 14', options=PLAIN),
    Row('8 heads, no denoising', SMALL, seeds=3, words='--epochs 14', options=EIGHT + PLAIN),
    Row('End-to-end 26m', SMALL, 'bccd_wbc160', 3, '--epochs 20'),
    Row('RetinaNet 52m', 'retinanet_mf52m_small.py', 'bccd_wbc160', 3, '--epochs 20'),
    Row('End-to-end 26m, 8 heads', SMALL, 'bccd_wbc160', 3, '--epochs 20', EIGHT),
    Row('8 heads, no denoising', SMALL, 'bccd_wbc160', 3, '--epochs 20', EIGHT + PLAIN),
    # What follows starts from the backbone of this row's first training.
    Row('RetinaNet 26m 320x240', 'retinanet_mf26m_shapes.py', 'shapes', 3),
    Row('End-to-end 26m 320x240', WHOLE_SHAPES, 'shapes', 3, DEMO),
    Row('No denoising 320x240', WHOLE_SHAPES, 'shapes', 3, f'--epochs 12 {DEMO}', PLAIN),
    Row(
        '8 heads, no denoising, from shapes', SMALL, 'bccd', 3, f'--epochs 14 {DEMO}', EIGHT + PLAIN
    ),
    Row('End-to-end 26m, 10 epochs', SHAPES, 'shapes', 3, f'--epochs 10 {DEMO}'),
    Row('End-to-end 26m, 28 epochs', SHAPES, 'shapes', 3, f'--epochs 28 {DEMO}'),
    Row('End-to-end 26m, 60 epochs', SHAPES, 'shapes', 3, f'--epochs 60 {DEMO}'),
    Row('No denoising, 10 epochs', SHAPES, 'shapes', 3, f'--epochs 10 {DEMO}', PLAIN),
    Row('No denoising, 28 epochs', SHAPES, 'shapes', 3, f'--epochs 28 {DEMO}', PLAIN),
    Row('No denoising, 60 epochs', SHAPES, 'shapes', 3, f'--epochs 60 {DEMO}', PLAIN),
    Row('Learned boxes, 28 epochs', SHAPES, 'shapes', 3, f'--epochs 28 {DEMO}', LEARNED),
    Row('Learned boxes, 60 epochs', SHAPES, 'shapes', 3, f'--epochs 60 {DEMO}', LEARNED),
    Row('Token dynamic ReLU, 10 epochs', SHAPES, 'shapes', 3, f'--epochs 10 {DEMO}', TOKEN),
    Row('Fixed position, 10 epochs', SHAPES, 'shapes', 3, f'--epochs 10 {DEMO}', FIXED),
    Row("Paper's form, 280 epochs", 'ablation/e2e_mf26m_shapes_paper.py', 'shapes', 1, DEMO),
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Measure the tables of docs/results.md')
    commands = parser.add_subparsers(dest='command', required=True)
    measure = commands.add_parser(
        'run',
        help='train every row that has no result yet, then write the tables: about ten minutes '
        'of one core a training, hours in all; run again, it goes on where it stopped',
    )
    measure.add_argument(
        '--data-root', required=True, help="folder of BCCD in COCO's or Roboflow's layout"
    )
    measure.add_argument(
        '--rows', default='', help='only the rows whose data/name contains this, as bccd/YOLOX'
    )
    measure.add_argument('--seeds', type=int, default=9, help='at most so many trainings a row')
    tables = commands.add_parser('tables', help='write the tables from the results that are there')
    for command in (measure, tables):
        command.add_argument('--work-dir', default='work_dirs/results', help='default %(default)s')
    subset = commands.add_parser(
        'subset', help='write the annotations of some images and the class of the largest objects'
    )
    subset.add_argument('data_root', help="folder in COCO's or Roboflow's layout")
    subset.add_argument('out', help='folder of the subset; its images are links')
    subset.add_argument('--images', type=int, default=160, help='training images, first by id')
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Do what the command says."""
    if args.command == 'subset':
        write_subset(Path(args.data_root), Path(args.out), args.images)
    else:
        work_dir = Path(args.work_dir)
        if args.command == 'run':
            measure_rows(work_dir, Path(args.data_root), args.rows, args.seeds)
        write_tables(work_dir)


def write_subset(data_root: Path, out: Path, num_images: int) -> None:
    """Write the first training images by id, all for validation, and the class of largest objects.

    Image folders are links.

    Raises:
        UserError: If the annotation files are not there.
    """
    from mmdet_mobileformer.errors import UserError
    from mmdet_mobileformer.launch.data_layouts import (
        coco_layout,
        find_annotations,
        how_to_convert,
    )

    found = {split: find_annotations(str(data_root), split) for split in ('train', 'val')}
    if not all(found.values()):
        raise UserError(
            how_to_convert(str(data_root))
            or f"{data_root} has no annotation files in COCO's or Roboflow's layout; name another "
            'folder.'
        )
    (out / 'annotations').mkdir(parents=True, exist_ok=True)
    largest = None
    for split, (source, pictures) in found.items():
        data = json.loads((data_root / source).read_text())
        if largest is None:
            areas = {category['id']: [0] for category in data['categories']}
            for box in data['annotations']:
                areas[box['category_id']].append(box['area'])
            largest = max(areas, key=lambda category: statistics.mean(areas[category]))
        images = sorted(data['images'], key=lambda image: image['id'])
        data['images'] = images[:num_images] if split == 'train' else images
        kept = {image['id'] for image in data['images']}
        data['categories'] = [c for c in data['categories'] if c['id'] == largest]
        data['annotations'] = [
            box for box in data['annotations']
            if box['image_id'] in kept and box['category_id'] == largest
        ]  # fmt: skip
        file, folder = coco_layout(split)
        (out / file).write_text(json.dumps(data))
        if not (out / folder).exists():
            (out / folder).symlink_to((data_root / pictures).resolve(), target_is_directory=True)
        name, boxes = data['categories'][0]['name'], len(data['annotations'])
        print(f'{split}: {len(data["images"])} images, {boxes} of class {name}')


def measure_rows(work_dir: Path, data_root: Path, part: str, max_seeds: int) -> None:
    """Train every row's seeds that are not complete, one after the other, with one thread.

    Raises:
        UserError: If a training fails.
    """
    from mmdet_mobileformer.errors import UserError

    small, shapes = work_dir / 'data' / 'bccd_wbc160', Path('data/shapes')
    roots = {'bccd': data_root, 'bccd_wbc160': small, 'shapes': shapes}
    if not small.is_dir():
        write_subset(data_root, small, 160)
    chosen = [row for row in ROWS if part.lower() in f'{row.data}/{row.name}'.lower()]
    if not shapes.is_dir() and any(row.data == 'shapes' for row in chosen):
        subprocess.run([sys.executable, ROOT / 'tools' / 'make_shapes_dataset.py'], check=True)
    runs = [(row, seed) for row in chosen for seed in range(min(row.seeds, max_seeds))]
    for row, seed in runs:
        folder = row.folder(work_dir, seed)
        if points_of(folder):
            continue
        print(f'{row.name} on {row.data}, seed {seed}: see {folder}/output.txt', flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        words = [ROOT / 'tools' / 'train.py', ROOT / 'configs' / row.config, '--resume']
        words += ['--classes', 'auto', '--data-root', roots[row.data], '--work-dir', folder]
        words += row.words.format(work_dir=work_dir).split()
        words += ['--cfg-options', f'randomness.seed={seed}', *SETTINGS, *row.options]
        command = [sys.executable, *map(str, words)]
        environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
        with open(folder / 'output.txt', 'w', encoding='utf-8') as log:
            code = subprocess.run(command, stdout=log, stderr=log, env=environment).returncode
        write_tables(work_dir)
        if code:
            raise UserError(f'that training ended with code {code}; fix what its output says.')


def points_of(folder: Path) -> list[dict]:
    """What ProcessorTimeHook wrote in a run that is complete, else nothing."""
    path = folder / 'processor_time.json'
    result = json.loads(path.read_text()) if path.is_file() else {}
    return result['points'] if result.get('complete') else []


def write_tables(work_dir: Path) -> None:
    """Bring docs/results.json up to date with the work directories, then the page and curves."""
    figures = json.loads(FIGURES.read_text()) if FIGURES.is_file() else {}
    for row in ROWS:
        for seed in range(row.seeds):
            if points := points_of(row.folder(work_dir, seed)):
                figures.setdefault(row.data, {}).setdefault(row.name, {})[str(seed)] = points
    for data, runs in figures.items():
        names = [row.name for row in ROWS if row.data == data and row.name in runs]
        figures[data] = {name: runs[name] for name in names}
    FIGURES.write_text(json.dumps(figures, indent=1) + '\n')
    text = PAGE.read_text()
    for data, rows in figures.items():
        start, end = f'<!-- {data} -->\n', f'<!-- end of {data} -->'
        before, _, rest = text.partition(start)
        text = before + start + _table(rows) + end + rest.partition(end)[2]
    PAGE.write_text(text)
    if figures:
        draw_curves(figures)


def _table(rows: dict[str, dict[str, list[dict]]]) -> str:
    lines = ['| detector | epochs | minutes | AP | AP50 | AP75 |', '| --- ' * 6 + '|']
    for name, runs in rows.items():
        last = [points[-1] for points in runs.values()]
        mean = {key: statistics.mean(point[key] for point in last) for key in last[0]}
        aps = [point['AP'] for point in last]
        note = f'{min(aps):.3f} to {max(aps):.3f}, {len(aps)} seeds' if aps[1:] else 'one run'
        lines.append(
            f'| {name} | {mean["epoch"]:.0f} | {mean["minutes"]:.1f} | {mean["AP"]:.3f} ({note}) '
            f'| {mean["AP_50"]:.3f} | {mean["AP_75"]:.3f} |'
        )
    return '\n'.join(lines) + '\n'


def draw_curves(figures: dict[str, dict]) -> None:
    """Draw AP over minutes of processor time, a panel a data set, the seeds of a row averaged."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(figures), 4.2), layout='constrained')
    panels = figure.subplots(1, len(figures), squeeze=False)[0]
    for axes, (data, rows) in zip(panels, figures.items(), strict=True):
        for name, runs in rows.items():
            epochs = list(zip(*runs.values(), strict=True))
            minutes, aps = (
                [statistics.mean(point[key] for point in points) for points in epochs]
                for key in ('minutes', 'AP')
            )
            axes.plot(minutes, aps, marker='o', markersize=3, label=name)
        axes.set(title=data, xlabel='minutes of one core', ylabel='AP (validation)', ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(fontsize='small')
    figure.savefig(CURVES, dpi=90)


if __name__ == '__main__':
    run(parse_args, main)
