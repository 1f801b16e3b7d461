"""All that knows that images of a batch are padded to one size: masks and what they hide.

A mask is (N, H, W) bool, True at padded pixels; None stands for a batch without padding.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from torch import Tensor

COARSEST_STRIDE = 32


def padding_mask_of(
    batch_data_samples: list[DetDataSample] | None, device: torch.device
) -> Tensor | None:
    """Mask (N, H, W) bool of a batch, True at padded pixels; None where there are none.

    Without samples the images are taken as they are, each as a whole.

    H and W are those of the batch, rounded up to a multiple of 32: then a map's pixel i stands for
    the images' pixels from i * stride on, and coarse and fine maps for the same area, whatever the
    sizes in the batch are (our decision).
    """
    if batch_data_samples is None:
        return None
    shapes = [sample.img_shape[:2] for sample in batch_data_samples]
    height, width = (round_up(size) for size in batch_data_samples[0].batch_input_shape)
    if all(tuple(shape) == (height, width) for shape in shapes):
        return None
    mask = torch.ones(len(shapes), height, width, dtype=torch.bool, device=device)
    for image_mask, (image_height, image_width) in zip(mask, shapes, strict=True):
        image_mask[:image_height, :image_width] = False
    return mask


def round_up(size: int) -> int:
    """Next multiple of the coarsest stride."""
    return (size + COARSEST_STRIDE - 1) // COARSEST_STRIDE * COARSEST_STRIDE


def extend_images(images: Tensor, padding_mask: Tensor) -> Tensor:
    """Bring images (N, C, H, W) to the size of their mask (N, H', W'), zero where it is True."""
    rows = torch.arange(padding_mask.shape[1], device=images.device).clamp(max=images.shape[2] - 1)
    columns = torch.arange(padding_mask.shape[2], device=images.device)
    columns = columns.clamp(max=images.shape[3] - 1)
    return hide_padding(images.index_select(2, rows).index_select(3, columns), padding_mask)


def mask_at(padding_mask: Tensor | None, stride: int) -> Tensor | None:
    """Mask of a map: (N, H, W) to (N, ceil(H / stride), ceil(W / stride)); None stays None.

    A pixel of the map counts as padding if the image's pixel at its upper left corner does, as in
    DETR, so an image's first pixel is never masked. What comes back is a view: the mask of a batch
    is made once a pass.
    """
    return None if padding_mask is None else padding_mask[:, ::stride, ::stride]


def resize_mask(padding_mask: Tensor | None, size: Sequence[int]) -> Tensor | None:
    """As :func:`mask_at` where a map's size (h, w) is known and not its stride."""
    if padding_mask is None:
        return None
    return F.interpolate(padding_mask[:, None].float(), size=tuple(size))[:, 0] > 0.5


def visible_extent(padding_mask: Tensor | None, size: Sequence[int], like: Tensor) -> Tensor:
    """Width and height of the visible part of a map, in pixels of the map and fractions of them.

    Args:
        padding_mask: Of the images (N, H, W), bool, True at padded pixels; None without padding.
        size: Height and width of the map.
        like: Tensor on the device of the result.

    Returns:
        (N, 2) as (width, height), or (1, 2) without padding; float32.
    """
    height, width = size
    if padding_mask is None:
        return torch.tensor([[width, height]], dtype=torch.float32, device=like.device)
    visible = ~padding_mask
    columns = visible[:, 0].float().mean(dim=1) * width
    rows = visible[:, :, 0].float().mean(dim=1) * height
    return torch.stack([columns, rows], dim=1)


def hide_padding(features: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Zero the padded pixels, so that a convolution sees there what it sees outside of an image.

    Without this the border of an image would look different with and without padding behind it, and
    so would what the end-to-end detector finds (our decision).

    Args:
        features: (N, C, H, W).
        padding_mask: (N, H, W) bool, True at padded pixels; None without padding.

    Returns:
        (N, C, H, W).
    """
    return features if padding_mask is None else features.masked_fill(padding_mask[:, None], 0)
