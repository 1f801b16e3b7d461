"""Rendered scenes of plain shapes with exact instance masks.

The embedded data set of this project: something real to train on where no COCO is at hand. Every
scene follows from the seed, the split and its index alone, so that the same call gives the same
pixels anywhere: outlines are rounded to 1/16 pixel and filled in integer arithmetic, and colours,
blur and noise are integers as well.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

CLASSES = ('circle', 'ring', 'square', 'triangle', 'star')

SUBPIXELS = 16  # an outline's coordinates are whole sixteenths of a pixel
RING_HOLE = 0.5  # radius of a ring's hole, relative to its outer radius
STAR_NOTCH = 0.42  # radius of a star's inner corners, relative to its points
AREAS = dict(  # of the shapes whose circumscribed circle has radius 1
    circle=math.pi,
    ring=math.pi * (1 - RING_HOLE**2),
    square=2.0,
    triangle=3 * math.sin(math.radians(120)) / 2,
    star=5 * STAR_NOTCH * math.sin(math.radians(36)),
)
HUES = dict(circle=0.00, ring=0.13, square=0.33, triangle=0.58, star=0.83)
# How many of the shapes wear the hue of their class; the others have to be told by their outline.
HUE_FIDELITY = 0.85

# Side of the square of equal area, in pixels of an image whose shorter side is 240: COCO's small
# (area < 32²), medium and large (area > 96²), and how often each is drawn.
SIZE_RANGES = ((18, 30), (36, 88), (98, 112))
SIZE_WEIGHTS = (0.2, 0.5, 0.3)
REFERENCE_SIDE = 240

EMPTY_SHARE = 0.05  # images with clutter only
CROWD_SHARE = 0.08  # images with one crowd region
MAX_SHAPES = 5
# A shape that would show less than this of its area, cut by the border or by a shape in front of
# it, is not drawn at all: nothing visible ever goes without its annotation.
MIN_VISIBLE = 0.6
PLACEMENT_TRIES = 20


@dataclass(frozen=True)
class Instance:
    """What one shape, or one crowd of shapes, shows of itself in a scene."""

    label: int  # index into CLASSES
    mask: np.ndarray  # (H, W) bool, the visible pixels
    is_crowd: bool = False


@dataclass(frozen=True)
class _Shape:
    """One shape as it is drawn, before anything is put in front of it."""

    label: int
    mask: np.ndarray  # (H, W) bool, the pixels inside the image
    full_area: int  # pixels, with those outside the image


def _grid(centre: tuple[int, int], radius: int) -> tuple[int, int, np.ndarray, np.ndarray]:
    """Left and top of a patch in pixels, and its pixels' x (1, w) and y (h, 1) in sixteenths."""
    left, top = ((c - radius) // SUBPIXELS - 1 for c in centre)
    right, bottom = ((c + radius) // SUBPIXELS + 2 for c in centre)
    x = np.arange(left, right, dtype=np.int64)[None, :] * SUBPIXELS + SUBPIXELS // 2
    y = np.arange(top, bottom, dtype=np.int64)[:, None] * SUBPIXELS + SUBPIXELS // 2
    return left, top, x, y


def _inside_polygon(vertices: list[tuple[int, int]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Even-odd test of points against a polygon of whole-numbered vertices."""
    inside = np.zeros((y.shape[0], x.shape[1]), bool)
    for (x1, y1), (x2, y2) in zip(vertices, vertices[1:] + vertices[:1], strict=True):
        if y1 == y2:
            continue
        if y1 > y2:
            x1, y1, x2, y2 = x2, y2, x1, y1
        crosses = (y >= y1) & (y < y2)
        left_of_edge = (x - x1) * (y2 - y1) < (x2 - x1) * (y - y1)
        inside ^= crosses & left_of_edge
    return inside


def _corners(centre: tuple[int, int], radii: list[float], angle: int) -> list[tuple[int, int]]:
    """Corners on circles of the given radii, spread evenly from ``angle`` (degrees)."""
    step = 360 / len(radii)
    turns = [math.radians(angle + i * step) for i in range(len(radii))]
    return [
        (centre[0] + round(r * math.cos(t)), centre[1] + round(r * math.sin(t)))
        for r, t in zip(radii, turns, strict=True)
    ]


def rasterise(
    kind: str, centre: tuple[int, int], radius: int, angle: int
) -> tuple[int, int, np.ndarray]:
    """Fill one shape: a pixel belongs to it when the pixel's centre lies inside the outline.

    Args:
        kind: One of ``CLASSES``.
        centre: x and y, in sixteenths of a pixel.
        radius: Radius of the circumscribed circle, in sixteenths of a pixel.
        angle: Rotation in degrees; a circle and a ring have none.

    Returns:
        Left and top of the patch in pixels (negative beyond the border), and its mask (h, w).
    """
    left, top, x, y = _grid(centre, radius)
    squared = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
    radii = dict(square=[radius] * 4, triangle=[radius] * 3, star=[radius, STAR_NOTCH * radius] * 5)
    if kind == 'circle':
        mask = squared < radius**2
    elif kind == 'ring':
        mask = (squared < radius**2) & (squared >= round(RING_HOLE * radius) ** 2)
    else:
        mask = _inside_polygon(_corners(centre, radii[kind], angle), x, y)
    return left, top, mask


def _paste(left: int, top: int, patch: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut a patch at the image's border: the mask (H, W) of the whole image."""
    width, height = size
    mask = np.zeros((height, width), bool)
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + patch.shape[1], width), min(top + patch.shape[0], height)
    if x1 < x2 and y1 < y2:
        mask[y1:y2, x1:x2] = patch[y1 - top : y2 - top, x1 - left : x2 - left]
    return mask


def _draw_shape(
    rng: np.random.Generator,
    label: int,
    side: float,
    size: tuple[int, int],
    spans: Sequence[tuple[int, int]],
) -> _Shape:
    """A shape of the area of a square of this side, its centre's x and y within spans of pixels."""
    centre = tuple(int(rng.integers(low * SUBPIXELS, high * SUBPIXELS)) for low, high in spans)
    kind = CLASSES[label]
    radius = round(SUBPIXELS * side / math.sqrt(AREAS[kind]))
    *place, patch = rasterise(kind, centre, radius, int(rng.integers(360)))
    return _Shape(label, _paste(*place, patch, size), int(patch.sum()))


def _place_crowd(rng: np.random.Generator, size: tuple[int, int]) -> list[_Shape]:
    """Many small shapes of one class in a heap; they are annotated as one crowd region."""
    unit = min(size) / REFERENCE_SIDE
    label = int(rng.integers(len(CLASSES)))
    reach = round(34 * unit)
    centre = [int(rng.integers(reach, side - reach)) for side in size]
    spans = [(middle - reach, middle + reach + 1) for middle in centre]
    return [
        _draw_shape(rng, label, int(rng.integers(12, 19)) * unit, size, spans)
        for _ in range(int(rng.integers(10, 17)))
    ]


def _place_shapes(
    rng: np.random.Generator, size: tuple[int, int], taken: np.ndarray
) -> tuple[list[_Shape], list[np.ndarray]]:
    """Shapes from back to front and the visible mask (H, W) of each.

    A try that would hide too much of anything, or touch what is taken (H, W), is given up.
    """
    unit = min(size) / REFERENCE_SIDE
    shapes, masks = [], []
    for _ in range(int(rng.integers(1, MAX_SHAPES + 1))):
        low, high = SIZE_RANGES[int(rng.choice(len(SIZE_RANGES), p=SIZE_WEIGHTS))]
        label = int(rng.integers(len(CLASSES)))
        for _ in range(PLACEMENT_TRIES):
            side = int(rng.integers(low, high + 1)) * unit
            shape = _draw_shape(rng, label, side, size, [(0, length) for length in size])
            candidates = [mask & ~shape.mask for mask in masks] + [shape.mask]
            areas = [other.full_area for other in (*shapes, shape)]
            visible = zip(candidates, areas, strict=True)
            hidden = any(mask.sum() < MIN_VISIBLE * area for mask, area in visible)
            if not hidden and not (shape.mask & taken).any():
                shapes.append(shape)
                masks = candidates
                break
    return shapes, masks


def _paint(rng: np.random.Generator, image: np.ndarray, shape: _Shape) -> None:
    """Fill a shape with one colour, half of the time with stripes of a darker one."""
    hue = HUES[CLASSES[shape.label]] + rng.uniform(-0.04, 0.04)
    if rng.random() >= HUE_FIDELITY:
        hue = rng.random()
    rgb = colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.6, 1), rng.uniform(0.6, 1))
    colour = np.array([round(255 * channel) for channel in rgb[::-1]])
    mask = shape.mask
    height, width = mask.shape
    image[mask] = colour
    if rng.random() < 0.5:
        period = int(rng.integers(6, 13))
        slope = rng.integers(-2, 3, 2)
        stripes = np.arange(width)[None, :] * slope[0] + np.arange(height)[:, None] * slope[1]
        image[mask & (stripes // period % 2 == 1)] = colour * 3 // 4


def _background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A dim, cloudy ground with thin strokes on it, (H, W, 3)."""
    clouds = rng.integers(60, 150, (4, 5, 1)) + rng.integers(-25, 26, (4, 5, 3))
    image = cv2.resize(clouds.astype(np.uint8), size, interpolation=cv2.INTER_LINEAR_EXACT)
    image = image.astype(np.int32)
    for _ in range(int(rng.integers(4, 13))):
        start = rng.integers(0, [size[0] * SUBPIXELS, size[1] * SUBPIXELS])
        along = rng.integers(-60 * SUBPIXELS, 60 * SUBPIXELS + 1, 2)
        # a stroke is a thin parallelogram
        across = rng.integers(-3 * SUBPIXELS, 3 * SUBPIXELS + 1, 2)
        corners = [start, start + along, start + along + across, start + across]
        left, top, x, y = _grid(start, 64 * SUBPIXELS)
        stroke = _inside_polygon([(int(cx), int(cy)) for cx, cy in corners], x, y)
        image[_paste(left, top, stroke, size)] = rng.integers(30, 226, 3)
    return image


def _soften(image: np.ndarray) -> np.ndarray:
    """Binomial 3×3 blur in integers: edges like a camera's, the same on every machine."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), 'edge')
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:] + 8) // 16


def render_scene(
    seed: int, split: str, index: int, size: tuple[int, int]
) -> tuple[np.ndarray, list[Instance]]:
    """Draw one image together with what can be seen in it.

    Args:
        seed: Seed of the whole data set.
        split: Its part, such as ``'train'`` or ``'val'``; each has scenes of its own.
        index: Number of the image in its split. Neither the number of images nor the order in
            which they are drawn changes what an index shows.
        size: Width and height in pixels.

    Returns:
        The image (H, W, 3), uint8, channels blue, green, red; and the instances, every one of
        them at least partly visible.

    Examples:
        >>> image, instances = render_scene(0, 'val', 3, (320, 240))
        >>> image.shape
        (240, 320, 3)
    """
    rng = np.random.Generator(np.random.PCG64([seed, index, *split.encode()]))
    image = _background(rng, size)
    kind_of_scene = rng.random()
    instances = []
    taken = np.zeros(image.shape[:2], bool)

    if kind_of_scene < CROWD_SHARE:
        members = _place_crowd(rng, size)
        for member in members:
            _paint(rng, image, member)
        crowd = np.any([member.mask for member in members], axis=0)
        rows, columns = np.flatnonzero(crowd.any(1)), np.flatnonzero(crowd.any(0))
        taken[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        instances.append(Instance(members[0].label, crowd, is_crowd=True))

    if kind_of_scene < 1 - EMPTY_SHARE:
        shapes, masks = _place_shapes(rng, size, taken)
        for shape, mask in zip(shapes, masks, strict=True):
            _paint(rng, image, shape)
            instances.append(Instance(shape.label, mask))

    amplitude = int(rng.integers(2, 13))
    noise = rng.integers(-amplitude, amplitude + 1, image.shape, np.int16)
    return np.clip(_soften(image) + noise, 0, 255).astype(np.uint8), instances
