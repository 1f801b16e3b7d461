"""The comparisons that docs/benchmarks.md opens with: models and their peers, measured in turns."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mmdet_mobileformer.analysis.measure import Case, measure
from mmdet_mobileformer.analysis.report import markdown

ONNX = dict(runtime='onnx')
STEP = dict(height=320, width=320, batch=2, training=True)
LARGE_STEP = dict(STEP, height=512, width=512)
# What it is, the model, its peer, and how both are measured.
COMPARISONS = (
    ('294m against the released form', 'mf-294m+fused', 'mf-294m+released', {}),
    ('the same, norms not folded', 'mf-294m', 'mf-294m+released', {}),
    ('294m against ResNet-50', 'mf-294m+fused', 'resnet50+fused', {}),
    ('the same in ONNX Runtime', 'mf-294m+fused', 'resnet50+fused', ONNX),
    ('E2E-508M against DETR-R50', 'e2e-mf-508m+fused', 'detr-r50+fused', {}),
    ('the same in ONNX Runtime', 'e2e-mf-508m+fused', 'detr-r50+fused', ONNX),
    ("anchored 508M against the paper's form", 'anchored-mf-508m+fused', 'e2e-mf-508m+fused', {}),
    ('training 294m, token, against the released form', 'mf-294m', 'mf-294m+released', STEP),
    (
        'training 294m, spatial, against the released form',
        'mf-294m+spatial',
        'mf-294m+released+spatial',
        STEP,
    ),
    ('training E2E-508M against DETR-R50', 'e2e-mf-508m', 'detr-r50', LARGE_STEP),
)


def compare(
    comparisons: Sequence[tuple[str, str, str, dict[str, Any]]],
    threads: int,
    rounds: int,
    sgemm_rate: float,
) -> list[dict[str, Any]]:
    """Measure every comparison; the models of one are released before the next.

    Returns:
        For each ``what`` it is, the figures of the model and of its ``peer``, and ``time`` (the
        median over the rounds of the model's time over its peer's).
    """
    rows = []
    for what, model, peer, conditions in comparisons:
        ours, theirs = (Case(name, threads, **conditions) for name in (model, peer))
        measure([ours, theirs], rounds)
        row, peer_row = (case.summary(sgemm_rate, theirs) for case in (ours, theirs))
        rows.append(dict(row, what=what, peer=peer_row, time=1 / row['ratio']))
        gc.collect()
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown table; memory and kept activations are shares of the peer's."""
    lines = []
    for row in rows:
        peer = row['peer']
        shares = [
            f'{row[key] / peer[key]:.2f}' if peer[key] else '-'
            for key in ('saved_bytes', 'peak_bytes')
        ]
        lines.append(
            [
                row['what'],
                f'{row["median_ms"]:.0f}',
                f'{peer["median_ms"]:.0f}',
                f'{row["time"]:.2f}',
                f'{1 / row["time"]:.2f}',
                *shares,
                '-' if row['training'] else f'{row["sgemm_share"]:.0%}',
            ]
        )
    titles = ('ours against a peer', 'ms', 'peer ms', 'time', 'times as fast')
    return markdown((*titles, 'kept', 'peak', 'of sgemm'), lines)


def draw(path: Path, device: str, rows: Sequence[dict[str, Any]]) -> None:
    """Draw each model's share of its peer's time as a bar; the line is the peer."""
    times = [row['time'] for row in rows]
    figure = Figure(figsize=(8, 1 + 0.4 * len(rows)), layout='constrained')
    axes = figure.subplots()
    places = range(len(rows))[::-1]
    axes.bar_label(axes.barh(places, times, color='#4878a8'), fmt='{:.2f}', padding=4)
    axes.set_yticks(places, [row['what'] for row in rows])
    axes.axvline(1, color='#888888')
    axes.set_xlim(0, 1.1 * max(1, *times))
    axes.set(title=device, xlabel="share of the peer's time (less is faster)")
    figure.savefig(path)
