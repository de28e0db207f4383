"""Extraction beyond single sentences; what is made of triplets: labels, counts, scores."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, precision_recall_fscore_support
from tiny_world import table_of_cases

from rctpl_utils.datasets.openi import OpenIReport
from rctpl_utils.errors import InputError
from rctpl_utils.text.concepts import evaluation, spacy_extractor
from rctpl_utils.text.concepts.spacy_extractor import SpacyExtractor, read_state
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import Triplet, merge_mentions, report_labels, triplets_frame
from rctpl_utils.vocabulary import CONCEPTS, Frame, split_location

EXTRACTOR = SpacyExtractor()


def report(findings, impression="", number=1):
    return Report(f"s{number}", "p1", findings, impression, "train")


def triplets_of(text):
    return list(EXTRACTOR.extract([report(text)]))


# Sentences as radiologists write them, by kind, with what a reader would take from them: expected
# values were written from the meaning of the sentence, before the rules that find them.
SENTENCES = pd.read_csv(Path(__file__).parent / "cases" / "sentences.csv", keep_default_na=False)
ASKED = {
    "assertion": lambda t: (t.concept, t.positive),
    "place": lambda t: (t.concept, t.location or "nowhere"),
    "side": lambda t: (t.location, t.positive),
}


@pytest.mark.parametrize(("asked", "kind", "sentence", "expected"), SENTENCES.to_numpy())
def test_what_a_reader_takes_from_a_sentence(asked, kind, sentence, expected):
    wanted = {tuple(pair.split(": ")) for pair in expected.split("; ") if pair}
    assert set(map(ASKED[asked], triplets_of(sentence))) == wanted, kind


def test_spans_and_sentences_refer_to_the_text():
    one = report("Clear lungs. Small left effusion.", "No pneumothorax.")
    found = list(EXTRACTOR.extract([one]))
    assert {t.sentence for t in found} == {"Small left effusion.", "No pneumothorax."}
    assert [one.text[t.start : t.end] for t in found] == ["effusion", "pneumothorax"]
    assert {(t.report_id, t.extractor) for t in found} == {("s1", "spacy")}


@given(st.text(max_size=200))
@settings(max_examples=60)
def test_any_text_gives_well_formed_triplets(text):
    for triplet in triplets_of(text):
        assert triplet.concept in CONCEPTS
        assert triplet.positive in ("present", "absent", "uncertain")
        split_location(triplet.location)  # raises when it is no canonical one
        assert 0 <= triplet.start < triplet.end <= len(text)


FINDING = st.sampled_from(["pneumothorax", "consolidation", "pulmonary edema", "pneumonia"])


@given(st.lists(FINDING, min_size=1, max_size=4, unique=True))
@settings(max_examples=25)
def test_a_denied_list_is_denied_as_a_whole(findings):
    text = "There is no " + ", ".join(findings[:-1]) + (" or " if findings[:-1] else "")
    assert {t.positive for t in triplets_of(text + findings[-1] + ".")} == {"absent"}


@given(
    st.sampled_from(["left", "right"]),
    st.sampled_from(["upper lobe", "lower lobe", "apex", "base"]),
    st.sampled_from(["{site} opacity", "opacity in the {site}", "in the {site} is an opacity"]),
)
@settings(max_examples=25)
def test_a_site_is_found_before_and_after(side, place, template):
    found = triplets_of(template.format(site=f"{side} {place}"))
    expected = {("Lung Opacity", f"{side} {place}", "present")}
    assert {(t.concept, t.location, t.positive) for t in found} == expected


def test_remembering_sentences_changes_nothing(monkeypatch):
    reports = [
        report("Opacity in the left base. This may be pneumonia.", "No effusion.", 1),
        report("Opacity in the right apex. This may be pneumonia.", "No effusion.", 2),
        report("This may be pneumonia.", "", 3),
    ]
    remembered = list(EXTRACTOR.extract(reports))
    monkeypatch.setattr(spacy_extractor, "REMEMBERED", 0)
    monkeypatch.setattr(spacy_extractor, "BATCH", 1)
    assert list(EXTRACTOR.extract(reports)) == remembered
    found = {t.report_id: t.location for t in remembered if t.concept == "Pneumonia"}
    assert found == {"s1": "left base", "s2": "right apex", "s3": None}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("is mildly enlarged .", (3, False)),
        ("is borderline enlarged", (3, False)),
        ("is not enlarged", (3, True)),
        ("size is normal and there", (3, True)),
        ("shows calcification and is enlarged", None),
        ("", None),
    ],
)
def test_a_state_is_read_after_its_subject(words, expected):
    between = ("is", "mildly", "size", "borderline")
    frame = Frame("x", ("heart",), between, ("enlarged", "borderline"), ("normal",))
    assert read_state(words.split(), 0, frame) == expected


def frame(*rows):
    """Triplets from (report, concept, location, positive)."""
    return triplets_frame(
        Triplet(report_id, f"About {concept}.", concept, location, positive, 0, 1, "test")
        for report_id, concept, location, positive in rows
    )


def triplets_for(test):
    """Those of `cases/triplets.csv`."""
    rows = [row[1:5] for row in table_of_cases("triplets") if row[0] == test]
    return frame(*((name, concept, place or None, said) for name, concept, place, said in rows))


def test_mentions_merge_present_then_absent_then_uncertain():
    said = {"a": "uncertain present absent", "b": "uncertain absent", "c": "uncertain"}
    merged = merge_mentions(frame(*((r, "Edema", None, p) for r in said for p in said[r].split())))
    expected = {"a": "present", "b": "absent", "c": "uncertain"}
    assert merged.droplevel("concept").to_dict() == expected
    with pytest.raises(InputError, match="maybe"):
        merge_mentions(frame(("a", "Edema", None, "maybe")))


def test_labels_close_upwards_and_keep_uncertain_apart(tmp_path):
    concepts = ["Lung Opacity", "Lung Lesion", "Mass", "Pneumonia", "Hernia"]
    labels = report_labels(triplets_for("labels"), ["a", "b", "c"], concepts)
    expected = [[1, 1, 1, np.nan, 0], [np.nan, 0, 0, np.nan, 0], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(labels.to_numpy(), expected)
    assert list(labels.index) == ["a", "b", "c"] and list(labels.columns) == concepts
    empty = triplets_frame([])
    assert list(empty.columns)[:3] == ["report_id", "sentence", "concept"]
    assert report_labels(empty, ["a"], ["Edema"]).to_numpy() == [[0]]
    empty.to_parquet(tmp_path / "t.parquet")
    assert len(pd.read_parquet(tmp_path / "t.parquet")) == 0


def test_examples_and_counts():
    reports = [
        report("Left basilar opacity.", "No effusion.", 1),
        report("Left basilar opacity. Right apical nodule.", "No effusion.", 2),
    ]
    found = triplets_frame(EXTRACTOR.extract(reports))
    expected = {"Lung Opacity": [2, 0, 0], "Pleural Effusion": [0, 2, 0], "Nodule": [1, 0, 0]}
    counted = evaluation.mention_counts(found)
    assert list(counted) == ["present", "absent", "uncertain"]
    assert counted.T.to_dict("list") == expected
    examples = evaluation.example_triplets(found, pd.Series({"s2": "CXR9"}))
    assert examples.values.tolist() == [
        ["Left basilar opacity.", "Lung Opacity", "left base", "present", "CXR9"],
        ["Right apical nodule.", "Nodule", "right apex", "present", "CXR9"],
    ]
    assert evaluation.example_triplets(found, pd.Series(dtype=str)).empty
    assert len(evaluation.mention_figure(counted).axes[0].patches) == 9  # 3 concepts x 3


def test_radgraph_is_read_where_it_lies(tmp_path):
    assert evaluation.choose_extractor(tmp_path).name == "spacy"
    (tmp_path / "MIMIC-CXR_graphs.json").write_text("{}")
    assert evaluation.choose_extractor(tmp_path).name == "radgraph"


FIRST, SECOND = triplets_for("first"), triplets_for("second")


def test_agreement_by_hand():
    table = evaluation.agreement(FIRST, SECOND, ["s1", "s2", "s3", "s4", "s5"])
    assert table.index.tolist() == ["Edema", "Mass"]
    counts = ["both", "first_only", "second_only", "neither"]
    assert table.loc["Edema", counts].tolist() == [2, 0, 1, 2]
    assert table.loc["Mass", counts].tolist() == [0, 1, 0, 4]
    # Edema: observed 4/5; expected (2 * 3 + 3 * 2) / 25
    assert table.loc["Edema", "kappa"] == pytest.approx((0.8 - 0.48) / 0.52)
    said = [["p", "p", "a", "n", "n"], ["p", "p", "p", "u", "n"]]
    assert table.loc["Edema", "kappa_assertion"] == pytest.approx(cohen_kappa_score(*said))
    assert table.loc["Edema", "same_location"] == 0.5 and np.isnan(table["same_location"]["Mass"])

    table = evaluation.agreement(FIRST, FIRST, ["s1", "s2", "s3"])
    assert (table[["first_only", "second_only"]] == 0).all(axis=None)
    assert (table[["kappa", "kappa_assertion", "same_location"]] == 1).all(axis=None)
    assert len(table) == 2
    assert np.isnan(evaluation.agreement(FIRST, FIRST, ["s1"])["kappa"]).all()
    with pytest.raises(InputError, match="no report that both"):
        evaluation.agreement(FIRST, SECOND, [])


@given(st.lists(st.tuples(st.sampled_from("paun"), st.sampled_from("paun")), min_size=2))
@settings(max_examples=60)
def test_kappa_is_scikit_learns(pairs):
    first, second = zip(*pairs, strict=True)
    counts = pd.crosstab(pd.Series(first), pd.Series(second))
    counts = counts.reindex(index=list("paun"), columns=list("paun"), fill_value=0).to_numpy()
    if len(set(first) | set(second)) == 1:
        assert np.isnan(evaluation.cohen_kappa(counts))
    else:
        assert evaluation.cohen_kappa(counts) == pytest.approx(cohen_kappa_score(first, second))


def coded(number, *codes, findings=""):
    return OpenIReport(f"CXR{number}", findings, "", "", "", codes)


REPORTS = [
    coded(1, "Cardiomegaly/mild", "Opacity/lung/base/left"),
    coded(2, "Cardiomegaly", "Pleural Effusion/bilateral"),
    coded(3, "normal"),
]
TRIPLETS = triplets_for("scored")


def row(scores, task, concept):
    chosen = scores[(scores["task"] == task) & (scores["concept"] == concept)]
    return chosen[["precision", "recall", "f1", "support"]].iloc[0].tolist()


def test_hand_computed_scores_and_errors():
    scores = evaluation.extraction_scores(TRIPLETS, REPORTS)
    assert list(scores.columns) == ["concept", "task", "precision", "recall", "f1", "support"]
    assert row(scores, "concept", "Cardiomegaly") == [1 / 2, 1 / 2, 1 / 2, 2]
    assert row(scores, "concept", "Lung Opacity") == [1, 1, 1, 1]
    assert row(scores, "concept", "micro") == pytest.approx([3 / 4, 3 / 4, 3 / 4, 4])
    assert row(scores, "located concept", "Pleural Effusion") == pytest.approx([1, 1 / 2, 2 / 3, 2])
    assert row(scores, "located concept", "micro") == pytest.approx([1, 2 / 3, 4 / 5, 3])
    assert "Edema" not in set(scores["concept"])
    none = evaluation.extraction_scores(frame(), REPORTS)
    precision, *others = row(none, "concept", "Cardiomegaly")
    assert math.isnan(precision) and others == [0, 0, 2], "it is never predicted"
    with pytest.raises(InputError, match="no report"):
        evaluation.extraction_scores(TRIPLETS, [])
    errors = evaluation.common_errors(TRIPLETS, REPORTS)
    assert errors.values.tolist() == [
        ["missed", "Cardiomegaly", 1, "CXR2", "Cardiomegaly"],
        ["spurious", "Cardiomegaly", 1, "CXR3", "About Cardiomegaly."],
    ]
    assert list(errors.columns) == ["error", "concept", "count", "report_id", "said"]
    assert len(evaluation.common_errors(TRIPLETS, REPORTS, top=1)) == 1


NAMES = ("Cardiomegaly", "Consolidation", "Pneumothorax")
SOME = st.sets(st.sampled_from(NAMES))


@given(st.lists(st.tuples(SOME, SOME), min_size=1, max_size=8))
@settings(max_examples=40)
def test_scores_equal_scikit_learns(pairs):
    reports = [coded(n, *sorted(gold)) for n, (gold, _) in enumerate(pairs)]
    said = frame(
        *((f"CXR{n}", c, None, "present") for n, (_, given_) in enumerate(pairs) for c in given_)
    )
    gold, predicted = (
        np.array([[name in pair[i] for name in NAMES] for pair in pairs]) for i in (0, 1)
    )
    expected = precision_recall_fscore_support(gold, predicted, average="micro", zero_division=0)
    found = np.nan_to_num(row(evaluation.extraction_scores(said, reports), "concept", "micro")[:3])
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
    one = frame(("CXR1", concept, location, "present"))
    found = evaluation.predicted_concepts(one, located=True)
    assert found == {"CXR1": {(concept, *each) for each in items}}
    lingula = evaluation.gold_concepts([coded(1, "Opacity/lung/lingula")], located=True)
    assert lingula == {"CXR1": {("Lung Opacity", "left", "middle")}}


def test_the_halves_are_fixed():
    halves = [evaluation.development_half(f"CXR{n}") for n in range(1, 4000)]
    assert halves[:6] == [True, True, False, False, False, False]
    assert 0.47 < sum(halves) / len(halves) < 0.53


def test_reports_without_text_give_no_triplets():
    reports = [coded(1), coded(2, findings="There is a small left effusion.")]
    triplets = evaluation.extract_openi(EXTRACTOR, reports)
    found = triplets[["report_id", "concept", "location"]].values.tolist()
    assert found == [["CXR2", "Pleural Effusion", "left"]]
