"""A run against the committed results: what passes, what fails, what cannot be compared."""

import pandas as pd
import pytest

from rctpl_utils.reporting import pages
from rctpl_utils.run import check
from rctpl_utils.run.check import CLOCK, COMPARED, compare, main
from rctpl_utils.workspace import Workspace

TABLE = pd.DataFrame({"dataset": [*"aab"], "method": [*"xyx"], "metric": "auc"}).assign(
    value=[0.5, 0.6, 0.7], p_value=[0.2, None, 0.3], n=[10, 10, 20], seconds=[1.0, 2.0, 3.0]
)
WIDE = TABLE.assign(ci_low=[0.3, 0.59, 0.5], ci_high=[0.7, 0.61, None])
TIMED = pd.concat([TABLE, TABLE.iloc[:1].assign(metric=CLOCK, value=5.0)], ignore_index=True)
AX, AY, BX = "a | x | auc", "a | y | auc", "b | x | auc"


def changed(column: str, value: float | None) -> pd.DataFrame:
    found = TABLE.copy()
    found.loc[1, column] = value
    return found


def moved(table: pd.DataFrame, **by: float | list[float]) -> pd.DataFrame:
    return table.assign(**{column: table[column] + step for column, step in by.items()})


@pytest.mark.parametrize(
    ("committed", "found", "differ"),  # which rows, in which columns
    [
        # rows are matched by name, numbers within their tolerance, clock times left out
        (TABLE, moved(TABLE, value=[0.002, -0.0029, 0], p_value=0.04, seconds=9).iloc[::-1], []),
        (TIMED, TIMED.assign(value=[*TABLE["value"], 9.0]), []),
        (TIMED, TABLE, []),
        # a twentieth of an interval is allowed
        (WIDE, moved(WIDE, value=[0.019, 0.004, 0.004]), [(AY, "value"), (BX, "value")]),
        (WIDE, moved(WIDE, value=0.021), [(row, "value") for row in (AX, AY, BX)]),
        (TABLE, changed("value", 0.604), [(AY, "value")]),
        (TABLE, changed("value", None), [(AY, "value")]),
        (TABLE, changed("p_value", 0.5), [(AY, "p_value")]),
        (TABLE, changed("n", 11), [(AY, "n")]),
        # a row or a column too few or too many counts a cell each
        (TABLE, TABLE.iloc[:2], [(BX, column) for column in ("value", "p_value", "n")]),
        (TABLE.iloc[:2], TABLE, [(BX, column) for column in ("value", "p_value", "n")]),
        (TABLE, TABLE.drop(columns="n"), [(row, "n") for row in (AX, AY, BX)]),
    ],
)
def test_what_differs_is_told_with_its_row(committed, found, differ):
    outcome = compare("T", committed, found)
    assert [(each.row, each.column) for each in outcome.differences] == differ
    cells = 3 * (len({*committed} - {"seconds"}) - 3)
    assert outcome.compared == cells
    assert str(outcome).startswith(f"T: {cells - len(differ)} of {cells} as committed")


def test_a_flipped_verdict_comes_first():
    ledger = pd.DataFrame({"claim": ["c"], "effect": [0.5], "verdict": ["supported"], "note": "x"})
    found = ledger.assign(effect=0.1, verdict="undecided", note="y")
    outcome = compare("Ledger", ledger, found)
    assert len(outcome.differences) == 2
    assert "verdict: supported committed, undecided here" in str(outcome).splitlines()[1]


def test_the_exit_status_says_whether_all_is_the_same(tmp_path, capsys, monkeypatch):
    workspace, committed = Workspace.open("smoke", output=tmp_path / "run"), tmp_path / "committed"
    for folder in (workspace.results, committed):
        folder.mkdir(parents=True)
    result = workspace.results / "rows.csv"
    result.write_text("done")
    for name in COMPARED:
        for folder in (workspace.figures, committed):
            TABLE.to_csv(folder / name, index=False)

    def ends(status: int, said: str, *options: str) -> None:
        assert main(["--profile", "smoke", "--output", str(workspace.output), *options]) == status
        assert said in "".join(capsys.readouterr())

    against = ("--against", str(committed))
    ends(0, "117 of 117 are the committed ones; 0 verdicts differ", *against)
    TABLE.assign(value=0.1).to_csv(workspace.figures / "table1.csv", index=False)
    ends(1, "Table 1: 6 of 9 as committed", *against)
    (workspace.figures / "table2.csv").unlink()
    ends(1, "Table 2: 0 of 9", *against)
    # what cannot be compared
    (committed / "table1.csv").unlink()
    ends(2, "no such results", *against)
    monkeypatch.setattr(check, "PROJECT", tmp_path)  # no clone
    ends(2, "--against DIR")
    result.unlink()
    ends(2, "Run ./run_all.sh first", *against)


def test_the_committed_results_are_those_of_the_last_commit():
    table = check._committed("figures/embedded/table1.csv")
    assert {"dataset", "method", "metric", "value"} <= set(table)


def test_the_numbers_in_the_pages_are_those_of_the_files():
    for path, text in pages.written().items():
        assert path.read_text(encoding="utf-8") == text, "run python -m rctpl_utils headline"
