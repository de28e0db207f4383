"""The detector: range, determinism, direction of gray, and what tells the styles apart."""

import dataclasses

import numpy as np
import pytest

from rctpl_utils.errors import InputError
from rctpl_utils.simulation.styles import STYLES, Style, develop, get_style

_NONE = dict.fromkeys(("scatter", "noise", "sharpen", "level", "vignette"), (0, 0))
PLAIN = Style(**_NONE, blur=(0.05, 0.05), gamma=(1, 1), window=(1, 1), collimation=0, marker=0)


def ramp(size: int = 96) -> np.ndarray:
    """Attenuation from 0.7 to 5 from left to right."""
    return np.tile(np.linspace(0.7, 5, size, dtype=np.float32), (size, 1))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_seven_data_sets_have_a_style():
    names = {"mimic-cxr", "chestxray14", "chexpert", "covidx", "rsna", "siim", "covid-rural"}
    assert set(STYLES) == names
    assert len({dataclasses.astuple(style) for style in STYLES.values()}) == 7


def test_an_unknown_style_is_refused():
    with pytest.raises(InputError, match="no acquisition style 'padchest'"):
        get_style("padchest")


@pytest.mark.parametrize("name", STYLES)
def test_eight_bit_grays_the_same_for_the_same_seed(name):
    image = develop(ramp(), STYLES[name], rng(3))
    assert image.dtype == np.float32 and 0 <= image.min() <= image.max() <= 1
    np.testing.assert_allclose(image * 255, np.round(image * 255), atol=1e-4)
    np.testing.assert_array_equal(image, develop(ramp(), STYLES[name], rng(3)))
    assert np.any(image != develop(ramp(), STYLES[name], rng(4)))


def test_more_attenuation_is_whiter():
    row = develop(ramp(), PLAIN, rng())[48]
    assert np.all(np.diff(row) >= 0) and row[0] < 0.15 and row[-1] > 0.85


def test_gamma_above_one_darkens():
    dark = dataclasses.replace(PLAIN, gamma=(1.5, 1.5))
    assert develop(ramp(), dark, rng()).mean() < develop(ramp(), PLAIN, rng()).mean() - 0.05


def test_scatter_lowers_contrast():
    disk = np.full((96, 96), 1.2, np.float32)
    disk[:, 48:] = 4.5
    disk[40:56, 64:80] += 0.4
    veil = dataclasses.replace(PLAIN, scatter=(0.6, 0.6))
    films = [develop(disk, style, rng()) for style in (veil, PLAIN)]
    veiled, plain = (film[48, 72] - film[20, 72] for film in films)
    assert 0 < veiled < plain


def test_noise_has_the_stated_size_in_the_log_signal():
    flat = np.full((96, 96), -np.log(0.06), np.float32)  # where the noise is the stated one
    flat[:, :8], flat[:, -8:] = 0.8, 6.0
    noisy = dataclasses.replace(PLAIN, noise=(0.02, 0.02))
    values = [develop(flat, noisy, rng(k))[20:76, 20:76].std() for k in range(6)]
    assert 0.5 < np.median(values) / (0.02 / 5.2) < 2.0  # the window is about 5.2 wide


@pytest.mark.parametrize(("text", "right_half"), [("L", True), ("R", False)])
def test_the_marker_is_on_its_side(text, right_half):
    marked = dataclasses.replace(PLAIN, marker=1.0, marker_text=(text,))
    for seed in range(6):
        # the ramp is white on the right, where an L is hardly seen
        film = ramp(128)[:, ::-1] if text == "L" else ramp(128)
        change = develop(film, marked, rng(seed)) - develop(film, PLAIN, rng(seed))
        assert change.max() > 0.1
        rows, columns = np.nonzero(change > 0.02)
        assert np.all((columns > 64) == right_half) and np.all(rows < 64)


def test_collimation_darkens_the_border_only():
    tight = dataclasses.replace(PLAIN, collimation=1.0)
    found = 0
    for seed in range(12):
        change = develop(ramp(), tight, rng(seed)) - develop(ramp(), PLAIN, rng(seed))
        assert np.abs(change[12:-12, 12:-12]).max() < 0.02
        found += np.abs(change).max() > 0.1
    assert found >= 8


def test_test_styles_overlap_the_training_style_but_differ():
    train, mean = STYLES["mimic-cxr"], {}
    for name, style in STYLES.items():
        low, high = style.gamma
        assert max(low, train.gamma[0]) < min(high, train.gamma[1]), name
        mean[name] = np.mean([develop(ramp(64), style, rng(k)).mean() for k in range(60)])
    assert mean["chestxray14"] > mean["mimic-cxr"] + 0.01 > mean["chexpert"] + 0.02
