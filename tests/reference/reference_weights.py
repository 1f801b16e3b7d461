"""Weights that stand in for the published ImageNet checkpoints, which are not part of this project.

``manifest_<variant>.json`` lists every key of a released checkpoint with its shape, in order. Here
the keys are filled with numbers that depend on the key alone, and
``expected_<variant>_<dynamic ReLU>.npz`` holds what the released model computes with exactly these
weights (in float64, stored as float32).
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent


def fill(key, shape):
    """Value of one entry: an array of ``shape`` that depends only on ``key``."""
    if key.endswith('num_batches_tracked'):
        return np.zeros(shape, dtype=np.int64)
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if key.endswith('running_var'):
        value = rng.uniform(0.5, 1.5, shape)
    elif key.endswith(('running_mean', 'bias')):
        value = rng.normal(0.0, 0.1, shape)
    elif len(shape) == 1:  # scale of a BatchNorm or LayerNorm
        value = rng.uniform(0.8, 1.2, shape)
    elif key.startswith('tokens'):
        value = rng.normal(0.0, 1.0, shape)
    else:
        value = rng.normal(0.0, 0.7 / math.sqrt(math.prod(shape[1:])), shape)
    return np.asarray(value, dtype=np.float32)


def fill_shapes(shapes):
    """State dict with these shapes by key."""
    return {key: torch.from_numpy(np.array(fill(key, tuple(shapes[key])))) for key in shapes}


def manifest(variant):
    """Shapes of a released checkpoint by key, in the file's order."""
    return dict(json.loads((HERE / f'manifest_{variant}.json').read_text()))


def state_dict(variant):
    """State dict of a variant in the authors' key naming."""
    return fill_shapes(manifest(variant))


def image(shape, seed=0):
    """Normalised input images (N, 3, H, W), float32."""
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.normal(0.0, 1.0, shape).astype(np.float32))


def expected(case):
    """What the released model computes: the arrays of a case such as '26m_token' by name."""
    with np.load(HERE / f'expected_{case}.npz') as arrays:
        return dict(arrays)
