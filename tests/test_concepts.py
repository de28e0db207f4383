"""Extraction beyond single sentences, and what is made of triplets: labels, counts, examples."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rctpl_utils.errors import InputError
from rctpl_utils.text.concepts import spacy_extractor
from rctpl_utils.text.concepts.spacy_extractor import SpacyExtractor, read_state
from rctpl_utils.text.concepts.summary import (
    choose_extractor,
    example_triplets,
    mention_counts,
    mention_figure,
)
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import Triplet, merge_mentions, report_labels, triplets_frame
from rctpl_utils.vocabulary import CONCEPTS, Frame, split_location

EXTRACTOR = SpacyExtractor()


def report(findings, impression="", number=1):
    return Report(f"s{number}", "p1", findings, impression, "train")


def said(text):
    """{(concept, location, positive)} of a text."""
    return {(t.concept, t.location, t.positive) for t in EXTRACTOR.extract([report(text)])}


def test_spans_and_sentences_refer_to_the_text():
    one = report("Clear lungs. Small left effusion.", "No pneumothorax.")
    found = list(EXTRACTOR.extract([one]))
    assert {t.sentence for t in found} == {"Small left effusion.", "No pneumothorax."}
    assert [one.text[t.start : t.end] for t in found] == ["effusion", "pneumothorax"]
    assert {(t.report_id, t.extractor) for t in found} == {("s1", "spacy")}


@given(st.text(max_size=200))
@settings(max_examples=60)
def test_any_text_gives_well_formed_triplets(text):
    for triplet in EXTRACTOR.extract([report(text)]):
        assert triplet.concept in CONCEPTS
        assert triplet.positive in ("present", "absent", "uncertain")
        split_location(triplet.location)  # raises when it is no canonical one
        assert 0 <= triplet.start < triplet.end <= len(text)


FINDING = st.sampled_from(["pneumothorax", "consolidation", "pulmonary edema", "pneumonia"])


@given(st.lists(FINDING, min_size=1, max_size=4, unique=True))
@settings(max_examples=25)
def test_a_denied_list_is_denied_as_a_whole(findings):
    text = "There is no " + ", ".join(findings[:-1]) + (" or " if findings[:-1] else "")
    assert {positive for *_, positive in said(text + findings[-1] + ".")} == {"absent"}


@given(
    st.sampled_from(["left", "right"]),
    st.sampled_from(["upper lobe", "lower lobe", "apex", "base"]),
    st.sampled_from(["{site} opacity", "opacity in the {site}", "in the {site} is an opacity"]),
)
@settings(max_examples=25)
def test_a_site_is_found_before_and_after(side, place, template):
    text = template.format(site=f"{side} {place}")
    assert said(text) == {("Lung Opacity", f"{side} {place}", "present")}


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


def triplets(*rows):
    return triplets_frame(
        Triplet(rid, "x", concept, None, positive, 0, 1, "test") for rid, concept, positive in rows
    )


def test_mentions_merge_present_then_absent_then_uncertain():
    rows = [("a", "uncertain"), ("a", "present"), ("a", "absent"), ("b", "uncertain")]
    rows += [("b", "absent"), ("c", "uncertain")]
    merged = merge_mentions(triplets(*((rid, "Edema", positive) for rid, positive in rows)))
    expected = {"a": "present", "b": "absent", "c": "uncertain"}
    assert merged.droplevel("concept").to_dict() == expected
    with pytest.raises(InputError, match="maybe"):
        merge_mentions(triplets(("a", "Edema", "maybe")))


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
