"""What is drawn, for whom, and where: test sets, training studies and their sources."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from rctpl_utils.datasets.masks import decode_runs
from rctpl_utils.datasets.openi import MeshFinding, OpenIReport
from rctpl_utils.datasets.tables import hash_split
from rctpl_utils.errors import InputError
from rctpl_utils.profiles import PROFILES
from rctpl_utils.simulation import cases, films
from rctpl_utils.simulation.films import FIVE, SETS, cases_of, real_studies
from rctpl_utils.vocabulary import CHESTXRAY14_CONCEPTS, CHEXPERT_CONCEPTS, TRAINING_CONCEPTS

SIZE = PROFILES["smoke"].world
PLATE = ("Atelectasis", "left", "lower")


@pytest.fixture(scope="module")
def sets():
    return {name: cases_of(name, SIZE) for name in SETS}


@pytest.fixture(scope="module")
def training():
    return films.training_films(SIZE)


def test_seeds_repeat_no_patient_is_on_two_sides_and_no_identifier_comes_twice(sets, training):
    for drawn in [*sets.values(), [case for _, case in training]]:
        splits = {(case.patient_id, case.split) for case in drawn}
        assert len(splits) == len({patient for patient, _ in splits})
        assert len({case.image_id for case in drawn}) == len(drawn)
    assert {name: cases_of(name, SIZE) for name in SETS} == sets
    assert cases_of("covidx", replace(SIZE, seed=1)) != sets["covidx"]


@pytest.mark.parametrize("name", SETS)
def test_every_set_has_validation_and_test_films_and_lesions_within_bounds(sets, name):
    assert {case.split for case in sets[name]} == {"validation", "test"}
    for lesion in (lesion for case in sets[name] for lesion in case.lesions):
        assert 0 < lesion.severity <= 1
        if lesion.box:
            x, y, width, height = lesion.box
            assert 0 <= x < 1 and 0 <= y < 1 and width > 0 and height > 0
            assert x + width <= 1.01 and y + height <= 1.01


def test_only_labels_of_the_set_are_drawn_and_rare_ones_reach_their_quota(sets):
    # the one with a quota comes last
    for name, known in (("chexpert", CHEXPERT_CONCEPTS), ("chestxray14", CHESTXRAY14_CONCEPTS)):
        test = [case for case in sets[name] if case.split == "test"]
        counts = Counter(concept for case in test for concept in case.concepts)
        assert set(counts) <= set(known)
    assert len(test) == 240 and min(counts[c] for c in CHESTXRAY14_CONCEPTS) >= 8  # a thirtieth


def test_chexpert_5x200_is_what_the_rule_finds(sets):
    """Lowest patients of train.csv with exactly one of the five: apart from validation."""
    train = [c for c in sets["chexpert"] if "/train/" in c.image_id]
    five = [c for c in train if c.split == "test"]
    assert all(len(c.concepts & set(FIVE)) == 1 for c in five)
    assert Counter(next(iter(c.concepts & set(FIVE))) for c in five) == dict.fromkeys(FIVE, 10)
    last = max(c.patient_id for c in five)
    assert all(c.patient_id > last for c in train if c.split == "validation")


@pytest.mark.parametrize("name", ["rsna", "siim", "covid-rural"])
def test_hashed_sets_agree_with_the_loaders_split(sets, name):
    splits = hash_split([case.patient_id for case in sets[name]])
    assert [case.split for case in sets[name]] == list(splits)


def test_rsna_negatives_show_nothing_that_looks_like_pneumonia(sets):
    for case in sets["rsna"]:
        if "Pneumonia" not in case.concepts:
            assert not case.concepts & set(films.OPACITIES)
        else:
            assert all(lesion.box for lesion in case.lesions if lesion.concept == "Pneumonia")


def test_covid19_is_in_test_sets_only_and_a_training_report_of_it_refused(sets, training):
    assert any("COVID-19" in case.concepts for case in sets["covidx"])
    for study, case in training:
        assert "COVID-19" not in study.concepts | case.concepts
        assert "covid" not in str(study.report).lower()
    report = OpenIReport("CXR1", "Findings of COVID-19.", "", "", "", ("normal",))
    with pytest.raises(InputError, match="must stay unseen"):
        real_studies([report])


@pytest.mark.parametrize(
    ("findings", "indication", "code", "reason"),
    [
        ("", "Pain.", "normal", "no findings and no impression"),
        ("Clear.", "", "No Indexing", "not coded"),
        ("It.", "", "Fractures, Bone/clavicle/left", "a fracture elsewhere than at the ribs"),
        ("It.", "", "Fractures, Bone/ribs/left", ""),
        ("Clear.", "", "normal", ""),
    ],
)
def test_reports_that_cannot_be_drawn_are_left_out(findings, indication, code, reason):
    report = OpenIReport("CXR1", findings, "", indication, "", (code,))
    found = cases.why_left_out(report)
    assert reason in found if reason else found is None
    assert len(real_studies([report])) == (not reason)


def test_training_films_show_what_the_report_says_and_templates_fill_up_and_are_marked(training):
    for study, case in training:
        said = [(f.concept, f.side, f.zone) for f in study.reported]
        assert [(x.concept, x.side, x.zone) for x in case.lesions] == said
        for lesion in case.lesions:
            center = lesion.box[0] + lesion.box[2] / 2 if lesion.box else None
            if center is not None and lesion.side:  # a box is jittered by a tenth of itself
                assert center < 0.55 if lesion.side == "right" else center > 0.45
    studies = {study.study_id: study for study, _ in training}.values()
    train = [study for study in studies if study.split == "train"]
    counts = Counter(concept for study in train for concept in study.concepts)
    assert min(counts[concept] for concept in TRAINING_CONCEPTS) >= 7  # of 80 in all reports
    made = [study for study in studies if study.templated]
    assert made and all(study.patient_id.startswith("p99") for study in made)
    assert all(study.split != "test" for study in made)
    assert len(training) == pytest.approx(SIZE.pretraining, rel=0.1)


def test_splits_have_their_shares():
    counts = Counter(cases.split_of(f"p{n}", films.SHARES) for n in range(5000))
    assert counts["train"] / 5000 == pytest.approx(0.8, abs=0.02)
    assert counts["test"] / 5000 == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    ("findings", "kept"),
    [
        # the opacity at the left base is the atelectasis there; that at the right apex is not
        ([("Lung Opacity", "left", "base"), PLATE], [PLATE]),
        ([("Lung Opacity", "right", "apex"), PLATE], [("Lung Opacity", "right", "apex"), PLATE]),
        ([("Nodule", None, None), ("Nodule", "left", "upper")], [("Nodule", "left", "upper")]),
        ([("Edema", None, None), ("Edema", None, None)], [("Edema", None, None)]),
        ([("Lung Opacity", None, None), ("Mass", "left", None)], [("Mass", "left", None)]),
    ],
)
def test_codes_that_name_one_lesion_twice_are_merged(findings, kept):
    result = films.merged(MeshFinding(*each, None, "") for each in findings)
    assert [(f.concept, f.side, f.zone) for f in result] == kept


def test_draw_patients_meets_size_and_quota_and_drawn_kinds_leave_out_what_is_implied():
    rare, common, clear = frozenset({"Hernia"}), frozenset({"Edema"}), frozenset()
    pool = [(clear, clear)] * 50 + [(common,)] * 20 + [(rare, clear, common)] * 3
    drawn, rest = films.draw_patients(pool, 21, np.random.default_rng(0), quota=2)
    labels = [image for patient in drawn for image in patient]
    assert len(labels) == 21 and labels.count(rare) >= 2
    assert len(drawn) + len(rest) == len(pool)
    assert films.drawn_kinds({"Mass", "Lung Lesion", "Lung Opacity"}) == {"Mass"}
    assert films.drawn_kinds({"Lung Opacity", "Fracture"}) == {"Lung Opacity", "Fracture"}


def test_run_length_boxes_by_hand_and_by_the_loaders_decoder():
    # rows 2-4 of column 0, then 1,022 pixels further: row 3 (1,024 + 3) of column 1
    assert cases.run_length_box("2 3 1022 1") == (0.0, 2 / 1024, 2 / 1024, 3 / 1024)
    # a run over a column's end reaches top and bottom
    assert cases.run_length_box("1022 4") == (0.0, 0.0, 2 / 1024, 1.0)
    assert cases.run_length_box(" -1") is None
    rng = np.random.default_rng(3)
    for _ in range(5):
        text = " ".join(map(str, rng.integers(1, (5000, 900), (6, 2)).ravel()))
        rows, columns = np.nonzero(decode_runs(text, (1024, 1024)))
        x, y, width, height = (round(v * 1024) for v in cases.run_length_box(text))
        assert (x, x + width - 1) == (columns.min(), columns.max())
        assert y <= rows.min() and y + height - 1 >= rows.max()


def test_a_box_names_the_patients_side_and_geometry_pools_share_none():
    assert cases.in_box("Nodule", (0.2, 0.2, 0.1, 0.1)).side == "right"
    assert cases.in_box("Nodule", (0.7, 0.7, 0.1, 0.1)).zone == "lower"
    assert cases.in_box("Cardiomegaly", (0.3, 0.5, 0.4, 0.3)).side is None
    pools = cases.annotated_sites()
    for concept in ("Nodule", "Pneumonia", "Pneumothorax"):
        train, test = ({s.box for g in pools[concept, k] for s in g} for k in ("train", "test"))
        assert not train & test


def test_severity_words_order_the_draws_and_none_saturates():
    rng = np.random.default_rng(0)
    mild, draws, severe = (
        np.array([cases.draw_severity("Mass", word, rng) for _ in range(2000)])
        for word in ("mild", None, "severe")
    )
    assert mild.mean() < draws.mean() < severe.mean()
    assert (draws < 0.25).mean() > 0.03 and (draws > 0.75).mean() > 0.05 and draws.max() <= 1


def test_a_templated_report_states_its_findings_and_denies_none_of_them():
    rng = np.random.default_rng(0)
    mass = MeshFinding("Mass", "left", "upper", "large", "")
    for _ in range(40):
        text = " ".join(films.write_report([mass], rng)).lower()
        assert "large" in text and "mass" in text and "left upper" in text
        assert "no suspicious nodule" not in text
    places = (("bilateral", "apex"), ("left", None), (None, None))
    phrases = [films.place_phrase(*place, rng) for place in places]
    assert phrases == ["in both lung apices", "on the left", ""]
    assert films.place_phrase("right", "upper", rng, lobes=False) == "in the right upper lung zone"
