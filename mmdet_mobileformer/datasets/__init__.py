"""The embedded data set of rendered shapes, for the demonstration and the tests.

Ground floor: of this package it may import `errors` and `version` alone.
"""

from .shapes import CLASSES, Instance, render_scene
from .shapes_coco import ShapesSpec, to_coco_annotation, write_shapes_dataset

__all__ = [
    'CLASSES',
    'Instance',
    'ShapesSpec',
    'render_scene',
    'to_coco_annotation',
    'write_shapes_dataset',
]
