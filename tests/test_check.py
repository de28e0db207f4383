"""A run against the committed results: what passes, what fails, what cannot be compared."""

import dataclasses

import pandas as pd
import pytest

from rctpl_utils.reporting import pages
from rctpl_utils.run import check
from rctpl_utils.run.check import CLOCK, COMPARED, compare, main
from rctpl_utils.workspace import Workspace

TABLE = pd.DataFrame(
    {
        "dataset": ["a", "a", "b"],
        "method": ["x", "y", "x"],
        "metric": "auc",
        "value": [0.5, 0.6, 0.7],
        "p_value": [0.2, None, 0.3],
        "n": [10, 10, 20],
        "seconds": [1.0, 2.0, 3.0],
    }
)


def test_rows_are_matched_by_name_and_numbers_within_their_tolerance():
    found = TABLE.assign(
        value=TABLE["value"] + [0.002, -0.0029, 0], p_value=TABLE["p_value"] + 0.04, seconds=9.0
    )
    outcome = compare("T", TABLE, found.iloc[::-1])
    assert outcome.compared == 9 and not outcome.differences
    assert str(outcome) == "T: 9 of 9 as committed"


def test_where_an_interval_is_wide_a_twentieth_of_it_is_allowed():
    wide = TABLE.assign(ci_low=[0.3, 0.59, 0.5], ci_high=[0.7, 0.61, None])
    found = wide.assign(value=TABLE["value"] + [0.019, 0.004, 0.004])
    differ = compare("T", wide, found).differences
    assert [each.row for each in differ] == ["a | y | auc", "b | x | auc"]
    assert len(compare("T", wide, wide.assign(value=TABLE["value"] + 0.021)).differences) == 3


def test_rows_of_clock_times_are_left_out():
    timed = pd.concat([TABLE, TABLE.iloc[:1].assign(metric=CLOCK, value=5.0)])
    assert not compare("T", timed, timed.assign(value=[*TABLE["value"], 9.0])).differences
    assert compare("T", timed, TABLE).compared == 9


@pytest.mark.parametrize(
    ("column", "value"), [("value", 0.604), ("value", None), ("n", 11), ("p_value", 0.5)]
)
def test_a_changed_number_is_told_with_its_row(column, value):
    found = TABLE.copy()
    found.loc[1, column] = value
    (difference,) = compare("T", TABLE, found).differences
    assert (difference.row, difference.column) == ("a | y | auc", column)


def test_a_missing_row_an_extra_one_and_a_missing_column_count_a_cell_each():
    assert len(compare("T", TABLE, TABLE.iloc[:2]).differences) == 3
    assert len(compare("T", TABLE.iloc[:2], TABLE).differences) == 3
    assert len(compare("T", TABLE, TABLE.drop(columns="n")).differences) == 3


def test_a_flipped_verdict_comes_first():
    ledger = pd.DataFrame({"claim": ["c"], "effect": [0.5], "verdict": ["supported"], "note": "x"})
    found = ledger.assign(effect=0.1, verdict="undecided", note="y")
    outcome = compare("Ledger", ledger, found)
    assert len(outcome.differences) == 2
    assert "verdict: supported committed, undecided here" in str(outcome).splitlines()[1]


@pytest.fixture
def run(tmp_path):
    """A run with every table, and the committed ones beside it."""
    workspace = Workspace.open("smoke", output=tmp_path / "run")
    workspace.results.mkdir(parents=True)
    (workspace.results / "rows.csv").write_text("done")
    committed = tmp_path / "committed"
    committed.mkdir()
    for name in COMPARED:
        for folder in (workspace.figures, committed):
            TABLE.to_csv(folder / name, index=False)
    return workspace, committed


def options(run):
    workspace, committed = run
    return ["--profile", "smoke", "--output", str(workspace.output), "--against", str(committed)]


def test_the_exit_status_says_whether_all_is_the_same(run, capsys):
    workspace, _ = run
    assert main(options(run)) == 0
    assert "117 of 117 are the committed ones; 0 verdicts differ" in capsys.readouterr().out
    TABLE.assign(value=0.1).to_csv(workspace.figures / "table1.csv", index=False)
    assert main(options(run)) == 1
    assert "Table 1: 6 of 9 as committed" in capsys.readouterr().out
    (workspace.figures / "table2.csv").unlink()
    assert main(options(run)) == 1
    assert "Table 2: 0 of 9" in capsys.readouterr().out


def test_without_a_run_or_something_to_compare_with_it_says_so(run, tmp_path, capsys, monkeypatch):
    workspace, committed = run
    (committed / "table1.csv").unlink()
    assert main(options(run)) == 2
    assert "no such results" in capsys.readouterr().err
    monkeypatch.setattr(check, "PROJECT", tmp_path)  # no clone
    assert main(options(run)[:4]) == 2
    assert "--against DIR" in capsys.readouterr().err
    (workspace.results / "rows.csv").unlink()
    assert main(options(run)) == 2
    assert "Run ./run_all.sh first" in capsys.readouterr().err


def test_the_committed_results_are_those_of_the_last_commit():
    workspace = dataclasses.replace(Workspace.open("embedded", device="cpu"))
    table = check._committed(workspace, "table1.csv", None)
    assert {"dataset", "method", "metric", "value"} <= set(table)


def test_the_numbers_in_the_pages_are_those_of_the_files():
    for path, text in pages.written().items():
        assert path.read_text(encoding="utf-8") == text, "run python -m rctpl_utils headline"
