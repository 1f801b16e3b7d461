"""Sheets of pictures that show the attention of a stage, of a scale, and of detections."""

import math
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from mmdet_mobileformer.analysis.attention import BlockAttention, QueryPath
from mmdet_mobileformer.analysis.sheet import Sheet

# Okabe and Ito's colours, which colour-blind readers tell apart. A token keeps its own everywhere.
COLOURS = ('#e69f00', '#56b4e9', '#009e73', '#f0e442', '#0072b2', '#d55e00', '#cc79a7', '#ffffff')
OTHER_QUERIES = '#666666'
PIXELS_NOTE = (
    'pixels have the colour of the token or query\n'
    'that they take most of, stronger where they take more'
)


def backbone_sheets(
    image: np.ndarray, records: Sequence[BlockAttention], what: str
) -> dict[str, Figure]:
    """Two sheets for every stage: mean over the heads with the pixels' side, and head by head.

    Args:
        image: (h, w, 3) uint8, RGB, as the network saw it, without padding.
        records: Those of the backbone's blocks.
        what: Of the title: network and image.

    Returns:
        Figures by file name.
    """
    sheets = {}
    for stride, stage in groupby(records, key=lambda record: _stride(image, record.takes)):
        stage = list(stage)
        title = f'{what}\nbackbone, blocks that end at stride {stride}'
        sheets[f'backbone_stride{stride}.png'] = _stage_sheet(image, stage, title)
        sheets[f'backbone_stride{stride}_heads.png'] = _heads_sheet(image, stage, title)
    return sheets


def _stage_sheet(image: np.ndarray, stage: list[BlockAttention], title: str) -> Figure:
    num_tokens = stage[0].reads.shape[1]
    spatial = stage[0].assignment is not None
    sheet = Sheet(image, title, len(stage), num_tokens + 1 + spatial)
    colours = _token_colours(num_tokens)
    for row, record in enumerate(stage):
        _reads_panels(sheet, row, record.reads.mean(dim=0), record.short_name, colours)
        _pixels_panels(sheet, row, num_tokens, record, list(colours.values()))
    return sheet.finish(colours, PIXELS_NOTE)


def _reads_panels(
    sheet: Sheet, row: int, reads: Tensor, label: str, colours: dict[str, str]
) -> None:
    """Where each token reads (M, H, W), a panel a token."""
    for column, (name, colour) in enumerate(colours.items()):
        panel = sheet.panel(row, column, f'{name} reads', label)
        sheet.read(panel, reads[column], colour, _stride(sheet.image, reads))


def _pixels_panels(
    sheet: Sheet, row: int, column: int, record: BlockAttention, colours: list[str]
) -> None:
    """Which token each pixel takes: a panel by Former→Mobile, and one by dynamic ReLU."""
    sides = {'Former→Mobile': record.takes.mean(dim=0), 'dynamic ReLU': record.assignment}
    for offset, (by, shares) in enumerate(sides.items()):
        if shares is not None:
            panel = sheet.panel(row, column + offset, f'pixels take, {by}', record.short_name)
            sheet.shares(panel, shares, colours, _stride(sheet.image, shares))


def _heads_sheet(image: np.ndarray, stage: list[BlockAttention], title: str) -> Figure:
    num_heads, num_tokens = stage[0].reads.shape[:2]
    sheet = Sheet(image, f'{title}, by head', len(stage) * num_heads, num_tokens)
    colours = _token_colours(num_tokens)
    for index, record in enumerate(stage):
        for head, reads in enumerate(record.reads):
            label = f'{record.short_name}, head {head + 1}'
            _reads_panels(sheet, index * num_heads + head, reads, label, colours)
    return sheet.finish(colours)


