import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rctpl_utils.concepts.json_stream import stream_objects
from rctpl_utils.concepts.radgraph import RadGraphExtractor, parse_graph
from rctpl_utils.errors import InputError
from rctpl_utils.reports import Report

TEXT = "there is a left lower lobe opacity suggestive of pneumonia . no pleural effusion ."


def entity(tokens, label, start, *relations, end=None):
    return {
        "tokens": tokens,
        "label": label,
        "start_ix": start,
        "end_ix": start if end is None else end,
        "relations": [list(r) for r in relations],
    }


def graph(present="OBS-DP", absent="OBS-DA", unsure="OBS-U", place="ANAT-DP"):
    """TEXT as RadGraph annotates it."""
    return {
        "text": TEXT,
        "entities": {
            "1": entity("left", place, 3, ("modify", "3")),
            "2": entity("lower", place, 4, ("modify", "3")),
            "3": entity("lobe", place, 5),
            "4": entity("opacity", present, 6, ("located_at", "3"), ("suggestive_of", "5")),
            "5": entity("pneumonia", unsure, 9),
            "6": entity("pleural", place, 12),
            "7": entity("effusion", absent, 13, ("located_at", "6")),
        },
    }


def report(number=1):
    return Report(f"s{number}", "p1", TEXT, "", "train")


def extract(graphs, *reports):
    return list(RadGraphExtractor(graphs).extract(reports or [report()]))


EXPECTED = [
    ("Lung Opacity", "left lower lobe", "present"),
    ("Pneumonia", None, "uncertain"),
    ("Pleural Effusion", None, "absent"),
]


@pytest.mark.parametrize(
    "graphs",
    [
        {"p1/p1/s1.txt": graph()},
        {
            "0": graph(
                "Observation::definitely present",
                "Observation::definitely absent",
                "Observation::uncertain",
                "Anatomy::definitely present",
            )
        },
    ],
    ids=["1.0", "package"],
)
def test_both_formats_give_the_same_triplets(graphs):
    found = extract(graphs)
    assert [(t.concept, t.location, t.positive) for t in found] == EXPECTED
    assert [TEXT[t.start : t.end] for t in found] == ["opacity", "pneumonia", "effusion"]
    assert found[0].sentence == "there is a left lower lobe opacity suggestive of pneumonia ."
    assert {(t.report_id, t.extractor) for t in found} == {("s1", "radgraph")}


def one(text, *entities):
    graphs = {"s1.txt": {"text": text, "entities": {str(i): e for i, e in enumerate(entities)}}}
    return [(t.concept, t.location, t.positive) for t in extract(graphs)]


def test_an_observation_with_only_suggestive_of_is_kept():
    found = one(
        "opacity suggesting edema",
        entity("opacity", "OBS-DP", 0, ("suggestive_of", "1")),
        entity("edema", "OBS-U", 2),
    )
    assert found == [("Lung Opacity", None, "present"), ("Edema", None, "uncertain")]


def test_a_location_is_found_through_any_of_its_words():
    found = one(
        "nodule in the right apex",
        entity("nodule", "OBS-DP", 0, ("located_at", "1")),
        entity("right", "ANAT-DP", 3, ("modify", "2")),
        entity("apex", "ANAT-DP", 4),
    )
    assert found == [("Nodule", "right apex", "present")]


def test_two_anatomies_are_two_locations():
    found = one(
        "atelectasis left base and right apex",
        entity("atelectasis", "OBS-DP", 0, ("located_at", "2"), ("located_at", "4")),
        entity("left", "ANAT-DP", 1, ("modify", "2")),
        entity("base", "ANAT-DP", 2),
        entity("right", "ANAT-DP", 4, ("modify", "4")),
        entity("apex", "ANAT-DP", 5),
    )
    assert found == [
        ("Atelectasis", "left base", "present"),
        ("Atelectasis", "right apex", "present"),
    ]


def test_words_around_an_observation_decide_what_it_names():
    pericardial = entity("effusion", "OBS-DP", 1, ("located_at", "0"))
    assert one("pericardial effusion", entity("pericardial", "ANAT-DP", 0), pericardial) == []
    modified = entity("nodular", "OBS-DP", 0, ("modify", "1"))
    nodular = one("nodular opacity", modified, entity("opacity", "OBS-DP", 1))
    assert {concept for concept, _, _ in nodular} == {"Lung Lesion", "Lung Opacity"}
    heart = entity("heart", "ANAT-DP", 0)
    for state, positive in (("enlarged", "present"), ("normal", "absent")):
        found = one(f"heart {state}", heart, entity(state, "OBS-DP", 1, ("located_at", "0")))
        assert found == [("Cardiomegaly", None, positive)]


def test_only_the_given_reports_are_read():
    graphs = {"p/s1.txt": graph(), "p/s2.txt": graph()}
    assert {t.report_id for t in extract(graphs, report(2))} == {"s2"}
    counted = {"0": graph(), "1": graph(), "7": graph()}
    assert {t.report_id for t in extract(counted, report(5), report(6))} == {"s5", "s6"}


def test_an_unknown_label_names_the_report():
    with pytest.raises(InputError, match=r"s1: unknown RadGraph label 'OBS-XX'"):
        extract({"p/s1.txt": graph(present="OBS-XX")})


@pytest.mark.parametrize(
    "broken",
    [
        {"text": "x"},
        {"text": "x", "entities": {"1": {"tokens": "x"}}},
        {"text": "x", "entities": {"1": entity("x", "OBS-DP", 0, ("modify", "9"))}},
        {"text": "x", "entities": {"1": entity("x", "OBS-DP", 5)}},
        {"text": "x", "entities": {"1": entity("x", "OBS-DP", 0, end=-1)}},
        ["x"],
    ],
)
def test_a_graph_of_another_shape_is_refused(broken):
    with pytest.raises(InputError, match="s1"):
        parse_graph("s1", broken)


def test_the_file_is_read_as_a_stream(tmp_path):
    path = tmp_path / "graphs.json"
    path.write_text(json.dumps({"p1/p1/s1.txt": graph()}, indent=2))
    assert [(t.concept, t.location, t.positive) for t in extract(path)] == EXPECTED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text(max_size=4), st.dictionaries(st.text(max_size=3), JSON))


@given(OBJECTS, st.sampled_from([None, 2]), st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_streaming_equals_loading(tmp_path_factory, value, indent, block):
    path = tmp_path_factory.mktemp("stream") / "x.json"
    path.write_text(json.dumps(value, indent=indent), encoding="utf-8")
    assert dict(stream_objects(path, block)) == value


@given(OBJECTS.filter(bool), st.data())
@settings(max_examples=30, deadline=None)
def test_a_truncated_file_is_refused(tmp_path_factory, value, data):
    text = json.dumps(value)
    path = tmp_path_factory.mktemp("stream") / "x.json"
    path.write_text(text[: data.draw(st.integers(0, len(text) - 1))], encoding="utf-8")
    with pytest.raises(InputError, match=r"x\.json"):
        list(stream_objects(path))


@pytest.mark.parametrize("text", ["[]", "{1: {}}", '{"a": 1}', '{"a": {} "b": {}}', '{"a": {},}'])
def test_another_json_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match="no whole JSON object"):
        list(stream_objects(tmp_path / "x.json"))
    with pytest.raises(InputError, match="no such file"):
        list(stream_objects(tmp_path / "y.json"))
