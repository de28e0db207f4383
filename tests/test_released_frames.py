"""Where a released model's map lies on a film."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rctpl_utils.baselines.released.base import eight_bits
from rctpl_utils.encoders.frame import Frame, on_square
from rctpl_utils.errors import InputError

SQUARE = Frame("square")
sides = st.integers(1, 40)


def test_boxes_by_hand():
    assert Frame("film").box((10, 20)) == (0, 0, 10, 20)
    assert SQUARE.box((10, 20)) == (-5, 0, 20, 20)
    assert SQUARE.box((20, 9)) == (0, -5, 20, 20)  # of a margin of 11, 5 on the left
    assert Frame("square", 0.875).box((256, 256)) == (16, 16, 224, 224)  # GLoRIA's crop
    assert Frame("short", 480 / 512).box((512, 900)) == (16, 210, 480, 480)  # BioViL's
    assert Frame("short", 0.5).box((900, 512)) == (322, 128, 256, 256)


@given(height=sides, width=sides, cells=st.integers(1, 9))
def test_what_the_model_did_not_see_has_the_minimum(height, width, cells):
    maps = torch.tensor([[[-3.0, -1.0], [-2.0, -4.0]]])
    found = on_square(maps, (height, width), Frame("short", 0.5), cells)[0]
    top, left, tall, wide = Frame("short", 0.5).box((height, width))
    above, before, side, _ = SQUARE.box((height, width))
    for row, column in np.ndindex(cells, cells):
        y, x = above + (row + 0.5) / cells * side, before + (column + 0.5) / cells * side
        clear = 1e-3 * side
        if not (
            top - clear <= y <= top + tall + clear and left - clear <= x <= left + wide + clear
        ):
            assert found[row, column] == -4


@given(height=sides, width=sides)
def test_maps_of_the_padded_square_stay_as_they_are(height, width):
    maps = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(on_square(maps, (height, width), SQUARE, 5), maps, atol=1e-5)


def test_other_frames_are_set_into_the_square_by_hand():
    maps = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    # a film of 4 x 8 covers the middle rows of its square; each of 2 x 2 cells 2 x 4 pixels
    wanted = torch.tensor(
        [[1.0, 1.0, 1.0, 1.0], [1.0, 1.25, 1.75, 2.0], [3.0, 3.25, 3.75, 4.0], [1.0, 1.0, 1.0, 1.0]]
    )
    assert torch.allclose(on_square(maps, (4, 8), Frame("film"), 4)[0], wanted)
    # the square on the shorter side is 4 x 4 pixels in the middle: exactly the 2 x 2 middle cells
    wanted = torch.ones(4, 4)
    wanted[1:3, 1:3] = maps[0]
    assert torch.allclose(on_square(maps, (4, 8), Frame("short"), 4)[0], wanted)


def test_levels_are_rounded_and_other_pixels_refused():
    assert eight_bits(np.array([[0, 0.5, 0.999, 1]])).tolist() == [[0, 128, 255, 255]]
    for pixels in (np.full((2, 2), 2.0), np.zeros((2, 2, 3)), np.zeros((0, 3))):
        with pytest.raises(InputError, match=r"\[0, 1\]"):
            eight_bits(pixels)
