import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rctpl_utils.errors import InputError
from rctpl_utils.text.concepts.frames import read_state
from rctpl_utils.text.concepts.spacy_extractor import SpacyExtractor
from rctpl_utils.text.concepts.summary import (
    choose_extractor,
    example_triplets,
    mention_counts,
    mention_figure,
)
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import Triplet, merge_mentions, report_labels, triplets_frame
from rctpl_utils.vocabulary import CONCEPTS, Frame, split_location


@pytest.fixture(scope="module")
def extractor():
    return SpacyExtractor()


def report(findings, impression="", number=1):
    return Report(f"s{number}", "p1", findings, impression, "train")


def said(extractor, text):
    """{(concept, location, positive)} of a text."""
    return {(t.concept, t.location, t.positive) for t in extractor.extract([report(text)])}


def assertions(extractor, text):
    return {t.concept: t.positive for t in extractor.extract([report(text)])}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("There is cardiomegaly.", {"Cardiomegaly": "present"}),
        ("The heart is mildly enlarged.", {"Cardiomegaly": "present"}),
        ("Heart size is within normal limits.", {"Cardiomegaly": "absent"}),
        ("The cardiac silhouette is not enlarged.", {"Cardiomegaly": "absent"}),
        (
            "No focal consolidation, pneumothorax or pleural effusion.",
            {"Consolidation": "absent", "Pneumothorax": "absent", "Pleural Effusion": "absent"},
        ),
        ("Pneumothorax is not seen.", {"Pneumothorax": "absent"}),
        ("The pneumothorax has resolved.", {"Pneumothorax": "absent"}),
        ("Interval resolution of the effusion.", {"Pleural Effusion": "absent"}),
        ("Resolving pulmonary edema.", {"Edema": "present"}),
        ("No change in the small effusion.", {"Pleural Effusion": "present"}),
        ("Stable effusion, without significant change.", {"Pleural Effusion": "present"}),
        ("Cardiomegaly without edema.", {"Cardiomegaly": "present", "Edema": "absent"}),
        ("No edema, but there is an effusion.", {"Edema": "absent", "Pleural Effusion": "present"}),
        ("Pneumonia cannot be excluded.", {"Pneumonia": "uncertain"}),
        ("Cannot exclude pneumonia.", {"Pneumonia": "uncertain"}),
        ("Possible pneumonia.", {"Pneumonia": "uncertain"}),
        ("Pneumonia is possible.", {"Pneumonia": "uncertain"}),
        ("Atelectasis versus scarring.", {"Atelectasis": "uncertain", "Fibrosis": "uncertain"}),
        (
            "An opacity may represent pneumonia.",
            {"Lung Opacity": "present", "Pneumonia": "uncertain"},
        ),
        (
            "Mild opacity, atelectasis versus infiltrate.",
            {"Lung Opacity": "present", "Atelectasis": "uncertain", "Infiltration": "uncertain"},
        ),
        ("Probable small effusion.", {"Pleural Effusion": "present"}),
        ("Small pericardial effusion.", {}),
        ("Subcutaneous emphysema.", {}),
        ("Emphysema.", {"Emphysema": "present"}),
        ("Hydropneumothorax.", {"Pneumothorax": "present", "Pleural Effusion": "present"}),
        ("A Port-A-Cath is in place.", {"Support Devices": "present"}),
        ("The chest tube has been removed.", {"Support Devices": "absent"}),
        ("Findings typical of COVID-19 pneumonia.", {"COVID-19": "present"}),
        ("No evidence of SARS-CoV-2 infection.", {"COVID-19": "absent"}),
        ("Nothing to report.", {}),
    ],
)
def test_assertion(extractor, text, expected):
    assert assertions(extractor, text) == expected


