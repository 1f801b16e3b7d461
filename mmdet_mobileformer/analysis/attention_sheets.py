"""Sheets of pictures that show the attention of a stage, of a scale, and of detections.

A sheet is a grid of panels that show one image in grey, under overlays.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from mmdet_mobileformer.analysis.attention import BlockAttention, QueryPath

# Okabe and Ito's colours, which colour-blind readers tell apart. A token keeps its own everywhere.
COLOURS = ('#e69f00', '#56b4e9', '#009e73', '#f0e442', '#0072b2', '#d55e00', '#cc79a7', '#ffffff')
OTHER_QUERIES = '#666666'
READS_NOTE = 'opaque where attention peaks; 1× is even attention'
PIXELS_NOTE = (
    'pixels have the colour of the token or query\n'
    'that they take most of, stronger where they take more'
)
PANEL_WIDTH = 2.3  # inches
DARKEN = 0.75  # so that overlays stand out

Box = tuple[Tensor, str, str]  # (x1, y1, x2, y2) in [0, 1], colour, style of the line


@dataclass
class Panel:
    """One picture of a sheet: its title, an overlay (H, W, 4) of RGBA in [0, 1], and boxes."""

    title: str
    overlay: np.ndarray
    boxes: Sequence[Box] = ()


def reads_panel(title: str, attention: Tensor, colour: str, boxes: Sequence[Box] = ()) -> Panel:
    """Attention over pixels (H, W), opaque where it peaks.

    Opacity grows with the root of attention, so that more than the peak is seen.
    The title gets how much higher the peak is than even attention.
    """
    opacity = (attention / attention.max()).sqrt()
    overlay = np.dstack([np.full((*opacity.shape, 3), to_rgb(colour)), opacity])
    peak = float(attention.max() / attention.mean())
    return Panel(f'{title}\npeak {peak:.3g}×', overlay, boxes)


def pixels_panels(record: BlockAttention, colours: Sequence[str]) -> list[Panel]:
    """Which token each pixel takes most of, by Former→Mobile and, if spatial, by dynamic ReLU.

    Args:
        record: Of a block; what it lacks gets no panel.
        colours: One a token. They are stronger where a pixel takes more.
    """
    palette = np.array([to_rgb(colour) for colour in colours])
    panels = []
    takes = None if record.takes is None else record.takes.mean(dim=0)
    for by, shares in (('Former→Mobile', takes), ('dynamic ReLU', record.assignment)):
        if shares is not None:
            largest, owner = shares.max(dim=0)
            overlay = np.dstack([palette[owner.numpy()], 0.2 + 0.8 * largest])
            panels.append(Panel(f'pixels take, {by}', overlay))
    return panels


def draw_sheet(
    image: np.ndarray,
    title: str,
    rows: Sequence[tuple[str, list[Panel]]],
    colours: dict[str, str],
    note: str,
) -> Figure:
    """Draw panels in rows.

    Args:
        image: (h, w, 3) uint8, RGB.
        title: Above the sheet.
        rows: Label, and the panels from left to right.
        colours: Of the legend, by name.
        note: Above the legend.
    """
    height, width = image.shape[:2]
    grey = image.mean(axis=2) * DARKEN / 255
    columns = max(len(panels) for _, panels in rows)
    panel_height = PANEL_WIDTH * min(max(height / width, 0.4), 2.5) + 0.45
    size = (PANEL_WIDTH * columns + 0.6, panel_height * len(rows) + 1.4)
    figure = Figure(size, dpi=90, layout='constrained')
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for (label, panels), row in zip(rows, grid, strict=True):
        place = dict(rotation=90, ha='right', va='center', fontsize=9)
        row[0].text(-0.04, 0.5, label, transform=row[0].transAxes, **place)
        for panel, axes in zip(panels, row, strict=False):
            stride = _stride(image, panel.overlay.shape[:2])
            below, right = (stride * side for side in panel.overlay.shape[:2])
            axes.imshow(grey, cmap='gray', vmin=0, vmax=1, extent=(0, width, height, 0))
            axes.imshow(panel.overlay, extent=(0, right, below, 0))
            axes.set(xlim=(0, width), ylim=(height, 0))
            axes.set_title(panel.title, fontsize=8)
            for box, colour, style in panel.boxes:
                x1, y1, x2, y2 = (box * box.new_tensor([width, height] * 2)).tolist()
                look = dict(fill=False, edgecolor=colour, linestyle=style, linewidth=1.5)
                axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **look))
    legend = figure.legend(
        handles=[Patch(color=colour, label=name) for name, colour in colours.items()],
        loc='outside lower center',
        ncols=max(1, int(figure.get_figwidth() / 1.6)),
        title=note,
        fontsize=9,
        title_fontsize=9,
        facecolor='#444444',
        labelcolor='white',
    )
    legend.get_title().set_color('white')
    return figure


def _stride(image: np.ndarray, size: Sequence[int]) -> int:
    """Pixels of the image that a pixel of a map (H, W) stands for; maps round up."""
    return 2 ** round(math.log2(max(image.shape[:2]) / max(size)))


def backbone_sheets(
    image: np.ndarray, records: Sequence[BlockAttention], what: str
) -> dict[str, Figure]:
    """A sheet for every stage: what its tokens read, mean over the heads, and the pixels' side.

    Args:
        image: (h, w, 3) uint8, RGB, as the network saw it, without padding.
        records: Those of the backbone's blocks.
        what: Of the title: network and image.

    Returns:
        Figures by file name.
    """
    tokens = range(records[0].reads.shape[1]) if records else ()
    colours = {f'token {token + 1}': COLOURS[token % len(COLOURS)] for token in tokens}
    sheets = {}
    for stride, stage in groupby(records, key=lambda r: _stride(image, r.takes.shape[-2:])):
        rows = []
        for record in stage:
            reads = zip(colours.items(), record.reads.mean(dim=0), strict=True)
            panels = [reads_panel(f'{name} reads', read, colour) for (name, colour), read in reads]
            panels += pixels_panels(record, list(colours.values()))
            rows.append((record.short_name, panels))
        title = f'{what}\nbackbone, blocks that end at stride {stride}'
        note = f'{READS_NOTE}\n{PIXELS_NOTE}'
        sheets[f'backbone_stride{stride}.png'] = draw_sheet(image, title, rows, colours, note)
    return sheets


def decoder_sheets(
    image: np.ndarray,
    records: Sequence[BlockAttention],
    paths: Sequence[QueryPath],
    classes: Sequence[str],
    what: str,
) -> dict[str, Figure]:
    """Two sheets of the end-to-end detector.

    ``detections.png`` has a row for each detection: where its query read in every block, with its
    box before (dashed) and after it. ``decoder_pixels.png`` shows which query each pixel took.

    Args:
        image: (h, w, 3) uint8, RGB, as the network saw it, without padding.
        records: Those of the decoder's blocks.
        paths: The best detections.
        classes: Names of the classes.
        what: Of the title: network and image.
    """
    names = [f'{n}. {classes[path.label]} {path.score:.2f}' for n, path in enumerate(paths, 1)]
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    rows = [
        (name, _path_panels(records, path, colour))
        for (name, colour), path in zip(colours.items(), paths, strict=True)
    ]
    note = f'box after the block; dashed: before it\n{READS_NOTE}'
    if paths[0].first_own:
        note += '\n* an earlier query, whose box overlaps the detection most'
    title = f'{what}\nwhere the query of each detection reads'
    sheets = {'detections.png': draw_sheet(image, title, rows, colours, note)}

    rows = []
    for index, record in enumerate(records):
        by_query = [OTHER_QUERIES] * record.reads.shape[1]
        for path, colour in zip(paths, colours.values(), strict=True):
            by_query[path.queries[index]] = colour
        if panels := pixels_panels(record, by_query):
            rows.append((record.short_name, panels))
    if rows:
        title = f'{what}\nwhich query each pixel takes'
        legend = colours | {'other queries': OTHER_QUERIES}
        sheets['decoder_pixels.png'] = draw_sheet(image, title, rows, legend, PIXELS_NOTE)
    return sheets


def _path_panels(records: Sequence[BlockAttention], path: QueryPath, colour: str) -> list[Panel]:
    """Where the query of a detection read in every block, with its box."""
    panels = []
    for index, (record, query) in enumerate(zip(records, path.queries, strict=True)):
        boxes = [(path.boxes[index], colour, '-')]
        if index not in (0, path.first_own):
            boxes.insert(0, (path.boxes[index - 1], '#ffffff', '--'))
        star = '*' if index < path.first_own else ''
        title = f'{record.short_name}: query {query + 1}{star}'
        panels.append(reads_panel(title, record.reads[:, query].mean(dim=0), colour, boxes))
    return panels
