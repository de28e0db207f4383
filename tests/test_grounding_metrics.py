"""Grounding metrics on hand-made masks and against slow, literal versions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from rctpl_utils.encoders.frame import on_film
from rctpl_utils.evaluation.grounding_metrics import (
    IOU,
    THRESHOLDS,
    Lesions,
    dice,
    levels,
    peak,
    pixel_counts,
    pointing_hits,
    region_counts,
    stretch,
)

MASK = np.zeros((8, 10), bool)
MASK[2:5, 3:7] = True


def heat_at(*places, size=(8, 10)):
    heat = np.zeros(size)
    for place in places:
        heat[place] = 1
    return heat


def pointing_hit(heat, mask):
    return pointing_hits(heat[None], mask)[0]


def pixels_of(heat, mask):
    return pixel_counts(heat[None], mask)[0]


def regions_of(region, mask, iou=IOU):
    return region_counts(region, Lesions(mask), iou)


def test_the_pointing_game_by_hand():
    assert pointing_hit(heat_at((3, 4)), MASK)
    assert not pointing_hit(heat_at((7, 0)), MASK)
    assert pointing_hit(heat_at((7, 0), (3, 4)), MASK), "of two equal maxima one lies inside"
    assert not pointing_hit(np.full(MASK.shape, 0.4), MASK), "a constant map points nowhere"
    assert not pointing_hit(heat_at((3, 4)), np.zeros_like(MASK))


def test_a_lesion_of_one_pixel_can_be_hit_and_matched():
    mask = heat_at((5, 5)).astype(bool)
    assert pointing_hit(heat_at((5, 5)), mask)
    assert regions_of(mask, mask) == (1, 0, 1, 0)
    assert dice(pixels_of(heat_at((5, 5)), mask)).tolist() == [1] * len(THRESHOLDS)


def test_regions_of_two_lesions():
    two = MASK.copy()
    two[7, 9] = True
    region = np.zeros_like(two)
    region[2:5, 3:5] = True  # half of the first lesion: IoU 6 / 12
    region[0, 0] = True  # touches nothing
    assert regions_of(region, two) == (1, 1, 1, 1)
    assert regions_of(np.zeros_like(two), two) == (0, 0, 0, 2)
    assert regions_of(two, np.zeros_like(two)) == (0, 2, 0, 0)


def test_one_region_over_two_lesions_finds_both_where_the_overlap_suffices():
    two = np.zeros((4, 9), bool)
    two[1:3, 1:4] = two[1:3, 5:8] = True
    assert regions_of(np.ones_like(two), two) == (1, 0, 2, 0)  # IoU 6 / 36 each
    assert regions_of(np.ones_like(two), two, iou=0.2) == (0, 1, 0, 2)


def test_two_empty_regions_agree():
    empty = np.zeros_like(MASK)
    assert dice(pixels_of(np.zeros(MASK.shape), empty)).tolist() == [1] * len(THRESHOLDS)
    assert dice(pixels_of(np.zeros(MASK.shape), MASK)).tolist() == [0] * len(THRESHOLDS)


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
    hits, pixels = pointing_hits(heats, mask), pixel_counts(heats, mask)
    for heat, hit, found in zip(heats, hits, pixels, strict=True):
        assert hit == (heat.min() < heat.max() and mask[heat == heat.max()].any())
        region = heat[None] >= THRESHOLDS[:, None, None]
        expected = [region & mask, region & ~mask, ~region & mask]
        assert found.tolist() == [each.sum(axis=(1, 2)).tolist() for each in expected]


@given(arrays(bool, (6, 6)), arrays(bool, (6, 6)), st.sampled_from([0.1, 0.3, 0.5]))
def test_regions_are_the_literal_ones(region, mask, iou):
    regions, lesions = (
        [labels == k for k in range(1, count + 1)]
        for labels, count in (ndimage.label(each, np.ones((3, 3))) for each in (region, mask))
    )
    match = np.zeros((len(regions), len(lesions)), bool)
    for i, one in enumerate(regions):
        for j, other in enumerate(lesions):
            match[i, j] = (one & other).sum() >= iou * (one | other).sum()
    right, found = match.any(axis=1).sum(), match.any(axis=0).sum()
    expected = (right, len(regions) - right, found, len(lesions) - found)
    assert regions_of(region, mask, iou) == expected


def test_a_map_lands_where_its_cells_were_on_a_padded_film():
    cells = torch.zeros(1, 4, 4)
    cells[0, 2, 1] = 1  # center at (62.5 %, 37.5 %) of the padded square
    wide = on_film(cells, (40, 80))[0].numpy()
    assert wide.shape == (40, 80)
    row, column = peak(wide)
    assert abs(row - (50 - 20)) <= 1 and abs(column - 30) <= 1
    tall = on_film(cells, (80, 40))[0].numpy()
    assert tall.shape == (80, 40)
    row, column = peak(tall)
    assert abs(row - 50) <= 1 and abs(column - (30 - 20)) <= 1


def test_stretch_uses_the_whole_range_and_flattens_constants():
    maps = torch.tensor([[[0.2, 0.4], [0.3, 0.25]], [[0.7, 0.7], [0.7, 0.7]]])
    found = stretch(maps)
    assert found[0].min() == 0 and found[0].max() == pytest.approx(1)
    assert found[0, 1, 0] == pytest.approx(0.5)
    assert (found[1] == 0).all()
    spread = maps[0].max() - maps[0].min()
    assert torch.equal(found[0], (maps[0] - maps[0].min()) / spread)
