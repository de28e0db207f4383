"""Which maps are compared in which box, what counts as a hit, and which films are shown."""

from itertools import compress, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from scipy.stats import spearmanr
from toy_films import masks_of

from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.encoders.base import state_hash
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation import prompt_maps
from rctpl_utils.evaluation.prompt_maps import Boxed, Case, concept_pairs, film_pairs, hits
from rctpl_utils.reporting import map_figures
from rctpl_utils.reporting.method_figures import region, side_of

CONCEPTS = ("Edema", "Mass", "Nodule")
boxes = arrays.arrays(bool, st.tuples(st.integers(1, 8), st.integers(1, 4)))


def made(drawn, images, masks=None, path="unread.png") -> Boxed:
    """A split whose masks are given a concept, the same for all its films."""
    records = pd.DataFrame({"image_id": images, "patient_id": images, "path": path})
    of = {
        name: masks_of(compress(images, column), lambda *_, name=name: masks[name])
        for name, column in drawn.items()
    }
    return Boxed.of(ChestXrayDataset("made", "test", CONCEPTS, records, masks=of))


@pytest.fixture
def film(tmp_path: Path) -> str:
    """A film's file; the masks of these tests do not depend on it."""
    Image.new("L", (8, 8)).save(tmp_path / "film.png")
    return str(tmp_path / "film.png")


def test_boxed_films_are_in_the_order_of_their_identifiers_and_none_is_refused():
    boxed = made({"Mass": [True, False, True], "Nodule": [False, False, True]}, ["c", "b", "a"])
    assert boxed.rows.tolist() == [2, 0]
    assert boxed.concepts == ("Mass", "Nodule")
    assert boxed.drawn.tolist() == [[True, True], [True, False]]
    assert boxed.patients.tolist() == ["a", "c"]
    with pytest.raises(InputError, match="has a box"):
        made({}, ["a"])


def test_film_pairs_by_hand():
    """Films 0 and 1 are of one patient, so both look at film 3; film 3 looks at film 0."""
    cases = film_pairs(np.array([[True], [True], [False], [True]]), pd.Series(list("ppqr")))
    assert [(case.film, case.other_film) for case in cases] == [(0, 3), (1, 3), (3, 0)]


@given(boxes)
def test_concept_pairs_are_all_ordered_pairs_of_one_film(drawn):
    cases = concept_pairs(drawn)
    counts = drawn.sum(axis=1)
    assert len(set(cases)) == len(cases) == (counts * (counts - 1)).sum()
    for case in cases:
        assert case.film == case.other_film and case.concept != case.other_concept
        assert drawn[case.film, case.concept] and drawn[case.film, case.other_concept]


@given(boxes, st.data())
def test_film_pairs_show_the_concept_in_another_patient(drawn, data):
    numbers = st.lists(st.integers(0, 2), min_size=len(drawn), max_size=len(drawn))
    patients = pd.Series(data.draw(numbers))
    cases = film_pairs(drawn, patients)
    for case in cases:
        assert case.concept == case.other_concept
        assert drawn[case.film, case.concept] and drawn[case.other_film, case.concept]
        assert patients[case.film] != patients[case.other_film]
    several = [patients[column].nunique() > 1 for column in drawn.T]
    assert len(cases) == drawn[:, several].sum()  # each box once where there is a second patient


def test_hits_by_hand(film):
    """Mass lies top left, nodule bottom right; the maps of run 0 know it, those of run 1 do not."""
    corner = np.kron([[1, 0], [0, 0]], np.ones((4, 4))).astype(bool)
    masks = {"Mass": corner, "Nodule": corner[::-1, ::-1]}
    boxed = made({"Mass": [True], "Nodule": [True]}, ["a"], masks, film)
    top, bottom = torch.tensor([[1.0, 0.0], [0.0, 0.2]]), torch.tensor([[0.0, 0.3], [0.1, 0.9]])
    runs = torch.stack([torch.stack([top, bottom]), torch.full((2, 2, 2), 0.5)])[:, None]
    own, other = hits(boxed, concept_pairs(boxed.drawn), runs)
    assert own.tolist() == [[True, True], [False, False]]  # a constant map never hits
    assert other.tolist() == [[False, False], [False, False]]


def test_a_map_covers_the_padded_square(film):
    """A film of 4 x 8 pixels: of 4 x 4 cells over the square, rows 1 and 2 lie on the film."""
    mask = np.zeros((4, 8), bool)
    mask[0, :2] = True
    Image.new("L", (8, 4)).save(film)
    boxed = made({"Mass": [True, True]}, ["a", "b"], {"Mass": mask}, film)
    cells = torch.zeros(1, 2, 1, 4, 4)
    cells[0, 0, 0, 1, 0] = 1  # pixels 0 and 1 of the film's 4 rows
    cells[0, 1, 0, 2, 0] = 1  # pixels 2 and 3
    assert [found.tolist() for found in hits(boxed, [Case(0, 0, 1, 0)], cells)] == [[[1]], [[0]]]


