"""Which part of a film a model's map covers, and where the map lies on the film."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from released import CASES, loaded
from torch.nn import functional

from rctpl_utils.encoders.frame import SQUARE, Frame, frame_of, on_film, on_square
from rctpl_utils.evaluation.grounding_metrics import peak
from rctpl_utils.prompts.model import RCTPL
from rctpl_utils.prompts.prompts import Prompts

PADDED = Frame("square")
sides = st.integers(1, 40)


def test_boxes_by_hand():
    assert Frame("film").box((10, 20)) == (0, 0, 10, 20)
    assert PADDED.box((10, 20)) == (-5, 0, 20, 20)
    assert PADDED.box((20, 9)) == (0, -5, 20, 20)  # of a margin of 11, 5 on the left
    assert Frame("square", 0.875).box((256, 256)) == (16, 16, 224, 224)  # GLoRIA's crop
    assert Frame("short", 480 / 512).box((512, 900)) == (16, 210, 480, 480)  # BioViL's
    assert Frame("short", 0.5).box((900, 512)) == (322, 128, 256, 256)


@given(height=sides, width=sides, cells=st.integers(1, 9))
def test_what_the_model_did_not_see_has_the_minimum(height, width, cells):
    maps = torch.tensor([[[-3.0, -1.0], [-2.0, -4.0]]])
    found = on_square(maps, (height, width), Frame("short", 0.5), cells)[0]
    top, left, tall, wide = Frame("short", 0.5).box((height, width))
    above, before, side, _ = PADDED.box((height, width))
    clear = 1e-3 * side
    for row, column in np.ndindex(cells, cells):
        y, x = above + (row + 0.5) / cells * side, before + (column + 0.5) / cells * side
        within = top - clear <= y <= top + tall + clear and left - clear <= x <= left + wide + clear
        assert within or found[row, column] == -4


@given(height=sides, width=sides)
def test_maps_of_the_padded_square_stay_as_they_are(height, width):
    maps = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(on_square(maps, (height, width), PADDED, 5), maps, atol=1e-5)
    assert on_square(maps, (height, width), None) is maps  # an encoder without a frame


def test_other_frames_are_set_into_the_square_by_hand():
    maps = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    # a film of 4 x 8 covers the middle rows of its square; each of 2 x 2 cells 2 x 4 pixels
    film = [[1, 1, 1, 1], [1, 1.25, 1.75, 2], [3, 3.25, 3.75, 4], [1, 1, 1, 1]]
    # the square on the shorter side is 4 x 4 pixels in the middle: exactly the 2 x 2 middle cells
    short = [[1, 1, 1, 1], [1, 1, 2, 1], [1, 3, 4, 1], [1, 1, 1, 1]]
    for shape, wanted in (("film", film), ("short", short)):
        found = on_square(maps, (4, 8), Frame(shape), 4)[0]
        assert torch.allclose(found, torch.tensor(wanted, dtype=torch.float32))


# BioViL sees 15/16 of the shorter side


@pytest.fixture(scope="module")
def biovil(tmp_path_factory):
    return loaded(CASES["biovil"], tmp_path_factory).model


lengths, shares = st.integers(150, 500), st.floats(0.12, 0.88)


@given(size=st.tuples(lengths, lengths), place=st.tuples(shares, shares))
@settings(max_examples=15)
def test_a_cell_lands_on_the_film_where_its_pixels_came_from(biovil, size, place):
    (height, width), short = size, min(size)
    # a bright spot at a share of the crop, 15/16 of the shorter side around the film's center
    row, column = np.array(size) / 2 + (np.array(place) - 0.5) * 15 / 16 * short
    down, across = np.mgrid[:height, :width] + 0.5
    spot = np.exp(-((down - row) ** 2 + (across - column) ** 2) / (2 * (short / 20) ** 2))
    seen = biovil.preprocess(spot.astype(np.float32))  # (1, 480, 480), resized and cropped
    cells = functional.avg_pool2d(seen[None], 32)[0]  # (1, 15, 15), as the ResNet's strides do
    found = peak(on_film(on_square(cells, size, frame_of(biovil)), size)[0].numpy())
    cell = 15 / 16 * short / 15
    assert abs(found[0] + 0.5 - row) < 0.75 * cell and abs(found[1] + 0.5 - column) < 0.75 * cell


def test_outside_the_crop_a_map_has_its_minimum(biovil):
    cells = 1 + torch.rand(1, 15, 15, generator=torch.Generator().manual_seed(0))
    heat = on_film(on_square(cells, (400, 800), frame_of(biovil)), (400, 800))[0]
    side = 400 * 15 / 16
    assert frame_of(biovil) == Frame("short", 15 / 16)
    inside = np.flatnonzero((heat[200] > cells.min() + 1e-6).numpy())
    assert inside[[0, -1]] == pytest.approx([400 - side / 2, 400 + side / 2], abs=8)
    assert torch.equal(heat[:, :190], torch.full((400, 190), float(cells.min())))


def test_the_whole_model_grounds_on_the_padded_film(biovil):
    films = [np.random.default_rng(k).random(size) for k, size in enumerate(((60, 90), (80, 50)))]
    prompts = Prompts(torch.zeros(2, 768), torch.ones(2, 768), {"text_key": biovil.text_key})
    maps = RCTPL(biovil, prompts).ground(films, "Edema")
    assert maps.shape == (2, SQUARE, SQUARE)
    middle = slice(SQUARE // 2 - 30, SQUARE // 2 + 30)
    for film, found in zip(films, maps, strict=True):
        # the strips beside the crop along the longer side are the minimum, the middle is not
        edge = found[:, :18] if film.shape[0] < film.shape[1] else found[:18]
        assert np.ptp(edge) == 0 and edge.min() == found.min()
        assert np.ptp(found[middle, middle]) > 0
