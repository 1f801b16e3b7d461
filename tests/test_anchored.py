"""Anchored queries: boxes as positions, Gaussian prior, proposals, their losses."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from e2e_model import (
    NUM_CLASSES,
    anchored,
    build_detector,
    draw_batch,
    losses_of,
    overfitted_ap,
)
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch.utils._python_dispatch import TorchDispatchMode

from mmdet_mobileformer.models import MobileToFormer
from mmdet_mobileformer.models.e2e.anchors import grid_boxes
from mmdet_mobileformer.models.e2e.block import DecoderBlock
from mmdet_mobileformer.models.e2e.denoising import Denoising
from mmdet_mobileformer.models.e2e.dense_loss import assign
from mmdet_mobileformer.models.e2e.prior import GaussianPrior, pixel_powers
from mmdet_mobileformer.models.e2e.proposals import ProposalHead, peaks, pixel_anchors
from mmdet_mobileformer.models.padding import mask_at, visible_extent


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random_boxes(*shape):
    centres, sizes = 0.2 + 0.6 * torch.rand(*shape, 2), 0.05 + 0.4 * torch.rand(*shape, 2)
    return torch.cat([centres, sizes], dim=-1)


def test_the_prior_adds_a_gaussian_around_a_place_of_the_box_to_the_logits():
    queries, features = torch.randn(2, 3, 16), torch.randn(2, 8, 4, 6)
    boxes, extent = random_boxes(2, 3), torch.tensor([[6.0, 4.0], [5.0, 3.5]])
    bridge, prior = MobileToFormer(8, 16, 2), GaussianPrior(16, 2)
    torch.nn.init.normal_(prior.offset_and_width.weight, std=0.1)
    given = (prior(queries, boxes, extent), pixel_powers((4, 6), extent))
    added = bridge(features, queries, prior=given)[1] - bridge(features, queries)[1]
    numbers = prior.offset_and_width(queries).unflatten(2, (2, 4))
    for image, head, query in itertools.product(range(2), range(2), range(3)):
        box, number = boxes[image, query], numbers[image, query, head]
        mean = box[:2] + number[:2] * box[2:]
        spread = box[2:] * number[2:].exp() + 0.5 / extent[image]
        for row, column in itertools.product(range(4), range(6)):
            place = (torch.tensor([column, row]) + 0.5) / extent[image]
            expected = -0.5 * (((place - mean) / spread) ** 2).sum()
            actual = added[image, head, query, row, column]
            torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


def test_the_prior_stays_exact_under_autocast():
    queries, features = torch.randn(1, 3, 16), torch.randn(1, 8, 20, 30)
    boxes, extent = random_boxes(1, 3) * 0.1, torch.tensor([[30.0, 20.0]])
    prior, powers = GaussianPrior(16, 2), pixel_powers((20, 30), extent)
    bridge = MobileToFormer(8, 16, 2)
    exact = bridge(features, queries, prior=(prior(queries, boxes, extent), powers))[1]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        given = (prior(queries, boxes, extent), powers)
        rounded = bridge(features, queries, prior=given)[1]
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.05)


def test_no_product_meets_the_numbers_below_normal_ones_that_slow_a_cpu():
    torch.set_flush_denormal(False)
    smallest, met = torch.finfo(torch.float32).tiny, []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in (torch.ops.aten.bmm.default, torch.ops.aten.mm.default):
                met.extend(int(((x != 0) & (x.abs() < smallest)).sum()) for x in args)
            return func(*args, **(kwargs or {}))

    block = DecoderBlock(16, 'lite', 32, num_heads=4, prior=True).eval()
    features, queries = torch.randn(1, 16, 40, 40), torch.randn(1, 3, 16)
    boxes = torch.tensor([[[0.2, 0.2, 0.1, 0.1], [0.6, 0.3, 0.2, 0.1], [0.5, 0.8, 0.3, 0.3]]])
    inputs = (features, queries, features, queries, None, boxes, torch.tensor([[40.0, 40.0]]))
    with torch.no_grad():
        logits = block.mobile_to_former(
            *inputs[:5], (block.prior(queries, boxes, inputs[6]), pixel_powers((40, 40), inputs[6]))
        )[1]
        shares = logits.flatten(3).softmax(3)
        assert ((shares > 0) & (shares < smallest)).any()
        with Products():
            block(*inputs)
    assert met
    assert sum(met) == 0


def test_matchability_aware_loss_is_its_formula():
    loss = MODELS.build(dict(type='MatchabilityAwareLoss', gamma=1.5, loss_weight=2.0))
    logits, labels = torch.randn(4, NUM_CLASSES), torch.tensor([0, 2, NUM_CLASSES, 1])
    quality = torch.tensor([0.9, 0.2, 0.0, 0.5])
    expected = 0.0
    for row, label, iou in zip(logits, labels, quality, strict=True):
        for name, p in enumerate(row.sigmoid()):
            if name == label:
                q = iou**1.5
                expected -= q * p.log() + (1 - q) * (1 - p).log()
            else:
                expected -= p**1.5 * (1 - p).log()
    torch.testing.assert_close(loss(logits, (labels, quality), avg_factor=3), 2 * expected / 3)


def test_peaks_are_no_lower_than_any_neighbour_and_any_pixel_behind_or_before_them():
    sizes = [(2, 3), (4, 6), (8, 12)]
    scores = [torch.rand(h, w) for h, w in sizes]
    found = peaks(torch.cat([s.flatten() for s in scores])[None], sizes)[0]
    found = [f.view(s) for f, s in zip(found.split([h * w for h, w in sizes]), sizes, strict=True)]
    for level, (height, width) in enumerate(sizes):
        for row, column in itertools.product(range(height), range(width)):
            around = scores[level][max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            rivals = [around.max()]
            for other in range(len(sizes)):
                for r, c in itertools.product(*map(range, sizes[other])):
                    coarse, fine = sorted([(level, row, column), (other, r, c)])
                    step = 2 ** (fine[0] - coarse[0])
                    if (fine[1] // step, fine[2] // step) == coarse[1:]:
                        rivals.append(scores[other][r, c])
            expected = scores[level][row, column] >= max(rivals)
            assert found[level][row, column] == expected
    assert any(f.any() for f in found)


def test_an_object_trains_pixels_inside_it_or_the_nearest_one():
    centres = pixel_anchors((4, 4), torch.tensor([[4.0, 4.0]]))[0, :, :2]
    boxes = torch.cat([centres, torch.full_like(centres, 0.5)], dim=1)
    logits = torch.zeros(16, NUM_CLASSES)
    # The first fills the left half; the second lies between pixels; both of class 1.
    targets = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.7, 0.7, 0.74, 0.74]])
    pixels, owners, quality = assign(
        logits, boxes, centres, None, targets, torch.tensor([1, 1]), top_k=3
    )
    assert owners.tolist().count(0) == 3 and owners.tolist().count(1) == 1
    assert (centres[pixels[owners == 0], 0] < 0.5).all()
    assert centres[pixels[owners == 1]].tolist() == [[0.625, 0.625]]
    assert (quality > 0).all() and (quality <= 1).all()


def test_padded_pixels_are_neither_trained_nor_chosen():
    head = ProposalHead(8, NUM_CLASSES, 30)
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, 32:] = mask[:, :, 32:] = True
    maps = [torch.randn(1, 8, 2, 2), torch.randn(1, 8, 4, 4)]
    proposals = head(maps, [mask_at(mask, 32), mask_at(mask, 16)], mask)
    assert proposals.padding.sum() == 3 + 12
    alone = head([maps[0][..., :1, :1], maps[1][..., :2, :2]])
    torch.testing.assert_close(proposals.query_boxes, alone.query_boxes)
    torch.testing.assert_close(proposals.queries, alone.queries)
    hidden = proposals.padding[0]
    targets = torch.tensor([[0.9, 0.9, 1.0, 1.0]])
    pixels, _, _ = assign(
        proposals.logits[0], proposals.boxes[0], proposals.centres[0], hidden, targets,
        torch.tensor([0]), top_k=5,
    )  # fmt: skip
    assert not hidden[pixels].any()


def test_the_visible_part_of_a_map_is_the_images_share_of_it():
    mask = torch.ones(2, 64, 96, dtype=torch.bool)
    mask[0, :50, :80] = mask[1, :64, :96] = False
    extent = visible_extent(mask, (4, 6), mask)
    torch.testing.assert_close(extent, torch.tensor([[5.0, 50 / 16], [6.0, 4.0]]))


def test_boxes_of_a_grid_cover_the_image():
    boxes = bbox_cxcywh_to_xyxy(grid_boxes(25))
    assert boxes.shape == (25, 4) and torch.allclose(boxes[:, :2].min(0)[0], torch.zeros(2))
    assert grid_boxes(7).shape == (7, 4)


def test_permuting_learned_boxes_and_contents_permutes_the_outputs_and_nothing_else():
    detector = build_detector(**anchored()).eval()
    order = torch.randperm(12)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before = detector(images, mode='tensor')
        detector.queries.content.weight.copy_(detector.queries.content.weight[order])
        detector.queries.box_logits.copy_(detector.queries.box_logits[order])
        after = detector(images, mode='tensor')
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old[:, :, order], rtol=1e-3, atol=1e-4)


def test_boxes_are_refined_from_block_to_block_without_gradient_between():
    detector = build_detector(**anchored()).train()
    torch.nn.init.normal_(detector.bbox_head.fc_reg.weight, std=0.1)
    refine, references = detector.bbox_head.refine, []
    detector.bbox_head.refine = lambda queries, boxes: (
        references.append(boxes) or refine(queries, boxes)
    )
    _, boxes = detector(torch.randn(1, 3, 64, 64), mode='tensor')
    assert all(not torch.allclose(a, b) for a, b in itertools.pairwise(boxes))
    assert [reference.requires_grad for reference in references] == [True] + 4 * [False]
    assert all(torch.equal(a, b) for a, b in zip(references[1:], boxes[:-1], strict=True))


def test_losses_of_padding_and_of_empty_images_are_finite_and_the_dense_one_has_its_names():
    detector = build_detector(**anchored((0, 1, 0))).train()
    losses = losses_of(detector, draw_batch([(64, 96), (40, 64)], 0))
    assert {name for name in losses if name.startswith('proposal')} == {
        'proposal.loss_cls', 'proposal.loss_bbox', 'proposal.loss_iou',
    }  # fmt: skip
    assert losses['proposal.loss_bbox'] == 0 and losses['proposal.loss_cls'] > 0


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_16_bits_give_nearly_the_same_losses(dtype):
    detector = build_detector(**anchored((0, 1, 0)), denoising=dict(num_queries=12)).train()
    batch = draw_batch([(64, 96), (48, 80)])
    torch.manual_seed(1)
    exact = sum(losses_of(detector, batch).values())
    torch.manual_seed(1)
    with torch.autocast('cpu', dtype=dtype):
        rounded = sum(losses_of(detector, batch).values())
    rounded.backward()
    torch.testing.assert_close(rounded.float(), exact, rtol=0.1, atol=0.1)
    assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())


def test_it_learns_eight_images_in_few_steps():
    settings = anchored((0, 0, 1))
    for scale in settings['decoder']['scales']:
        scale['num_blocks'] = 1
    detector = build_detector(**settings, num_queries=8).train()
    assert overfitted_ap(detector, steps=80) >= 0.6


def test_peaks_rank_before_all_other_pixels():
    head, scores = ProposalHead(8, NUM_CLASSES, 4), torch.randn(1, 8, 6, 6)
    proposals = head([scores])
    best = proposals.logits.detach().amax(-1).view(1, 1, 6, 6)
    is_peak = (F.max_pool2d(best, 3, 1, 1) == best).flatten()
    expected = proposals.boxes[0, is_peak][best.flatten()[is_peak].argsort(descending=True)][:4]
    torch.testing.assert_close(proposals.query_boxes[0, : len(expected)], expected)


def annotations(batch):
    samples = batch['data_samples']
    return [s.gt_instances for s in samples], [s.metainfo for s in samples]


def test_denoising_queries_begin_near_their_objects_and_negatives_further_away():
    (many, none), metas = annotations(draw_batch([(64, 96), (64, 96)], 3))
    dn_queries = Denoising(num_queries=24, noise=0.5)([many, none[:0]], metas, NUM_CLASSES)
    assert dn_queries.num_groups == 4 and dn_queries.boxes.shape == (2, 4 * 6, 4)
    wanted = torch.cat([many.labels, torch.full((3,), NUM_CLASSES)]).repeat(4)
    assert torch.equal(dn_queries.labels[0], wanted) and (dn_queries.labels[1] == NUM_CLASSES).all()
    side = torch.tensor([96.0, 64.0, 96.0, 64.0])
    objects = many.bboxes / side
    half = (objects[:, 2:] - objects[:, :2]).repeat(1, 2) / 2
    moved = bbox_cxcywh_to_xyxy(dn_queries.boxes[0].view(4, 2, 3, 4)) - objects
    shares = (moved / half).abs()
    inside = ((objects > 0.3) & (objects < 0.7)).expand_as(shares[:, 0])  # none is clipped there
    assert (shares[:, 0] <= 0.5 + 1e-3).all()
    assert (shares[:, 1][inside] >= 0.5 - 1e-3).all() and (shares[:, 1] <= 1 + 1e-3).all()
    targets = bbox_cxcywh_to_xyxy(dn_queries.targets[0].view(4, 2, 3, 4))
    torch.testing.assert_close(targets, objects.expand_as(targets))


def test_a_crowd_gets_no_more_denoising_queries_than_allowed():
    objects, metas = annotations(draw_batch([(64, 96), (64, 96)], 9))
    dn_queries = Denoising(num_queries=8)(objects, metas, NUM_CLASSES)
    assert dn_queries.num_groups == 1 and dn_queries.boxes.shape == (2, 8, 4)
    assert (dn_queries.labels[:, :4] < NUM_CLASSES).all() and (
        dn_queries.labels[:, 4:] == NUM_CLASSES
    ).all()
    chosen = bbox_cxcywh_to_xyxy(dn_queries.targets[0, :4]) * torch.tensor([96.0, 64.0, 96.0, 64.0])
    distance = torch.cdist(chosen, objects[0].bboxes)
    assert (distance.amin(dim=1) < 1e-3).all() and len(set(distance.argmin(dim=1).tolist())) == 4


@pytest.mark.parametrize('num_objects', [0, 3])
@pytest.mark.parametrize('with_cp', [False, True])
def test_denoising_trains_everything_and_changes_no_other_loss(num_objects, with_cp):
    batch = draw_batch([(64, 96), (40, 64)], num_objects)
    settings = anchored((0, 1, 0), with_cp=with_cp)
    alone = losses_of(build_detector(**settings).train(), batch)
    detector = build_detector(**settings, denoising=dict(num_queries=12)).train()
    losses = losses_of(detector, batch)
    names = {name for name in losses if 'dn_loss' in name}
    parts = ('cls', 'bbox', 'iou')
    assert names == {f'{block}dn_loss_{p}' for block in ('d0.', 'd1.', '') for p in parts}
    assert losses.keys() - names == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(losses[name], value)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    assert losses['dn_loss_cls'] > 0 and (losses['dn_loss_bbox'] > 0) == (num_objects > 0)


def test_a_group_of_denoising_queries_sees_no_other_group():
    block = DecoderBlock(16, 'lite', 32, 2, prior=True).eval()
    features, pixels = torch.randn(1, 16, 4, 6), torch.randn(1, 16, 4, 6)
    extent, boxes = torch.tensor([[6.0, 4.0]]), random_boxes(1, 6)
    dn_queries, places = torch.randn(1, 6, 16), torch.randn(1, 6, 16)
    before, _ = block.denoise(features, dn_queries, pixels, places, None, boxes, extent, 2)
    dn_queries = torch.cat([dn_queries[:, :3], torch.randn(1, 3, 16)], dim=1)
    after, _ = block.denoise(features, dn_queries, pixels, places, None, boxes, extent, 2)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.isclose(before[:, 3:], after[:, 3:]).all(dim=-1).any()


def test_denoising_needs_proposals_and_positive_settings():
    with pytest.raises(ValueError, match='needs queries that are proposals'):
        build_detector(**anchored(), denoising=dict())
    with pytest.raises(ValueError, match='num_queries 0'):
        Denoising(num_queries=0)
    with pytest.raises(ValueError, match='noise -1'):
        Denoising(noise=-1)
