"""Rendering on a phantom: same bytes, masks where they belong, lesions that add and stay put; the
detector: range, determinism, direction of gray, and what tells the styles apart.
"""

from dataclasses import astuple, replace
from functools import cache

import cv2
import numpy as np
import pytest
from figure_checks import assert_readable
from phantom import small_anatomy

from rctpl_utils.errors import InputError
from rctpl_utils.simulation import radiograph
from rctpl_utils.simulation.cases import Case, Lesion
from rctpl_utils.simulation.overview import contact_sheet
from rctpl_utils.simulation.radiograph import PAINTERS, STYLES, Style, develop, expose, render
from rctpl_utils.simulation.scene import Scene
from rctpl_utils.simulation.world import NAMES

MIDLINE = {"Hernia", "Enlarged Cardiomediastinum", "Cardiomegaly", "Support Devices"}
BOTH = {"COVID-19", "Edema", "Emphysema"}
LATERAL = [c for c in PAINTERS if c not in MIDLINE | BOTH]
DARKENING = {"Emphysema", "Pneumothorax"}
SIZE = 128


@pytest.fixture(scope="module")
def anatomy():
    return small_anatomy()


@pytest.fixture(scope="module")
def exposed(anatomy):
    """The exposure of one lesion, drawn once for all tests that look at it."""

    @cache
    def draw(concept, severity, seed, side=None, zone=None):
        return expose(case(Lesion(concept, side, zone, severity), seed=seed), anatomy, SIZE)

    return draw


def case(*lesions: Lesion, seed: int = 5, split: str = "test", style: str = "siim") -> Case:
    return Case("i", "p", lesions, split, style, seed)


def scene_of(case: Case, anatomy) -> Scene:
    stream = np.random.default_rng(case.seed).spawn(4)[0]
    return radiograph.set_up(case, anatomy, STYLES[case.style], SIZE, stream)


@pytest.mark.parametrize("concept", PAINTERS)
def test_same_case_same_bytes_with_a_mask(anatomy, concept):
    one = case(Lesion(concept, None, None, 0.6))
    first, second = render(one, anatomy, 64), render(one, anatomy, 64)
    assert first.pixels.tobytes() == second.pixels.tobytes()
    assert first.pixels.shape == (64, 64) and first.pixels.dtype == np.float32
    assert set(first.masks) == {concept}
    mask = first.masks[concept]
    assert mask.dtype == bool and mask.shape == (64, 64) and mask.any()
    np.testing.assert_array_equal(mask, second.masks[concept])


@pytest.mark.parametrize("concept", PAINTERS)
@pytest.mark.parametrize("severity", [0.02, 1.0])
def test_masks_are_never_empty(exposed, concept, severity):
    for exposure in (exposed(concept, severity, seed) for seed in range(4)):
        assert exposure.masks[concept].any() and np.isfinite(exposure.change).all()


@pytest.mark.parametrize("concept", PAINTERS)
def test_what_a_lesion_adds_lies_in_its_mask_and_air_removes(exposed, concept):
    """At least half of the added attenuation is inside, and almost nothing is far away."""
    inside, far = [], []
    for exposure in (exposed(concept, 0.7, seed) for seed in range(5)):
        mask = exposure.masks[concept]
        strength = np.abs(exposure.change)
        near = _grown(mask, 14)
        if concept == "Pneumothorax":  # the collapsed lung gets denser all over
            strength = np.clip(-exposure.change, 0, None)
        if concept in {"Edema", "Emphysema"}:  # diffuse: graded over the lungs
            near = near | _grown(mask, 50)
        inside.append(strength[mask].sum() / strength.sum())
        far.append(strength[~near].sum() / strength.sum())
        if concept not in {"Fracture", "Hernia"}:  # they move bone and hold air: either sign
            mean = exposure.change[mask].mean()
            assert mean < 0 if concept in DARKENING else mean > 0
    assert np.median(inside) > (0.35 if concept == "Edema" else 0.5)
    assert np.max(far) < 0.08


@pytest.mark.parametrize("concept", LATERAL)
@pytest.mark.parametrize("side", ["left", "right"])
def test_masks_are_on_the_side_of_the_lesion(anatomy, exposed, concept, side):
    for seed in range(3):
        scene = scene_of(case(Lesion(concept, side, None, 0.6), seed=seed), anatomy)
        mask = exposed(concept, 0.6, seed, side).masks[concept]
        middle = (scene.lungs["right"].hilum[0] + scene.lungs["left"].hilum[0]) / 2
        column = np.nonzero(mask)[1].mean()
        assert column > middle if side == "left" else column < middle


