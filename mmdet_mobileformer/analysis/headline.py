"""The comparisons that docs/benchmarks.md opens with: models and their peers, measured in turns."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmdet_mobileformer.analysis.measure import Case, measure
from mmdet_mobileformer.analysis.report import draw_bars, markdown


@dataclass(frozen=True)
class Comparison:
    """One row: a model beside its peer, under the same conditions."""

    what: str
    model: str
    peer: str
    runtime: str = 'eager'
    height: int = 800
    width: int = 1280
    batch: int = 1
    training: bool = False


STEP = dict(height=320, width=320, batch=2, training=True)
LARGE_STEP = {**STEP, 'height': 512, 'width': 512}
COMPARISONS = (
    Comparison('294m against the released form', 'mf-294m+fused', 'mf-294m+released'),
    Comparison('the same, norms not folded', 'mf-294m', 'mf-294m+released'),
    Comparison('294m against ResNet-50', 'mf-294m+fused', 'resnet50+fused'),
    Comparison('the same in ONNX Runtime', 'mf-294m+fused', 'resnet50+fused', 'onnx'),
    Comparison('E2E-508M against DETR-R50', 'e2e-mf-508m+fused', 'detr-r50+fused'),
    Comparison('the same in ONNX Runtime', 'e2e-mf-508m+fused', 'detr-r50+fused', 'onnx'),
    Comparison(
        "anchored 508M against the paper's form", 'anchored-mf-508m+fused', 'e2e-mf-508m+fused'
    ),
    Comparison(
        'training 294m, token, against the released form', 'mf-294m', 'mf-294m+released', **STEP
    ),
    Comparison(
        'training 294m, spatial, against the released form',
        'mf-294m+spatial',
        'mf-294m+released+spatial',
        **STEP,
    ),
    Comparison('training E2E-508M against DETR-R50', 'e2e-mf-508m', 'detr-r50', **LARGE_STEP),
)


def compare(
    comparisons: Sequence[Comparison],
    threads: int,
    rounds: int,
    sgemm_rate: float,
    log: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Measure every comparison on the CPU; the models of one are released before the next.

    Returns:
        For each the fields of :class:`Comparison`, ``ms`` and ``peer_ms`` (medians), ``time`` (the
        median over the rounds of the model's time over its peer's), ``saved`` and ``peak`` (bytes
        over the peer's; None where not measured) and ``sgemm`` (share of a matrix product's rate).
    """
    rows = []
    for one in comparisons:
        conditions = (one.runtime, one.height, one.width, one.batch, threads, 'fp32', one.training)
        ours, theirs = (Case(name, *conditions) for name in (one.model, one.peer))
        measure([ours, theirs], rounds, 'cpu', log)
        mine, peer = (case.summary(sgemm_rate, theirs) for case in (ours, theirs))
        rows.append(
            {
                **asdict(one),
                'ms': mine['median_ms'],
                'peer_ms': peer['median_ms'],
                'time': 1 / mine['ratio'],
                'saved': _share(ours.saved_bytes, theirs.saved_bytes),
                'peak': _share(ours.peak_bytes, theirs.peak_bytes),
                'sgemm': mine['sgemm_share'] or None,
            }
        )
        gc.collect()
    return rows


def _share(ours: int, theirs: int) -> float | None:
    return ours / theirs if theirs else None


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown table of the comparisons."""
    lines = []
    for row in rows:
        times = f'{row["ms"]:.0f}', f'{row["peer_ms"]:.0f}', f'{row["time"]:.2f}'
        shares = ['-' if row[key] is None else f'{row[key]:.2f}' for key in ('saved', 'peak')]
        sgemm = '-' if row['sgemm'] is None else f'{row["sgemm"]:.0%}'
        lines.append([row['what'], *times, f'{1 / row["time"]:.2f}', *shares, sgemm])
    titles = ('ours against a peer', 'ms', 'peer ms', 'time', 'times as fast')
    return markdown((*titles, 'kept', 'peak', 'of sgemm'), lines)


def draw(path: Path, about: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Draw each model's share of its peer's time as a bar; the line is the peer."""
    names, times = [row['what'] for row in rows], [row['time'] for row in rows]
    axes = draw_bars(about, names, times, '{:.2f}')
    axes.axvline(1, color='#888888')
    axes.set_xlim(0, 1.1 * max(1, *times))
    axes.set_xlabel("share of the peer's time (less is faster)")
    axes.figure.savefig(path)
