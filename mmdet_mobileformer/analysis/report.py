"""What the benchmark found: table, JSON and picture."""

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMNS = (
    ('model', 'model', '{}'),
    ('runtime', 'runtime', '{}'),
    ('size', 'size', '{}'),
    ('batch', 'batch', '{}'),
    ('threads', 'threads', '{}'),
    ('dtype', 'dtype', '{}'),
    ('median_ms', 'ms', '{:.1f}'),
    ('spread_ms', '± ms', '{:.1f}'),
    ('images_per_s', 'images/s', '{:.2f}'),
    ('ratio', 'times as fast', '{:.2f}'),
    ('sgemm_share', 'of sgemm', '{:.0%}'),
    ('peak_bytes', 'peak MB', '{:.0f}'),
    ('saved_bytes', 'saved MB', '{:.0f}'),
)


def machine(device: str, rates: dict[int, float]) -> dict[str, Any]:
    """Device, versions and measured rates of matrix products, in GMAC/s by number of threads."""
    name = torch.cuda.get_device_name() if device == 'cuda' else _cpu_name()
    versions = {'python': platform.python_version(), 'torch': torch.__version__}
    for package in ('onnxruntime', 'mmdet', 'mmcv', 'mmengine'):
        try:
            versions[package] = __import__(package).__version__
        except ImportError:
            versions[package] = None
    return dict(
        device=name,
        versions=versions,
        sgemm_gmacs={str(threads): rate / 1e9 for threads, rate in rates.items()},
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown table; 'times as fast' compares with the first model of the same setting."""
    columns = [
        column
        for column in COLUMNS
        if column[0] not in ('saved_bytes', 'sgemm_share') or any(row[column[0]] for row in rows)
    ]
    lines = []
    for row in rows:
        shown = {
            **row,
            'size': f'{row["height"]}×{row["width"]}',
            'peak_bytes': row['peak_bytes'] / 2**20,
            'saved_bytes': row['saved_bytes'] / 2**20,
        }
        lines.append([form.format(shown[key]) for key, _, form in columns])
    return markdown([title for _, title, _ in columns], lines)


def markdown(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [titles, ['---'] * len(titles), *lines]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def write_json(path: Path, about: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Write everything as JSON."""
    path.write_text(json.dumps(dict(machine=about, results=list(rows)), indent=1))


def draw(path: Path, about: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Draw the medians as bars, their quartiles' distance as whiskers."""
    names = [
        f'{row["model"]} {row["runtime"]} {row["height"]}×{row["width"]} ×{row["batch"]} '
        f'{row["threads"]}t {row["dtype"]}'
        for row in rows
    ]
    medians = [row['median_ms'] for row in rows]
    axes = draw_bars(about, names, medians, '{:.1f}', [row['spread_ms'] / 2 for row in rows])
    axes.set_xlabel('median of a batch (ms)')
    axes.figure.savefig(path)


def draw_bars(
    about: dict[str, Any],
    names: Sequence[str],
    values: Sequence[float],
    form: str,
    whiskers: Sequence[float] | None = None,
) -> Axes:
    """Named bars from top to bottom, each with its value; the device is the title."""
    figure = Figure(figsize=(8, 1 + 0.4 * len(names)), layout='constrained')
    axes = figure.subplots()
    places = range(len(names))[::-1]
    bars = axes.barh(places, values, xerr=whiskers, color='#4878a8')
    axes.bar_label(bars, [form.format(value) for value in values], padding=4)
    axes.set_yticks(places, names)
    axes.set_title(about['device'])
    return axes


def _cpu_name() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.machine()
