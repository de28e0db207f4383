"""Which maps are compared in which box, what counts as a hit, and which films are shown."""

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

from rctpl_utils.datasets.base import ChestXrayDataset, TableMasks
from rctpl_utils.encoders.base import state_hash
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.prompt_maps import (
    COMPARISONS,
    DATASET,
    NAMES,
    Boxed,
    Case,
    blocks,
    cascade,
    concept_pairs,
    film_pairs,
    hits,
    map_differences,
    rank_correlation,
    sample_boxes,
)
from rctpl_utils.reporting.map_figures import first_films, most_boxed_films, second_concept
from rctpl_utils.reporting.method_figures import region, side_of

CONCEPTS = ("Edema", "Mass", "Nodule")
boxes = st.tuples(st.integers(1, 8), st.integers(1, 4)).flatmap(
    lambda shape: arrays.arrays(bool, shape)
)


def made(
    drawn: dict[str, list[bool]],
    images: list[str],
    masks: dict[str, np.ndarray] | None = None,
    path: str = "unread.png",
) -> Boxed:
    """A split whose masks are given a concept, the same for all its films."""
    records = pd.DataFrame({"image_id": images, "patient_id": images, "path": path})

    def draw(name: str, _size: tuple[int, int], **_place: object) -> np.ndarray:
        return masks[name]

    of = {}
    for name, column in drawn.items():
        shown = records["image_id"][np.array(column, bool)]
        of[name] = TableMasks(Path("made.csv"), shown, pd.Series(name, shown.index), draw)
    split = ChestXrayDataset("made", "test", CONCEPTS, records, masks=of)
    return Boxed.of(split)


@pytest.fixture
def film(tmp_path: Path) -> str:
    """The file of a film of 8 x 8 pixels."""
    path = tmp_path / "film.png"
    Image.new("L", (8, 8)).save(path)
    return str(path)


def test_boxed_films_are_in_the_order_of_their_identifiers():
    boxed = made({"Mass": [True, False, True], "Nodule": [False, False, True]}, ["c", "b", "a"])
    assert boxed.rows.tolist() == [2, 0]
    assert boxed.concepts == ("Mass", "Nodule")
    assert boxed.drawn.tolist() == [[True, True], [True, False]]
    assert boxed.patients.tolist() == ["a", "c"]


def test_a_split_without_boxes_is_refused():
    with pytest.raises(InputError, match="has a box"):
        made({}, ["a"])


def test_concept_pairs_by_hand():
    drawn = np.array([[True, False, True], [False, True, False]])
    assert concept_pairs(drawn) == [Case(0, 0, 0, 2), Case(0, 2, 0, 0)]


def test_film_pairs_by_hand():
    """Films 0 and 1 are of one patient, so both look at film 3; film 3 looks at film 0."""
    drawn = np.array([[True], [True], [False], [True]])
    cases = film_pairs(drawn, pd.Series(["p", "p", "q", "r"]))
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
    masks = {"Mass": np.zeros((8, 8), bool), "Nodule": np.zeros((8, 8), bool)}
    masks["Mass"][:4, :4] = masks["Nodule"][4:, 4:] = True
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
    own, other = hits(boxed, [Case(0, 0, 1, 0)], cells)
    assert own.tolist() == [[True]] and other.tolist() == [[False]]


def test_differences_are_paired():
    draws = {}
    for name in NAMES.values():
        for other, own in COMPARISONS.items():
            base = np.linspace(0.1, 0.5, 101)
            draws[DATASET, f"{name}, {other}", "pointing_game"] = base
            draws[DATASET, f"{name}, {own}", "pointing_game"] = base + 0.25
    table = map_differences(draws)
    assert len(table) == 4
    np.testing.assert_allclose(table[["value", "ci_low", "ci_high"]], 0.25)
    np.testing.assert_allclose(table["p_value"], 2 / 101)


def test_the_films_of_figures_5_and_6_follow_their_rules():
    drawn = {"Edema": [True, True, True], "Mass": [False, True, True], "Nodule": [False, False, 1]}
    boxed = made(drawn, ["b", "c", "a"])  # in order of identifiers: a (3), b (1), c (2 concepts)
    assert most_boxed_films(boxed, 2) == [0, 2]
    assert first_films(boxed, 0, 2) == [0, 1]
    assert first_films(boxed, 1, 5) == [0, 2]
    assert second_concept(boxed) == "Edema"


def test_equally_boxed_films_come_in_order_of_identifiers():
    boxed = made({"Mass": [True, True, True]}, ["b", "c", "a"])
    assert most_boxed_films(boxed, 2) == [0, 1]


def test_the_sample_is_spread_evenly():
    boxed = made({"Edema": [False] * 4 + [True] * 5, "Mass": [True] * 9}, list("abcdefghi"))
    films, concepts = sample_boxes(boxed, 3)
    assert films.tolist() == [0, 4, 8]
    assert [boxed.concepts[k] for k in concepts] == ["Mass", "Edema", "Edema"]
    assert len(sample_boxes(boxed, 100)[0]) == 9


@given(
    arrays.arrays(float, (2, 3, 5), elements=st.integers(0, 4).map(float))
)  # few values, so that there are ties and constant maps
def test_rank_correlation_is_scipys(pair):
    got = rank_correlation(pair[0], pair[1])
    for first, second, value in zip(*pair, got, strict=True):
        if np.ptp(first) == 0 or np.ptp(second) == 0:
            assert value == 0
        else:
            assert value == pytest.approx(spearmanr(first, second).statistic)


def test_the_cascade_randomizes_from_the_last_layer_to_the_first(encoder):
    before = state_hash(encoder)
    generator = torch.random.get_rng_state()
    order = ["projection", "widen", "stages.2", "stages.1", "stages.0", "stem"]
    own, done = blocks(encoder.image_module), []
    for name, changed in cascade(encoder, seed=0):
        done.append(name)
        theirs = blocks(changed.image_module)
        differ = [each for each in own if state_hash(own[each]) != state_hash(theirs[each])]
        assert sorted(differ) == sorted(done)
        assert state_hash(changed.text) == state_hash(encoder.text)
    assert done == order
    assert state_hash(encoder) == before
    assert torch.equal(torch.random.get_rng_state(), generator)


def test_a_region_is_the_part_around_the_peak():
    heat = np.zeros((6, 8))
    heat[1:4, 1:4] = 0.9
    heat[2, 2] = 0.1  # a hole
    heat[1, 1] = 1.0
    heat[5, 7] = 0.95  # as high, but elsewhere
    wanted = np.zeros((6, 8), bool)
    wanted[1:4, 1:4] = True
    assert np.array_equal(region(heat), wanted)
    assert side_of(heat) == "right"  # the left half of a film is the patient's right
    assert side_of(heat[:, ::-1]) == "left"
