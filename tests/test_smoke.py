"""The headless run: every real notebook on the smoke profile, into a folder of its own."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from rctpl_utils.evaluation.results import BASELINES
from rctpl_utils.evaluation.table1 import SUPERVISED
from rctpl_utils.files import read_json
from rctpl_utils.reporting.claims import VERDICTS
from rctpl_utils.run.schedule import find_notebooks
from rctpl_utils.workspace import NOTEBOOKS, PROJECT

pytestmark = pytest.mark.slow
OUTPUT = PROJECT / "build" / "test-output"
TIDY = {"dataset", "method", "metric", "value", "ci_low", "ci_high", "seeds", "n", "reported"}
COLUMNS = {
    **{f"table{number}.csv": TIDY for number in range(1, 6)},
    "extraction.csv": {"concept", "precision", "recall", "f1", "support"},
    "claims.csv": {"claim", "quote", "test", "effect", "ci_low", "ci_high", "p_holm", "verdict"},
    "ablations.csv": {"factor", "level", "dataset", "metric", "value", "difference", "p_holm"},
}
SHARES = ("auc", "acc", "precision", "pointing", "region", "pixel", "dice", "text_to_image")
PICTURES = (
    "grounding_gallery", "saliency_sanity", "baseline_curves", "prompt_learner_curves", "bridges",
    "modality_gap", "method_map", *(f"fig{number}" for number in range(1, 7)),
)  # fmt: skip
EXPECTED = (
    *COLUMNS,
    *(f"table{number}{suffix}" for number in range(1, 6) for suffix in (".md", ".tex")),
    *(f"{name}{suffix}" for name in PICTURES for suffix in (".png", ".pdf")),
    *("table1_paired_tests.csv", "bridges.csv", "method_map.csv", "reproduction.md", "claims.md"),
)


def smoke_run(*options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rctpl_utils", "run", "--profile", "smoke", "--output", OUTPUT]
    there = {"cwd": PROJECT, "env": {**os.environ, "PYTHONPATH": str(PROJECT)}}
    return subprocess.run([*command, *options], **there, capture_output=True, text=True)


@pytest.fixture(scope="module")
def figures():
    """The smoke run's results; where `./run_all.sh test` has just made them, nothing runs twice."""
    completed = smoke_run()
    assert completed.returncode == 0, completed.stdout[-2000:] + completed.stderr[-4000:]
    return OUTPUT / "figures" / "smoke"


def rows_of(path: Path) -> list[dict[str, str]]:
    return [*csv.DictReader(path.read_text(encoding="utf-8").splitlines())]


@pytest.mark.parametrize("name", COLUMNS)
def test_the_tables_have_their_columns_and_proper_values(figures, name):
    rows = rows_of(figures / name)
    assert rows
    assert COLUMNS[name] <= set(rows[0])
    for row in rows:
        if row.get("metric", "").startswith(SHARES) and row.get("value"):
            assert 0 <= float(row["ci_low"]) <= float(row["value"]) <= float(row["ci_high"]) <= 1
        assert 0 <= float(row.get("f1") or 0) <= 1
        assert row.get("verdict", "supported") in VERDICTS


@pytest.mark.parametrize("number", range(1, 6))
def test_every_table_has_our_rows_with_values_and_the_papers_numbers(figures, number):
    rows = rows_of(figures / f"table{number}.csv")
    ours = [row for row in rows if row["method"] == "RC-TPL"]
    assert ours and any(row["value"] for row in ours) and any(row["reported"] for row in ours)
    for name in (*BASELINES, SUPERVISED):  # each was trained and measured here
        assert any(row["value"] for row in rows if row["method"] == name), name
    for suffix in (".md", ".tex"):
        assert "Simulated" in (figures / f"table{number}{suffix}").read_text(encoding="utf-8")


def test_all_promised_files_are_there_and_recorded_and_no_copy_holds_an_error(figures):
    for name in (*EXPECTED, "world.png", "manifest.json"):
        assert (figures / name).stat().st_size > 0, name
    manifest = read_json(figures / "manifest.json")
    assert set(manifest["notebooks"]) == {path.stem for path in find_notebooks(NOTEBOOKS)}
    assert set(EXPECTED) <= set(manifest["files"])
    assert manifest["hashes"]["world"] and manifest["hashes"]["encoder"]
    for path in (OUTPUT / "build" / "smoke" / "executed").glob("*.ipynb"):
        outputs = [o for c in nbformat.read(path, as_version=4).cells for o in c.get("outputs", [])]
        assert not [output for output in outputs if output.output_type == "error"], path.name


def test_the_same_run_gives_the_same_bytes_and_a_second_finds_all_up_to_date(figures):
    before = {name: (figures / name).read_bytes() for name in ("table1.csv", "table1.md")}
    assert smoke_run("--only", "05", "--force").returncode == 0
    assert {name: (figures / name).read_bytes() for name in before} == before
    completed = smoke_run()
    assert completed.returncode == 0
    lines = [line for line in completed.stdout.splitlines() if line.startswith("[")]
    assert len(lines) == len(find_notebooks(NOTEBOOKS))
    assert all(line.endswith(": up to date") for line in lines)
