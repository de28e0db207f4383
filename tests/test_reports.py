"""MIMIC-CXR's tree, and reports as people file them: no word is lost, no heading is a word."""

import gzip
import logging
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.text import reports as module
from rctpl_utils.text.reports import SPLIT_TABLE, Report, read_mimic_reports
from rctpl_utils.text.sections import parse_sections

FULL = "FINAL REPORT\n FINDINGS:\n\n A small\n effusion.\n\n IMPRESSION: Small effusion.\n"


def tree(root, texts, splits=None):
    """A tree with one study a patient: texts is {study number: text}."""
    rows = []
    for number, text in texts.items():
        folder = root / "files" / "p10" / f"p1000{number:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        content = text if isinstance(text, bytes) else text.encode()
        (folder / f"s5000{number:04d}.txt").write_bytes(content)
        split = (splits or {}).get(number, "train")
        rows.append((f"d{number}", f"5000{number:04d}", f"1000{number:04d}", split))
    table = pd.DataFrame(rows, columns=["dicom_id", "study_id", "subject_id", "split"])
    table.to_csv(root / SPLIT_TABLE, index=False)
    return table


def test_the_tree_is_read_with_its_splits_and_omissions_are_counted(tmp_path, caplog):
    tree(tmp_path, {1: FULL, 2: FULL}, {2: "test"})
    first, second = read_mimic_reports(tmp_path)
    said = "A small effusion.", "Small effusion."
    assert first == Report("s50000001", "p10000001", *said, "train")
    assert second.split == "test"
    assert first.text == " ".join(said)
    table = tree(tmp_path, {1: FULL, 2: "FINAL REPORT\n INDICATION: x", 3: FULL})
    table.iloc[:2].to_csv(tmp_path / SPLIT_TABLE, index=False)
    with caplog.at_level(logging.WARNING):
        assert [r.report_id for r in read_mimic_reports(tmp_path)] == ["s50000001"]
    assert "1 of 3 reports are not in the split table" in caplog.text
    assert "1 of 3 reports have neither findings nor impression" in caplog.text


def test_an_empty_corpus_and_a_damaged_split_table_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"split\.csv\.gz: the file is missing"):
        read_mimic_reports(tmp_path)
    tree(tmp_path, {})
    with pytest.raises(InputError, match="among 0 files"):
        read_mimic_reports(tmp_path)
    table = tree(tmp_path, {1: FULL, 2: FULL})
    table.drop(columns="split").to_csv(tmp_path / SPLIT_TABLE, index=False)
    with pytest.raises(InputError, match="no column 'split'"):
        read_mimic_reports(tmp_path)
    twice = pd.concat([table, table.assign(split="test").iloc[:1]])
    twice.to_csv(tmp_path / SPLIT_TABLE, index=False)
    with pytest.raises(InputError, match="two splits"):
        read_mimic_reports(tmp_path)
    skipped: list = []
    (found,) = read_mimic_reports(tmp_path, skip_bad=True, skipped=skipped)
    assert found.report_id == "s50000002"
    assert [each[1:] for each in skipped] == [(3, "a study_id that is in two splits")]
    (tmp_path / SPLIT_TABLE).write_bytes(gzip.compress(b"dicom_id,study_id\n" * 999)[:40])
    with pytest.raises(InputError, match="not a readable CSV table"):
        read_mimic_reports(tmp_path)


def test_reports_with_fewer_than_two_concepts_are_left_out():
    reports = [Report(f"s{i}", "p1", "x", "", "train") for i in range(3)]
    triplets = pd.DataFrame(
        [("s0", "Edema"), ("s0", "Mass"), ("s1", "Edema"), ("s1", "Edema")],
        columns=["report_id", "concept"],
    )
    assert module.with_enough_concepts(reports, triplets) == reports[:1]
    with pytest.raises(InputError, match="none of 2 reports mentions 2 concepts"):
        module.with_enough_concepts(reports[1:], triplets)


def test_only_real_reports_of_the_embedded_world_may_be_quoted(tmp_path):
    assert module.quotable_sources(tmp_path).empty
    table = pd.DataFrame(
        {"study_id": ["1", "1", "2"], "source": ["CXR8", "CXR8", "templated"]}, dtype=str
    )
    table.to_csv(tmp_path / module.METADATA_TABLE, index=False)
    assert module.quotable_sources(tmp_path).to_dict() == {"s1": "CXR8"}
    table.drop(columns="source").to_csv(tmp_path / module.METADATA_TABLE, index=False)
    assert module.quotable_sources(tmp_path).empty


def test_rows_without_their_report_are_an_error_or_counted(tmp_path):
    tree(tmp_path, {1: FULL, 2: FULL, 3: b"\xff"})
    next(tmp_path.rglob("s50000002.txt")).unlink()
    with pytest.raises(InputError, match="1 of 3 studies have no report: s50000002"):
        read_mimic_reports(tmp_path)
    with pytest.raises(InputError, match=r"s50000003\.txt: not a text file .*--skip-bad"):
        read_mimic_reports(tmp_path, allow_partial=True)
    skipped: list = []
    found = read_mimic_reports(tmp_path, skip_bad=True, skipped=skipped)
    assert [report.report_id for report in found] == ["s50000001"]
    assert [each.row for each in skipped] == ["of study s50000002", None]
    assert skipped[1].file.endswith("s50000003.txt")


CASES = read_json(Path(__file__).parent / "cases" / "report_sections.json")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["kind"])
def test_sections(case):
    assert parse_sections(case["text"]) == (case["findings"], case["impression"])


HEADINGS = st.sampled_from(["FINDINGS:", "IMPRESSION:", "CHEST, TWO VIEWS:", "FINDINGS", "LUNGS:"])


@given(st.lists(st.tuples(HEADINGS, st.sampled_from(["Clear.", "Small effusion.", "Nodule?"]))))
def test_no_sentence_is_lost_and_no_heading_becomes_a_word(parts):
    findings, impression = parse_sections("\n".join(f"{name}\n{said}" for name, said in parts))
    whole = f"{findings} {impression}"
    assert all(said in whole for _, said in parts)
    assert not any(word in whole for word in ("FINDINGS", "IMPRESSION", "VIEWS"))


@given(st.text(alphabet="abN: \n*_#.FINDGS/-\xa0") | st.text(max_size=300))
def test_any_text_gives_sections_that_are_part_of_it(text):
    text = "".join(each for each in text if each not in "\ufeff\u200b\u200c\u200d\u2060|\\")
    for section in parse_sections(text):
        assert section == " ".join(section.split())
        assert set(section.split()) <= set(text.replace(":", ": ").split()) | set(text.split())


WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=6), min_size=1, max_size=8).map(" ".join)


@given(WORDS, WORDS, WORDS)
def test_a_written_report_is_read_back(indication, findings, impression):
    text = (
        f"FINAL REPORT\n INDICATION:  {indication}\n\n FINDINGS:\n\n {findings}\n\n"
        f" IMPRESSION:\n\n {impression}\n"
    )
    assert parse_sections(text) == (findings, impression)
