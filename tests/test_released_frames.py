"""Where a released model's map lies on a film."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rctpl_utils import heat_maps
from rctpl_utils.baselines.released.base import Frame, eight_bits, on_film, on_square
from rctpl_utils.errors import InputError

SQUARE = Frame("square")
sides = st.integers(1, 40)


@given(height=sides, width=sides, cells=st.integers(1, 6))
def test_the_padded_square_is_placed_as_for_the_encoders(height, width, cells):
    maps = torch.randn(2, cells, cells, generator=torch.Generator().manual_seed(0))
    wanted = heat_maps.on_film(maps, (height, width))
    assert torch.allclose(on_film(maps, SQUARE, (height, width)), wanted, atol=1e-4)


@given(height=sides, width=sides)
def test_a_stretched_film_is_covered_whole(height, width):
    maps = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    wanted = torch.nn.functional.interpolate(
        maps[None], size=(height, width), mode="bilinear", align_corners=False
    )[0]
    assert torch.allclose(on_film(maps, Frame("film"), (height, width)), wanted, atol=1e-4)


def test_boxes_by_hand():
    assert Frame("film").box((10, 20)) == (0, 0, 10, 20)
    assert SQUARE.box((10, 20)) == (-5, 0, 20, 20)
    assert SQUARE.box((20, 9)) == (0, -5, 20, 20)  # of a margin of 11, 5 on the left
    assert Frame("square", 0.875).box((256, 256)) == (16, 16, 224, 224)  # GLoRIA's crop
    assert Frame("short", 480 / 512).box((512, 900)) == (16, 210, 480, 480)  # BioViL's
    assert Frame("short", 0.5).box((900, 512)) == (322, 128, 256, 256)


def test_what_the_model_did_not_see_is_never_the_peak():
    maps = torch.tensor([[[-3.0, -1.0], [-2.0, -4.0]]])
    found = on_film(maps, Frame("short", 0.5), (8, 16))[0]
    assert torch.equal(found[2:6, 6:10], on_film(maps, Frame("film"), (4, 4))[0])
    outside = torch.ones(8, 16, dtype=torch.bool)
    outside[2:6, 6:10] = False
    assert (found[outside] == -4).all()
    row, column = heat_maps.peak(found.numpy())
    assert 2 <= row < 6 and 6 <= column < 10


@given(height=sides, width=sides)
def test_maps_of_the_padded_square_stay_as_they_are(height, width):
    maps = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(on_square(maps, SQUARE, (height, width), 5), maps, atol=1e-5)


def test_other_frames_are_set_into_the_square_by_hand():
    maps = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    # a film of 4 x 8 covers the middle rows of its square; each of 2 x 2 cells 2 x 4 pixels
    wanted = torch.tensor(
        [[1.0, 1.0, 1.0, 1.0], [1.0, 1.25, 1.75, 2.0], [3.0, 3.25, 3.75, 4.0], [1.0, 1.0, 1.0, 1.0]]
    )
    assert torch.allclose(on_square(maps, Frame("film"), (4, 8), 4)[0], wanted)
    # the square on the shorter side is 4 x 4 pixels in the middle: exactly the 2 x 2 middle cells
    wanted = torch.ones(4, 4)
    wanted[1:3, 1:3] = maps[0]
    assert torch.allclose(on_square(maps, Frame("short"), (4, 8), 4)[0], wanted)


def test_levels_are_rounded_and_other_pixels_refused():
    assert eight_bits(np.array([[0, 0.5, 0.999, 1]])).tolist() == [[0, 128, 255, 255]]
    for pixels in (np.full((2, 2), 2.0), np.zeros((2, 2, 3)), np.zeros((0, 3))):
        with pytest.raises(InputError, match=r"\[0, 1\]"):
            eight_bits(pixels)
