"""Grounding metrics on hand-made masks and against slow, literal versions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from rctpl_utils.encoders.frame import on_film
from rctpl_utils.evaluation import grounding_metrics
from rctpl_utils.evaluation.grounding_metrics import IOU, THRESHOLDS, levels, peak, stretch

NOTHING, MASK = np.zeros((2, 8, 10), bool)
MASK[2:5, 3:7] = True
POINT = NOTHING.copy()
POINT[5, 5] = True


def regions_of(region, mask, iou=IOU):
    return grounding_metrics.region_counts(region, grounding_metrics.Lesions(mask), iou)


@pytest.mark.parametrize(
    ("heat", "mask", "found"),
    [(POINT, POINT, 1), (NOTHING, NOTHING, 1), (NOTHING, MASK, 0)],
    ids=["a lesion of one pixel", "two empty regions agree", "no region"],
)
def test_dice_by_hand(heat, mask, found):
    counts = grounding_metrics.pixel_counts(heat[None].astype(float), mask)
    assert grounding_metrics.dice(counts).tolist() == [[found] * len(THRESHOLDS)]


def test_regions_match_by_a_tenth():
    wide = np.zeros((4, 9), bool)
    wide[1:3, 1:4] = wide[1:3, 5:8] = True  # one region over both: IoU 6 / 36 each
    assert regions_of(np.ones_like(wide), wide) == (1, 0, 2, 0)
    assert regions_of(np.ones_like(wide), wide, iou=0.2) == (0, 1, 0, 2)


NEAR = [
    float(side)
    for threshold in THRESHOLDS.astype(np.float32)
    for side in (np.nextafter(threshold, np.float32(0)), threshold, np.nextafter(threshold, 1))
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_levels_count_thresholds_on_either_side_of_each(dtype):
    heat = np.array([0, 1, 1e-9, 0.019999, 0.979999, *NEAR, *THRESHOLDS], dtype)
    assert levels(heat).tolist() == [int((each >= THRESHOLDS).sum()) for each in heat]


SOME = arrays(np.float32, (3, 5, 7), elements=st.sampled_from([0, 0.25, 0.5, 1, *NEAR]))


@given(SOME, arrays(bool, (5, 7)))
def test_several_maps_are_counted_as_each_alone(heats, mask):
    hits = grounding_metrics.pointing_hits(heats, mask)
    pixels = grounding_metrics.pixel_counts(heats, mask)
    for heat, hit, found in zip(heats, hits, pixels, strict=True):
        assert hit == (heat.min() < heat.max() and mask[heat == heat.max()].any())
        region = heat[None] >= THRESHOLDS[:, None, None]
        expected = [region & mask, region & ~mask, ~region & mask]
        assert found.tolist() == [each.sum(axis=(1, 2)).tolist() for each in expected]


@given(arrays(bool, (6, 6)), arrays(bool, (6, 6)), st.sampled_from([0.1, 0.3, 0.5]))
def test_regions_are_the_literal_ones(region, mask, iou):
    labeled = [ndimage.label(each, np.ones((3, 3))) for each in (region, mask)]
    regions, lesions = ([found == k + 1 for k in range(count)] for found, count in labeled)
    match = np.zeros((len(regions), len(lesions)), bool)
    for i, j in np.ndindex(match.shape):
        shared, either = regions[i] & lesions[j], regions[i] | lesions[j]
        match[i, j] = shared.sum() >= iou * either.sum()
    right, found = match.any(axis=1).sum(), match.any(axis=0).sum()
    expected = (right, len(regions) - right, found, len(lesions) - found)
    assert regions_of(region, mask, iou) == expected


@pytest.mark.parametrize(("size", "place"), [((40, 80), (30, 30)), ((80, 40), (50, 10))])
def test_a_map_lands_where_its_cells_were_on_a_padded_film(size, place):
    cells = torch.zeros(1, 4, 4)
    cells[0, 2, 1] = 1  # center at (62.5 %, 37.5 %) of the padded square: (50, 30) less 20
    film = on_film(cells, size)[0].numpy()
    assert film.shape == size and np.abs(np.subtract(peak(film), place)).max() <= 1


def test_stretch_uses_the_whole_range_and_flattens_constants():
    maps = torch.tensor([[[0.2, 0.4], [0.3, 0.25]], [[0.7, 0.7], [0.7, 0.7]]])
    found, spread = stretch(maps), maps[0].max() - maps[0].min()
    assert torch.equal(found[0], (maps[0] - maps[0].min()) / spread)
    assert found[0].min() == 0 and found[0].max() == pytest.approx(1) and (found[1] == 0).all()