@pytest.mark.parametrize("concept", ["Nodule", "Consolidation", "Pneumonia", "Lung Opacity"])
def test_zones_are_honored(exposed, concept):
    def row(zone):
        masks = [exposed(concept, 0.5, s, "right", zone).masks[concept] for s in range(8)]
        return np.mean([np.nonzero(mask)[0].mean() for mask in masks])

    assert row("upper") < row("lower") - 0.12 * SIZE


def test_a_box_positions_and_sizes_a_mass_and_one_outside_moves_into_a_lung(anatomy):
    one = case(seed=3)
    lung = scene_of(one, anatomy).lungs["left"]
    row, column = np.median(np.argwhere(lung.mask & (lung.v < 0.6)), axis=0)
    box = (column / SIZE - 0.08, row / SIZE - 0.08, 0.16, 0.16)
    lesion = Lesion("Mass", None, None, 0.7, box)
    mask = expose(replace(one, lesions=(lesion,)), anatomy, SIZE).masks["Mass"]
    rows, columns = np.nonzero(mask)
    assert abs(rows.mean() - row) < 6 and abs(columns.mean() - column) < 6
    assert 0.08 < np.sqrt(mask.mean()) < 0.25
    outside = case(Lesion("Nodule", None, None, 0.7, (0.0, 0.0, 0.05, 0.05)))
    mask = expose(outside, anatomy, SIZE).masks["Nodule"]
    lung = scene_of(outside, anatomy).lungs["right"].mask
    assert (mask & lung).sum() > 0.5 * mask.sum()


@pytest.mark.parametrize(
    "concept", ["Pleural Effusion", "Consolidation", "Nodule", "Cardiomegaly", "Edema"]
)
def test_severity_grows_the_effect(exposed, concept):
    mild, middling, gross = (
        sum(np.abs(exposed(concept, severity, s, "left").change).sum() for s in range(4))
        for severity in (0.1, 0.5, 1.0)
    )
    assert mild < middling < gross


def test_an_effusion_fills_no_more_than_the_lung(anatomy):
    one = case(Lesion("Pleural Effusion", "left", None, 1.0))
    scene, exposure = scene_of(one, anatomy), expose(one, anatomy, SIZE)
    limit = 0.01937 * scene.lungs["left"].path  # all lung along the ray turned into water
    assert np.all(exposure.change <= limit + 1e-3)


def test_two_lesions_share_a_mask_and_without_one_the_patient_is_the_same(anatomy):
    both = case(Lesion("Nodule", "left", None, 0.8), Lesion("Nodule", "right", None, 0.8))
    mask = expose(both, anatomy, SIZE).masks["Nodule"]
    middle = scene_of(both, anatomy).lungs["left"].hilum[0]
    assert mask[:, int(middle) :].any() and mask[:, : int(middle)].any()
    sick = expose(case(Lesion("Nodule", "left", "upper", 0.9)), anatomy, SIZE)
    well = expose(case(), anatomy, SIZE)
    np.testing.assert_array_equal(sick.attenuation, well.attenuation)
    assert not well.change.any() and not well.masks


UNKNOWN = {
    "cannot draw 'Pneumomediastinum'": {"lesions": (Lesion("Pneumomediastinum"),)},
    "no split 'dev'": {"split": "dev"},
    "no acquisition style 'padchest'": {"style": "padchest"},
}


@pytest.mark.parametrize("message", UNKNOWN)
def test_what_is_unknown_is_refused(anatomy, message):
    with pytest.raises(InputError, match=message):
        render(replace(case(), **UNKNOWN[message]), anatomy, 64)


def test_splits_use_their_own_poses(anatomy):
    for split in ("train", "validation", "test"):
        pool = set(anatomy.pools(split)[0].tolist())
        assert {scene_of(case(split=split, seed=s), anatomy).pose for s in range(12)} <= pool


def test_the_contact_sheet_shows_every_film_without_and_with_its_outline(anatomy):
    figure = contact_sheet(anatomy, size=64, severities=(0.2, 0.9), concepts=("Mass", "Edema"))
    assert_readable(figure)
    for axis in figure.axes:
        pairs = np.split(axis.images[0].get_array(), 4, axis=1)
        for plain, marked in zip(pairs[::2], pairs[1::2], strict=True):
            assert (plain == plain[..., :1]).all() and (marked != plain).any()


