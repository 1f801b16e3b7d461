"""Who reads what: attention and assignments of a forward pass, as forward hooks see them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from mmdet.models.detectors.base import BaseDetector
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from torch import Tensor, nn

from mmdet_mobileformer.models.bridge import FormerToMobile, MobileToFormer
from mmdet_mobileformer.models.dynamic_relu import DynamicReLU


@dataclass
class BlockAttention:
    """What one Mobile-Former block computed for the first image of a batch.

    Args:
        name: Of the block in the network, as ``backbone.blocks.3``.
        reads: Mobile→Former (heads, M, H, W): where a token reads; sums to one over the pixels.
        takes: Former→Mobile (heads, M, H', W'): which tokens a pixel takes; sums to one over the
            tokens. None where the block has no such part.
        assignment: Of spatial-aware dynamic ReLU (M, H', W'), likewise; None in 'token' mode.
    """

    name: str
    reads: Tensor
    takes: Tensor | None = None
    assignment: Tensor | None = None

    @property
    def short_name(self) -> str:
        """Name for a title: ``block 4``, and in the decoder ``scale 1, block 2``."""
        numbers = [int(part) + 1 for part in self.name.split('.') if part.isdigit()]
        if len(numbers) == 2:
            return f'scale {numbers[0]}, block {numbers[1]}'
        return f'block {numbers[-1]}'


@contextmanager
def recorded_attention(network: nn.Module) -> Iterator[list[BlockAttention]]:
    """Record every block's attention while the network runs.

    Args:
        network: Anything that holds Mobile-Former blocks, in eval mode.

    Yields:
        A list that a forward pass fills, a block an entry, in the order of their work.
    """
    records: list[BlockAttention] = []
    softmax: dict[nn.Module, list[Tensor]] = {}  # of a bridge, as its softmax gave them

    def keep_softmax(bridge: nn.Module) -> Callable:
        return lambda _module, _args, output: softmax.setdefault(bridge, []).append(output)

    def keep_reads(name: str) -> Callable:
        def hook(bridge: nn.Module, _args: tuple, output: tuple[Tensor, Tensor]) -> None:
            reads = torch.cat(softmax.pop(bridge), dim=1)  # of some heads each
            reads = reads.unflatten(-1, output[1].shape[-2:])
            records.append(BlockAttention(name, _first(reads)))

        return hook

    def keep_takes(bridge: nn.Module, _args: tuple, features: Tensor) -> None:
        takes = torch.cat(softmax.pop(bridge), dim=-1)  # of some pixels each
        records[-1].takes = _first(takes.unflatten(-1, features.shape[-2:]))

    def keep_assignment(_act: nn.Module, args: tuple) -> None:
        if args[2] is not None:
            records[-1].assignment = _first(args[2])

    handles = []
    for name, module in network.named_modules():
        if isinstance(module, MobileToFormer | FormerToMobile):
            handles.append(module.attention.register_forward_hook(keep_softmax(module)))
        if isinstance(module, MobileToFormer):
            handles.append(module.register_forward_hook(keep_reads(name.rpartition('.')[0])))
        elif isinstance(module, FormerToMobile):
            handles.append(module.register_forward_hook(keep_takes))
        elif isinstance(module, DynamicReLU):
            handles.append(module.register_forward_pre_hook(keep_assignment))
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def _first(batch: Tensor) -> Tensor:
    return batch[0].detach().float().cpu()


@dataclass
class QueryPath:
    """One detection of the end-to-end detector, and the queries that led to it.

    Args:
        label: Its class.
        score: Its score.
        queries: Index of the query in every block. Where the decoder replaces its queries on the
            way (proposals), earlier blocks have the one whose box overlaps the detection's most.
        boxes: The query's box after every block (blocks, 4), as (x1, y1, x2, y2) in [0, 1].
        first_own: Index of the first block whose query is the one that made the detection.
    """

    label: int
    score: float
    queries: list[int]
    boxes: Tensor
    first_own: int


def query_paths(
    detector: BaseDetector, logits: Tensor, boxes: Tensor, count: int
) -> list[QueryPath]:
    """Follow the best detections of one image back through the blocks.

    Args:
        detector: A :class:`MobileFormerDETR`.
        logits: Class logits (blocks, 1, Q, classes), with one for no object where the head has it.
        boxes: (blocks, 1, Q, 4) as (cx, cy, w, h) in [0, 1].
        count: How many detections.
    """
    logits, boxes = logits[:, 0].float().cpu(), bbox_cxcywh_to_xyxy(boxes[:, 0].float().cpu())
    if detector.bbox_head.loss_cls.use_sigmoid:
        scores = logits[-1].sigmoid()
    else:
        scores = logits[-1].softmax(-1)[:, :-1]
    scores, labels = scores.max(dim=-1)
    decoder = detector.decoder
    last_change = max(i for i, maps in enumerate(decoder.proposal_maps) if maps or i == 0)
    first_own = sum(len(blocks) for blocks in decoder.scales[:last_change])
    paths = []
    for query in scores.topk(min(count, len(scores))).indices.tolist():
        queries = [query] * len(boxes)
        if first_own:
            overlaps = bbox_overlaps(boxes[-1, query][None], boxes[first_own - 1])[0]
            queries[:first_own] = [int(overlaps.argmax())] * first_own
        paths.append(
            QueryPath(
                int(labels[query]),
                float(scores[query]),
                queries,
                torch.stack([block[index] for block, index in zip(boxes, queries, strict=True)]),
                first_own,
            )
        )
    return paths
