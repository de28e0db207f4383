import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from rctpl_utils.datasets.openi import OpenIReport
from rctpl_utils.errors import InputError
from rctpl_utils.text.concepts.evaluation import (
    common_errors,
    development_half,
    extract_openi,
    extraction_scores,
    gold_located,
    predicted_located,
)
from rctpl_utils.text.concepts.spacy_extractor import SpacyExtractor
from rctpl_utils.text.triplets import Triplet, triplets_frame


def report(number, *codes, findings=""):
    return OpenIReport(f"CXR{number}", findings, "", "", "", codes)


def frame(*rows):
    return triplets_frame(
        Triplet(f"CXR{n}", f"About {concept}.", concept, location, positive, 0, 1, "test")
        for n, concept, location, positive in rows
    )


REPORTS = [
    report(1, "Cardiomegaly/mild", "Opacity/lung/base/left"),
    report(2, "Cardiomegaly", "Pleural Effusion/bilateral"),
    report(3, "normal"),
]
TRIPLETS = frame(
    (1, "Cardiomegaly", None, "present"),
    (1, "Lung Opacity", "left base", "present"),
    (1, "Lung Opacity", "left", "present"),  # implied by the line above
    (2, "Cardiomegaly", None, "uncertain"),  # no prediction
    (2, "Pleural Effusion", "left", "present"),
    (3, "Cardiomegaly", None, "present"),  # spurious
    (3, "Edema", None, "absent"),  # no prediction
    (9, "Edema", None, "present"),  # a report that is not scored
)


def row(scores, task, concept):
    chosen = scores[(scores["task"] == task) & (scores["concept"] == concept)]
    return chosen[["precision", "recall", "f1", "support"]].iloc[0].tolist()


def test_hand_computed_scores():
    scores = extraction_scores(TRIPLETS, REPORTS)
    assert list(scores.columns) == ["concept", "task", "precision", "recall", "f1", "support"]
    assert row(scores, "concept", "Cardiomegaly") == [1 / 2, 1 / 2, 1 / 2, 2]
    assert row(scores, "concept", "Lung Opacity") == [1, 1, 1, 1]
    assert row(scores, "concept", "micro") == pytest.approx([3 / 4, 3 / 4, 3 / 4, 4])
    assert row(scores, "located concept", "Pleural Effusion") == pytest.approx([1, 1 / 2, 2 / 3, 2])
    assert row(scores, "located concept", "micro") == pytest.approx([1, 2 / 3, 4 / 5, 3])
    assert "Edema" not in set(scores["concept"])
    precision, *others = row(extraction_scores(frame(), REPORTS), "concept", "Cardiomegaly")
    assert math.isnan(precision) and others == [0, 0, 2], "it is never predicted"
    with pytest.raises(InputError, match="no report"):
        extraction_scores(TRIPLETS, [])


NAMES = ("Cardiomegaly", "Consolidation", "Pneumothorax")
SOME = st.sets(st.sampled_from(NAMES))


@given(st.lists(st.tuples(SOME, SOME), min_size=1, max_size=8))
@settings(max_examples=40)
def test_scores_equal_scikit_learns(pairs):
    reports = [report(n, *sorted(gold)) for n, (gold, _) in enumerate(pairs)]
    said = frame(*((n, c, None, "present") for n, (_, given_) in enumerate(pairs) for c in given_))
    gold, predicted = (
        np.array([[name in pair[i] for name in NAMES] for pair in pairs]) for i in (0, 1)
    )
    expected = precision_recall_fscore_support(gold, predicted, average="micro", zero_division=0)
    found = np.nan_to_num(row(extraction_scores(said, reports), "concept", "micro")[:3])
    np.testing.assert_allclose(found, expected[:3])


@pytest.mark.parametrize(
    ("concept", "location", "items"),
    [
        ("Lung Opacity", "left middle zone", {("left", "middle")}),
        ("Atelectasis", "bilateral bases", {("left", "base"), ("right", "base")}),
        ("Mass", "right perihilar region", {("right", "hilum")}),
    ],
)
def test_located_items_are_one_a_side_in_the_codes_zones(concept, location, items):
    found = predicted_located(frame((1, concept, location, "present")))
    assert found == {"CXR1": {(concept, *each) for each in items}}
    coded = gold_located([report(1, "Opacity/lung/lingula")])
    assert coded == {"CXR1": {("Lung Opacity", "left", "middle")}}


def test_errors_are_counted_with_an_example():
    errors = common_errors(TRIPLETS, REPORTS)
    assert errors.values.tolist() == [
        ["missed", "Cardiomegaly", 1, "CXR2", "Cardiomegaly"],
        ["spurious", "Cardiomegaly", 1, "CXR3", "About Cardiomegaly."],
    ]
    assert list(errors.columns) == ["error", "concept", "count", "report_id", "said"]
    assert len(common_errors(TRIPLETS, REPORTS, top=1)) == 1


def test_the_halves_are_fixed():
    halves = [development_half(f"CXR{n}") for n in range(1, 4000)]
    assert halves[:6] == [True, True, False, False, False, False]
    assert 0.47 < sum(halves) / len(halves) < 0.53


def test_reports_without_text_give_no_triplets():
    reports = [report(1), report(2, findings="There is a small left effusion.")]
    triplets = extract_openi(SpacyExtractor(), reports)
    found = triplets[["report_id", "concept", "location"]].values.tolist()
    assert found == [["CXR2", "Pleural Effusion", "left"]]