_NONE = dict.fromkeys(("scatter", "noise", "sharpen", "level", "vignette"), (0, 0))
PLAIN = Style(**_NONE, blur=(0.05, 0.05), gamma=(1, 1), window=(1, 1), collimation=0, marker=0)


def ramp(size: int = 96) -> np.ndarray:
    """Attenuation from 0.7 to 5 from left to right."""
    return np.tile(np.linspace(0.7, 5, size, dtype=np.float32), (size, 1))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_seven_data_sets_have_styles_that_overlap_the_training_style_but_differ():
    assert set(STYLES) == set(NAMES) and len(set(map(astuple, STYLES.values()))) == 7
    train, mean = STYLES["mimic-cxr"], {}
    for name, style in STYLES.items():
        low, high = style.gamma
        assert max(low, train.gamma[0]) < min(high, train.gamma[1]), name
        mean[name] = np.mean([develop(ramp(64), style, rng(k)).mean() for k in range(60)])
    assert mean["chestxray14"] > mean["mimic-cxr"] + 0.01 > mean["chexpert"] + 0.02


@pytest.mark.parametrize("name", STYLES)
def test_eight_bit_grays_the_same_for_the_same_seed(name):
    image = develop(ramp(), STYLES[name], rng(3))
    assert image.dtype == np.float32 and 0 <= image.min() <= image.max() <= 1
    np.testing.assert_allclose(image * 255, np.round(image * 255), atol=1e-4)
    np.testing.assert_array_equal(image, develop(ramp(), STYLES[name], rng(3)))
    assert np.any(image != develop(ramp(), STYLES[name], rng(4)))


def test_more_attenuation_is_whiter_and_gamma_above_one_darkens():
    row = develop(ramp(), PLAIN, rng())[48]
    assert np.all(np.diff(row) >= 0) and row[0] < 0.15 and row[-1] > 0.85
    dark = replace(PLAIN, gamma=(1.5, 1.5))
    assert develop(ramp(), dark, rng()).mean() < develop(ramp(), PLAIN, rng()).mean() - 0.05


def test_scatter_lowers_contrast_and_noise_has_the_stated_size_in_the_log_signal():
    disk = np.full((96, 96), 1.2, np.float32)
    disk[:, 48:] = 4.5
    disk[40:56, 64:80] += 0.4
    veil = replace(PLAIN, scatter=(0.6, 0.6))
    films = [develop(disk, style, rng()) for style in (veil, PLAIN)]
    veiled, plain = (film[48, 72] - film[20, 72] for film in films)
    assert 0 < veiled < plain
    flat = np.full((96, 96), -np.log(0.06), np.float32)  # where the noise is the stated one
    flat[:, :8], flat[:, -8:] = 0.8, 6.0
    noisy = replace(PLAIN, noise=(0.02, 0.02))
    values = [develop(flat, noisy, rng(k))[20:76, 20:76].std() for k in range(6)]
    assert 0.5 < np.median(values) / (0.02 / 5.2) < 2.0  # the window is about 5.2 wide


@pytest.mark.parametrize(("text", "right_half"), [("L", True), ("R", False)])
def test_the_marker_is_on_its_side(text, right_half):
    marked = replace(PLAIN, marker=1.0, marker_text=(text,))
    for seed in range(6):
        # the ramp is white on the right, where an L is hardly seen
        film = ramp(128)[:, ::-1] if text == "L" else ramp(128)
        change = develop(film, marked, rng(seed)) - develop(film, PLAIN, rng(seed))
        assert change.max() > 0.1
        rows, columns = np.nonzero(change > 0.02)
        assert np.all((columns > 64) == right_half) and np.all(rows < 64)


def test_collimation_darkens_the_border_only():
    tight = replace(PLAIN, collimation=1.0)
    found = 0
    for seed in range(12):
        change = develop(ramp(), tight, rng(seed)) - develop(ramp(), PLAIN, rng(seed))
        assert np.abs(change[12:-12, 12:-12]).max() < 0.02
        found += np.abs(change).max() > 0.1
    assert found >= 8


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    kernel = np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)
    return cv2.dilate(mask.astype(np.uint8), kernel) > 0