def decoder_sheets(
    image: np.ndarray,
    records: Sequence[BlockAttention],
    paths: Sequence[QueryPath],
    classes: Sequence[str],
    what: str,
) -> dict[str, Figure]:
    """Sheets of the end-to-end detector.

    ``detections.png`` has a row for each detection: where its query read in every block, with its
    box before (dashed) and after it. ``detection_<n>_heads.png`` shows the heads, and
    ``decoder_pixels.png`` which query each pixel took.

    Args:
        image: (h, w, 3) uint8, RGB, as the network saw it, without padding.
        records: Those of the decoder's blocks.
        paths: The best detections.
        classes: Names of the classes.
        what: Of the title: network and image.
    """
    names = [f'{n}. {classes[path.label]} {path.score:.2f}' for n, path in enumerate(paths, 1)]
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(paths))]
    sheet = Sheet(
        image, f'{what}\nwhere the query of each detection reads', len(paths), len(records)
    )
    for row, path in enumerate(paths):
        for column, record in enumerate(records):
            mark = '' if path.is_own[column] else '*'
            title = f'{record.short_name}: query {path.queries[column] + 1}{mark}'
            panel = sheet.panel(row, column, title, names[row])
            reads = record.reads[:, path.queries[column]].mean(dim=0)
            sheet.read(panel, reads, colours[row], _stride(image, reads))
            if column and path.is_own[column] == path.is_own[column - 1]:
                sheet.box(panel, path.boxes[column - 1], '#ffffff', '--')
            sheet.box(panel, path.boxes[column], colours[row])
    note = 'box after the block; dashed: before it'
    if not all(paths[0].is_own):
        note += '\n* an earlier query, whose box overlaps the detection most'
    figures = {'detections.png': sheet.finish(dict(zip(names, colours, strict=True)), note)}
    for index, path in enumerate(paths):
        title = f'{what}\n{names[index]}: where its query reads, by head'
        figures[f'detection_{index + 1}_heads.png'] = _query_heads_sheet(
            image, records, path, colours[index], title
        )
    if any(record.takes is not None for record in records):
        figures['decoder_pixels.png'] = _pixels_sheet(image, records, paths, names, colours, what)
    return figures


def _query_heads_sheet(
    image: np.ndarray, records: Sequence[BlockAttention], path: QueryPath, colour: str, title: str
) -> Figure:
    num_heads = records[0].reads.shape[0]
    sheet = Sheet(image, title, len(records), num_heads)
    for row, record in enumerate(records):
        for head in range(num_heads):
            panel = sheet.panel(row, head, f'head {head + 1}', record.short_name)
            reads = record.reads[head, path.queries[row]]
            sheet.read(panel, reads, colour, _stride(image, reads))
            sheet.box(panel, path.boxes[row], colour)
    return sheet.finish({}, 'box after the block')


def _pixels_sheet(
    image: np.ndarray,
    records: Sequence[BlockAttention],
    paths: Sequence[QueryPath],
    names: list[str],
    colours: list[str],
    what: str,
) -> Figure:
    shown = [index for index, record in enumerate(records) if record.takes is not None]
    spatial = any(record.assignment is not None for record in records)
    sheet = Sheet(image, f'{what}\nwhich query each pixel takes', len(shown), 1 + spatial)
    for row, index in enumerate(shown):
        by_query = [OTHER_QUERIES] * records[index].reads.shape[1]
        for path, colour in zip(paths, colours, strict=True):
            by_query[path.queries[index]] = colour
        _pixels_panels(sheet, row, 0, records[index], by_query)
    legend = dict(zip(names, colours, strict=True)) | {'other queries': OTHER_QUERIES}
    return sheet.finish(legend, PIXELS_NOTE)


def _token_colours(num_tokens: int) -> dict[str, str]:
    """Colour of each token, by its name."""
    return {f'token {token + 1}': COLOURS[token % len(COLOURS)] for token in range(num_tokens)}


def _stride(image: np.ndarray, pixels: Tensor) -> int:
    """Pixels of the image that a map's pixel (…, H, W) stands for; maps round up."""
    return 2 ** round(math.log2(max(image.shape[:2]) / max(pixels.shape[-2:])))