def test_differences_are_paired():
    draws = {}
    for name, pair in product(prompt_maps.NAMES.values(), prompt_maps.COMPARISONS.items()):
        for gain, kind in zip((0, 0.25), pair, strict=True):  # the other map, the own map
            key = (prompt_maps.DATASET, f"{name}, {kind}", "pointing_game")
            draws[key] = np.linspace(0.1, 0.5, 101) + gain
    table = prompt_maps.map_differences(draws)
    assert len(table) == 4
    np.testing.assert_allclose(table[["value", "ci_low", "ci_high"]], 0.25)
    np.testing.assert_allclose(table["p_value"], 2 / 101)


def test_the_films_of_figures_5_and_6_and_of_the_sample_follow_their_rules():
    drawn = {"Edema": [True, True, True], "Mass": [False, True, True], "Nodule": [False, False, 1]}
    boxed = made(drawn, ["b", "c", "a"])  # in order of identifiers: a (3), b (1), c (2 concepts)
    assert map_figures.most_boxed_films(boxed, 2) == [0, 2]
    assert map_figures.first_films(boxed, 0, 2) == [0, 1]
    assert map_figures.first_films(boxed, 1, 5) == [0, 2]
    assert map_figures.second_concept(boxed) == "Edema"
    equals = made({"Mass": [True, True, True]}, ["b", "c", "a"])
    assert map_figures.most_boxed_films(equals, 2) == [0, 1], "in order of identifiers"
    # the sample is spread evenly
    boxed = made({"Edema": [False] * 4 + [True] * 5, "Mass": [True] * 9}, list("abcdefghi"))
    films, concepts = prompt_maps.sample_boxes(boxed, 3)
    assert films.tolist() == [0, 4, 8]
    assert [boxed.concepts[k] for k in concepts] == ["Mass", "Edema", "Edema"]
    assert len(prompt_maps.sample_boxes(boxed, 100)[0]) == 9


FEW = st.integers(0, 4).map(float)  # so that there are ties and constant maps


@given(arrays.arrays(float, (2, 3, 5), elements=FEW))
def test_rank_correlation_is_scipys(pair):
    for first, second, value in zip(*pair, prompt_maps.rank_correlation(*pair), strict=True):
        varied = np.ptp(first) > 0 and np.ptp(second) > 0
        assert value == pytest.approx(spearmanr(first, second).statistic if varied else 0)


def test_the_cascade_randomizes_from_the_last_layer_to_the_first(encoder):
    before = state_hash(encoder)
    generator = torch.random.get_rng_state()
    own, done = prompt_maps.blocks(encoder.image_module), []
    for name, changed in prompt_maps.cascade(encoder, seed=0):
        done.append(name)
        theirs = prompt_maps.blocks(changed.image_module)
        differ = [each for each in own if state_hash(own[each]) != state_hash(theirs[each])]
        assert sorted(differ) == sorted(done)
        assert state_hash(changed.text) == state_hash(encoder.text)
    assert done == ["projection", "widen", "stages.2", "stages.1", "stages.0", "stem"]
    assert state_hash(encoder) == before
    assert torch.equal(torch.random.get_rng_state(), generator)


def test_a_region_is_the_part_around_the_peak():
    heat = np.zeros((6, 8))
    heat[1:4, 1:4] = 0.9
    wanted = heat > 0
    heat[2, 2] = 0.1  # a hole
    heat[1, 1] = 1.0
    heat[5, 7] = 0.95  # as high, but elsewhere
    assert np.array_equal(region(heat), wanted)
    assert side_of(heat) == "right"  # the left half of a film is the patient's right
    assert side_of(heat[:, ::-1]) == "left"


@pytest.mark.parametrize(("own", "said"), [(0.6, "passes"), (0.3, "FAILS")])
def test_a_map_passes_where_its_own_name_points_better_than_other_words(own, said):
    noise = np.random.default_rng(0).normal(0, 0.02, 200)
    values = {prompt_maps.UNCHANGED: own, prompt_maps.SHUFFLED: 0.25, prompt_maps.NO_WORD: 0.3}
    draws = {
        ("Grad-CAM", "prompt", change, "pointing_game"): np.r_[value, value + noise[::sign]]
        for sign, (change, value) in zip((1, -1, -1), values.items(), strict=True)
    }
    found = prompt_maps.verdict("Grad-CAM", draws)
    assert found.startswith(f"Grad-CAM {said}:") and f"{own:.2f} of the boxes" in found
