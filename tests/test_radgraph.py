import gzip
import json
import logging
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import fuzz, mutated, survives

from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.text.concepts.radgraph import RadGraphExtractor, parse_graph, stream_objects
from rctpl_utils.text.reports import Report

TEXT = "there is a left lower lobe opacity suggestive of pneumonia . no pleural effusion ."


def entity(tokens, label, start, *relations, end=None):
    end = start if end is None else end
    found = {"tokens": tokens, "label": label, "start_ix": start, "end_ix": end}
    return found | {"relations": [relation.split() for relation in relations]}


def graph(present="OBS-DP", absent="OBS-DA", unsure="OBS-U", place="ANAT-DP"):
    """TEXT as RadGraph annotates it."""
    return {
        "text": TEXT,
        "entities": {
            "1": entity("left", place, 3, "modify 3"),
            "2": entity("lower", place, 4, "modify 3"),
            "3": entity("lobe", place, 5),
            "4": entity("opacity", present, 6, "located_at 3", "suggestive_of 5"),
            "5": entity("pneumonia", unsure, 9),
            "6": entity("pleural", place, 12),
            "7": entity("effusion", absent, 13, "located_at 6"),
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
XL = [f"Observation::{each}" for each in ("definitely present", "definitely absent", "uncertain")]
XL_GRAPH = graph(*XL, "Anatomy::definitely present")


@pytest.mark.parametrize("graphs", [{"p1/p1/s1.txt": graph()}, {"0": XL_GRAPH}])
def test_both_formats_give_the_same_triplets(graphs):
    found = extract(graphs)
    assert [(t.concept, t.location, t.positive) for t in found] == EXPECTED
    assert [TEXT[t.start : t.end] for t in found] == ["opacity", "pneumonia", "effusion"]
    assert found[0].sentence == "there is a left lower lobe opacity suggestive of pneumonia ."
    assert {(t.report_id, t.extractor) for t in found} == {("s1", "radgraph")}


CASES = read_json(Path(__file__).parent / "cases" / "radgraph.json")


@pytest.mark.parametrize("case", CASES["read"], ids=lambda case: case["shown"])
def test_triplets_of_a_graph(case):
    entities = {str(k): entity(*each) for k, each in enumerate(case["entities"])}
    found = extract({"s1.txt": {"text": case["text"], "entities": entities}})
    assert [[t.concept, t.location, t.positive] for t in found] == case["triplets"]


def test_only_the_given_reports_are_read_and_those_that_it_lacks_counted(caplog):
    graphs = {"p/s1.txt": graph(), "p/s2.txt": graph()}
    assert {t.report_id for t in extract(graphs, report(2))} == {"s2"}
    counted = {"0": graph(), "1": graph(), "7": graph()}
    assert {t.report_id for t in extract(counted, report(5), report(6))} == {"s5", "s6"}
    extractor = RadGraphExtractor({"p/s1.txt": graph()})
    with caplog.at_level(logging.WARNING):
        assert len(list(extractor.extract([report(1), report(2), report(3)]))) == 3
    assert "2 of 3 reports are not in RadGraph's file" in caplog.text
    assert extractor.read == {"s1"}
    # radgraph 0.1.18 annotates the text "None" for an empty report, and keeps its number
    empty = {"text": "None", "entities": {}, "data_source": None, "data_split": "inference"}
    extractor = RadGraphExtractor({"0": empty, "1": graph()})
    assert {t.report_id for t in extractor.extract([report(8), report(9)])} == {"s9"}
    assert extractor.read == {"s8", "s9"}


@pytest.mark.parametrize(("says", "broken"), CASES["refused"])
def test_a_graph_of_another_shape_is_refused(says, broken):
    with pytest.raises(InputError, match=says):
        parse_graph("s1", broken)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text(max_size=4), st.dictionaries(st.text(max_size=3), JSON))


@given(OBJECTS, st.sampled_from([None, 2]), st.integers(1, 7), st.data())
@settings(max_examples=30)
def test_streaming_equals_loading_and_a_truncated_file_is_refused(
    tmp_path_factory, value, indent, block, data
):
    path = tmp_path_factory.mktemp("stream") / "x.json"
    text = json.dumps(value, indent=indent)
    path.write_text(text, encoding="utf-8")
    assert dict(stream_objects(path, block)) == value
    path.write_text(text[: data.draw(st.integers(0, len(text) - 1))], encoding="utf-8")
    with pytest.raises(InputError, match=r"x\.json"):
        list(stream_objects(path))


def test_an_observation_of_several_tokens_keeps_its_inclusive_end():
    text = "lines : pleural effusion seen"
    entities = {"1": entity("pleural effusion", "OBS-DP", 2, end=3)}
    (found,) = extract({"s1.txt": {"text": text, "entities": entities}})
    assert found.concept == "Pleural Effusion"
    assert text[found.start : found.end] == "pleural effusion"


OTHER = "No pneumothorax."
DENIED = entity("pneumothorax", "OBS-DA", 1)
NO_PNEUMOTHORAX = {"text": "No pneumothorax .", "entities": {"1": DENIED}}
PAIR = [
    Report("s1", "p1", TEXT.split(" no ")[0] + "  \n No Pleural EFFUSION.", "", "train"),
    Report("s2", "p1", "", OTHER, "train"),
]
BOTH = {("s1", "Lung Opacity"), ("s1", "Pneumonia"), ("s1", "Pleural Effusion")}
BOTH |= {("s2", "Pneumothorax")}


def read_pair(graphs, reports=PAIR):
    return {(t.report_id, t.concept) for t in RadGraphExtractor(graphs).extract(reports)}


@pytest.mark.parametrize(("first", "second"), CASES["keys of s1 and s2"])
def test_keys_as_people_have_them(first, second):
    assert read_pair({first: graph(), second: NO_PNEUMOTHORAX}) == BOTH
    assert read_pair({second: NO_PNEUMOTHORAX, first: graph()}) == BOTH


@pytest.mark.parametrize("name", ["note 7", "note.final", "12", "0"])
def test_reports_of_any_name_are_found(name):
    own = [Report(name, "p", "", OTHER, "train")]
    assert read_pair({name: NO_PNEUMOTHORAX}, own) == {(name, "Pneumothorax")}


SECTIONS = Report("s1", "p1", "Left base opacity.", "No effusion (2 views).", "train")


@pytest.mark.parametrize(("text", "same"), CASES["whether a text is that of s1, by number"])
def test_the_text_of_a_counting_key_must_be_the_reports(text, same, caplog):
    for key in ("0", 0, "x/0.txt"):
        extractor = RadGraphExtractor({key: {"text": text, "entities": {}}})
        if same:
            assert list(extractor.extract([SECTIONS])) == [] and extractor.read == {"s1"}
            continue
        message = f"row of key '{key}': its text is not that of report s1.*in this order"
        with pytest.raises(InputError, match=message):
            list(extractor.extract([SECTIONS]))
    caplog.clear()
    named = RadGraphExtractor({"s1": {"text": text, "entities": {}}})  # may hold all the report
    assert list(named.extract([SECTIONS])) == [] and named.read == {"s1"}
    held = "Left base opacity" in text or "( 2 views )" in text or same or text == "None"
    assert ("1 of 1 of RadGraph's graphs do not hold" in caplog.text) != held


@pytest.mark.parametrize(
    "graphs",
    [
        {"0": NO_PNEUMOTHORAX, "1": graph()},  # another order
        {"1": graph(), "2": NO_PNEUMOTHORAX, "3": graph()},  # counted from 1, of other reports
        {"0": graph(), "1": graph()},  # a report twice, another one missing
        {"0": graph(), "1": {"text": "Pneumothorax .", "entities": {}}},
    ],
)
def test_output_of_another_list_is_refused(graphs, tmp_path):
    path = tmp_path / "graphs.json"
    path.write_text(json.dumps(graphs))
    reports = [*PAIR, SECTIONS]
    for given_graphs, file in ((graphs, ""), (path, f"{path}, ")):
        with pytest.raises(InputError, match=rf"^{file}row of key '\d': "):
            read_pair(given_graphs, reports)


WRITTEN = {"s1": graph(), "s2": NO_PNEUMOTHORAX}
LINES = "\n".join(json.dumps({key: value}) for key, value in WRITTEN.items())
FILES = {
    "an object": json.dumps(WRITTEN).encode(),
    "lines": LINES.encode(),
    "lines of Windows": f"{LINES}\r\n\r\n".replace("}\n{", "}\r\n{").encode(),
    "lines without an end between": LINES.replace("\n", "").encode(),
    "a byte-order mark": b"\xef\xbb\xbf" + json.dumps(WRITTEN, indent=1).encode(),
    "gzip": gzip.compress(json.dumps(WRITTEN).encode()),
    "empty objects between": b"{}" + LINES.encode() + b"{} ",
}


@pytest.mark.parametrize("form", FILES)
def test_files_as_people_have_them(form, tmp_path):
    path = tmp_path / "graphs.json"
    path.write_bytes(FILES[form])
    assert read_pair(path) == BOTH


PARTS = {"LINES": LINES, "WRITTEN": json.dumps(WRITTEN), "GRAPH": json.dumps(graph())}
PARTS["DEEP"] = "[" * 5000


@pytest.mark.parametrize(("content", "message"), CASES["bad files"])
def test_files_that_are_no_radgraph_output_are_named(content, message, tmp_path):
    path = tmp_path / "graphs.json"
    for name, part in PARTS.items():
        content = content and content.replace(name, part)
    if content is not None:
        path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=rf"^{path}.*{message}"):
        read_pair(path)


FUZZED = RadGraphExtractor({})  # one, for its vocabulary takes a while


@given(mutated(*FILES.values()))
@fuzz
def test_mutated_output_is_read_or_named(tmp_path, content):
    FUZZED.graphs = tmp_path / "graphs.json"
    survives(lambda _: list(FUZZED.extract(PAIR)), FUZZED.graphs, content)


def test_a_large_file_takes_the_memory_of_a_block(tmp_path):
    path, peaks = tmp_path / "graphs.json", []
    for count in (50, 1000):
        path.write_text(json.dumps({f"p/s{i}.txt": graph() for i in range(count)}))
        tracemalloc.start()
        assert sum(1 for _ in stream_objects(path, 4096)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] and path.stat().st_size > 5 * peaks[1]
