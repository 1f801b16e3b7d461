"""What the benchmark found, and where: the machine, and the table."""

import platform
import re
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

COLUMNS = (
    ('model', 'model', '{}'),
    ('runtime', 'runtime', '{}'),
    ('median_ms', 'ms', '{:.1f}'),
    ('spread_ms', '± ms', '{:.1f}'),
    ('images_per_s', 'images/s', '{:.2f}'),
    ('ratio', 'times as fast', '{:.2f}'),
    ('sgemm_share', 'of sgemm', '{:.0%}'),
    ('peak_bytes', 'peak MB', '{:.0f}'),
    ('saved_bytes', 'saved MB', '{:.0f}'),
)


def machine(device: str, sgemm_rate: float) -> dict[str, Any]:
    """The device, versions and the measured rate of matrix products, in GMAC/s."""
    cpuinfo = Path('/proc/cpuinfo')
    name = re.search(r'model name\s*: (.*)', cpuinfo.read_text()) if cpuinfo.exists() else None
    versions = {'python': platform.python_version()}
    for package in ('torch', 'onnxruntime', 'mmdet', 'mmcv', 'mmengine'):
        with suppress(ImportError):
            versions[package] = import_module(package).__version__
    cpu = name[1] if name else platform.machine()
    return dict(
        device=torch.cuda.get_device_name() if device == 'cuda' else cpu,
        versions=versions,
        sgemm_gmacs=sgemm_rate / 1e9,
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown table; 'times as fast' compares with the first model."""
    columns = [
        column
        for column in COLUMNS
        if column[0] not in ('saved_bytes', 'sgemm_share') or any(row[column[0]] for row in rows)
    ]
    lines = []
    for row in rows:
        megabytes = {key: row[key] / 2**20 for key in ('peak_bytes', 'saved_bytes')}
        lines.append([form.format((row | megabytes)[key]) for key, _, form in columns])
    return markdown([title for _, title, _ in columns], lines)


def markdown(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [titles, ['---'] * len(titles), *lines]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)