@pytest.mark.parametrize(
    ("text", "concept", "locations"),
    [
        ("Left lower lobe opacity.", "Lung Opacity", {"left lower lobe"}),
        ("There is an opacity in the right base.", "Lung Opacity", {"right base"}),
        ("Bibasilar atelectasis.", "Atelectasis", {"bilateral bases"}),
        ("Atelectasis in the lung bases.", "Atelectasis", {"bilateral bases"}),
        ("Bilateral pleural effusions.", "Pleural Effusion", {"bilateral"}),
        ("Effusions, right greater than left.", "Pleural Effusion", {"bilateral"}),
        ("Nodule at the apex of the left lung.", "Nodule", {"left apex"}),
        ("RUL pneumonia.", "Pneumonia", {"right upper lobe"}),
        (
            "Right middle and lower lobe pneumonia.",
            "Pneumonia",
            {"right middle lobe", "right lower lobe"},
        ),
        (
            "Opacities in the right upper lobe and the left base.",
            "Lung Opacity",
            {"right upper lobe", "left base"},
        ),
        ("In the lingula there is a nodule.", "Nodule", {"lingula"}),
        ("Consolidation and atelectasis in the right base.", "Consolidation", {"right base"}),
        ("An opacity in the left base may represent pneumonia.", "Pneumonia", {"left base"}),
        ("Opacity in the left base. This may be pneumonia.", "Pneumonia", {"left base"}),
        ("Left basilar opacity with effusion.", "Pleural Effusion", {None}),
        ("Healed fracture of the left 5th rib.", "Fracture", {"left rib"}),
        ("Opacity overlying the right 5th rib.", "Lung Opacity", {"right"}),
        ("Pacemaker with leads in the right atrium.", "Support Devices", {None}),
        ("Left lower lobe opacity and cardiomegaly.", "Cardiomegaly", {None}),
        ("Nodule in the lung.", "Nodule", {None}),
        ("Blunting of the left costophrenic angle by an effusion.", "Pleural Effusion",
         {"left costophrenic angle"}),
    ],
)  # fmt: skip
def test_location(extractor, text, concept, locations):
    assert {loc for c, loc, _ in said(extractor, text) if c == concept} == locations


def test_spans_and_sentences_refer_to_the_text(extractor):
    one = report("Clear lungs. Small left effusion.", "No pneumothorax.")
    for triplet in extractor.extract([one]):
        assert triplet.sentence in one.text
        assert one.text[triplet.start : triplet.end].lower() in ("effusion", "pneumothorax")
        assert triplet.extractor == "spacy" and triplet.report_id == "s1"


