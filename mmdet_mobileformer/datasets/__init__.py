"""The embedded data set of rendered shapes, for the demonstration and the tests.

Ground floor: of this package it may import `errors` and `version` alone.
"""

from .shapes import CLASSES, render_scene
from .shapes_coco import ShapesSpec, write_shapes_dataset

__all__ = ['CLASSES', 'ShapesSpec', 'render_scene', 'write_shapes_dataset']