@given(st.text(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_text_gives_well_formed_triplets(text):
    extractor = EXTRACTOR
    for triplet in extractor.extract([report(text)]):
        assert triplet.concept in CONCEPTS
        assert triplet.positive in ("present", "absent", "uncertain")
        split_location(triplet.location)  # raises when it is no canonical one
        assert 0 <= triplet.start < triplet.end <= len(text)


EXTRACTOR = SpacyExtractor()
FINDING = st.sampled_from(["pneumothorax", "consolidation", "pulmonary edema", "pneumonia"])


@given(st.lists(FINDING, min_size=1, max_size=4, unique=True))
@settings(max_examples=25, deadline=None)
def test_a_denied_list_is_denied_as_a_whole(findings):
    text = "There is no " + ", ".join(findings[:-1]) + (" or " if findings[:-1] else "")
    assert set(assertions(EXTRACTOR, text + findings[-1] + ".").values()) == {"absent"}


@given(
    st.sampled_from(["left", "right"]),
    st.sampled_from(["upper lobe", "lower lobe", "apex", "base"]),
    st.sampled_from(["{site} opacity", "opacity in the {site}", "in the {site} is an opacity"]),
)
@settings(max_examples=25, deadline=None)
def test_a_site_is_found_before_and_after(side, place, template):
    text = template.format(site=f"{side} {place}")
    assert said(EXTRACTOR, text) == {("Lung Opacity", f"{side} {place}", "present")}


def test_two_processes_give_the_result_of_one():
    reports = [report("Left basilar opacity.", "No effusion.", n) for n in range(6)]
    two = SpacyExtractor(processes=2, batch_size=4)
    assert list(two.extract(reports)) == list(EXTRACTOR.extract(reports))


def triplets(*rows):
    return triplets_frame(
        Triplet(rid, "x", concept, None, positive, 0, 1, "test") for rid, concept, positive in rows
    )


def test_mentions_merge_present_then_absent_then_uncertain():
    merged = merge_mentions(
        triplets(
            ("a", "Edema", "uncertain"),
            ("a", "Edema", "present"),
            ("a", "Edema", "absent"),
            ("b", "Edema", "uncertain"),
            ("b", "Edema", "absent"),
            ("c", "Edema", "uncertain"),
        )
    )
    assert merged.to_dict() == {
        ("a", "Edema"): "present",
        ("b", "Edema"): "absent",
        ("c", "Edema"): "uncertain",
    }


def test_labels_close_upwards_and_keep_uncertain_apart():
    concepts = ["Lung Opacity", "Lung Lesion", "Mass", "Pneumonia", "Hernia"]
    labels = report_labels(
        triplets(
            ("a", "Mass", "present"),
            ("a", "Pneumonia", "uncertain"),
            ("a", "Hernia", "absent"),
            ("b", "Pneumonia", "uncertain"),
            ("other", "Mass", "present"),
        ),
        ["a", "b", "c"],
        concepts,
    )
    expected = [[1, 1, 1, np.nan, 0], [np.nan, 0, 0, np.nan, 0], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(labels.to_numpy(), expected)
    assert list(labels.index) == ["a", "b", "c"] and list(labels.columns) == concepts


def test_an_unknown_assertion_is_refused():
    with pytest.raises(InputError, match="maybe"):
        merge_mentions(triplets(("a", "Edema", "maybe")))


def test_an_empty_frame_keeps_its_columns(tmp_path):
    frame = triplets_frame([])
    assert list(frame.columns)[:3] == ["report_id", "sentence", "concept"]
    assert report_labels(frame, ["a"], ["Edema"]).to_numpy() == [[0]]
    frame.to_parquet(tmp_path / "t.parquet")
    assert len(pd.read_parquet(tmp_path / "t.parquet")) == 0


def test_examples_and_counts():
    reports = [
        report("Left basilar opacity.", "No effusion.", 1),
        report("Left basilar opacity. Right apical nodule.", "No effusion.", 2),
    ]
    frame = triplets_frame(EXTRACTOR.extract(reports))
    assert mention_counts(frame).to_dict("index") == {
        "Lung Opacity": {"present": 2, "absent": 0, "uncertain": 0},
        "Pleural Effusion": {"present": 0, "absent": 2, "uncertain": 0},
        "Nodule": {"present": 1, "absent": 0, "uncertain": 0},
    }
    examples = example_triplets(frame, pd.Series({"s2": "CXR9"}))
    assert examples.values.tolist() == [
        ["Left basilar opacity.", "Lung Opacity", "left base", "present", "CXR9"],
        ["Right apical nodule.", "Nodule", "right apex", "present", "CXR9"],
    ]
    assert example_triplets(frame, pd.Series(dtype=str)).empty
    assert len(mention_figure(mention_counts(frame)).axes[0].patches) == 9  # 3 concepts x 3


def test_radgraph_is_read_where_it_lies(tmp_path):
    assert choose_extractor(tmp_path).name == "spacy"
    (tmp_path / "MIMIC-CXR_graphs.json").write_text("{}")
    assert choose_extractor(tmp_path).name == "radgraph"


def test_remembering_sentences_changes_nothing():
    reports = [
        report("Opacity in the left base. This may be pneumonia.", "No effusion.", 1),
        report("Opacity in the right apex. This may be pneumonia.", "No effusion.", 2),
        report("This may be pneumonia.", "", 3),
    ]
    forgetful = SpacyExtractor(remember=0, batch_size=1)
    remembered = list(EXTRACTOR.extract(reports))
    assert list(forgetful.extract(reports)) == remembered
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
