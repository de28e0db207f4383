"""The ledger, and its verdicts on draws whose answers are known; ours beside the reported."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from rctpl_utils import claims_report, reproduction, results
from rctpl_utils.claims import compare, evaluate
from rctpl_utils.claims_ledger import Claim, Comparison, load_claims
from rctpl_utils.draws import save_draws
from rctpl_utils.errors import InputError
from rctpl_utils.metrics import paired_p_value, tail_p_value
from rctpl_utils.results import BASELINES
from rctpl_utils.workspace import Workspace

PAPER_SECTIONS = {"1", "2.2", "4.1.5", "4.2.1", "4.2.2", "4.2.3", "4.3.1", "4.3.2", "4.3.3", "5"}


def series(value: float, spread: float = 0.01, seed: int = 0, resamples: int = 400) -> np.ndarray:
    """The sample's value, then resamples around it, their mean exactly the value."""
    noise = np.random.default_rng(seed).normal(size=resamples)
    return value + spread * np.r_[0, noise - noise.mean()]


def comparison(kind: str = "greater", left="a", right=("b",), **fields) -> Comparison:
    known = {"draws": "table1", "datasets": ("d",), "metrics": ("m",), **fields}
    return Comparison(kind=kind, left=left, right=tuple(right), **known)


def claim(*tests: Comparison, name: str = "one", waits_for: str | None = None) -> Claim:
    return Claim(name, "in words", "1", "quoted", "because", tests, waits_for)


def verdict(tests: list[Comparison], values: dict[str, np.ndarray]) -> pd.Series:
    draws = {("d", name, "m"): value for name, value in values.items()}
    return evaluate([claim(*tests)], {"table1": draws})[0].iloc[0]


# --- the ledger -----------------------------------------------------------------------------


def test_the_ledger_holds_the_claims_that_matter():
    claims = load_claims()
    tested = [one for one in claims if one.waits_for is None]
    assert len(tested) >= 14
    assert {one.section for one in claims} <= PAPER_SECTIONS
    assert {"greater", "equivalent", "ratio"} == {t.kind for one in tested for t in one.tests}
    assert not [name for name in BASELINES if f"'{name}'" not in str([one.tests for one in tested])]


def test_a_claim_of_several_data_sets_has_a_part_for_each_comparison():
    both = comparison(datasets=("x", "y"), metrics=("p", "q"), right=("b", {"constant": 0.5}))
    parts = [part.words() for part in both.parts()]
    assert len(parts) == 8
    assert parts[0] == "x: p of a > b"
    assert parts[-1] == "y: q of a > 0.5"
    assert both.words() == "x, y: p, q of a > each of b, 0.5"
    close = comparison("equivalent", margin=0.01)
    assert close.words() == "d: m of a within 0.01 of b"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"quote": ""}, "row odd: empty: quote"),
        ({"why": None}, "row odd: empty: why"),
        ({"sectoin": "1"}, "row odd: unknown ['sectoin']"),
        ({"tests": []}, "row odd: the claim has no test"),
        ({"kind": "better"}, "row odd: kind 'better' is none of"),
        ({"margin": 0.1}, "row odd: a margin above zero belongs to kind 'equivalent'"),
        ({"kind": "equivalent"}, "row odd: a margin above zero belongs to kind 'equivalent'"),
        ({"right": [{"worst": ["b"]}]}, "row odd: no series: {'worst': ['b']}"),
    ],
)
def test_an_incomplete_claim_is_refused_by_name(tmp_path, change, says):
    test = {
        "draws": "table1", "datasets": ["d"], "metrics": ["m"], "kind": "greater", "left": "a",
        "right": ["b"],
    }  # fmt: skip
    test |= {key: value for key, value in change.items() if key in ("kind", "margin", "right")}
    record = {"id": "odd", "claim": "c", "section": "1", "quote": "q", "why": "w", "tests": [test]}
    record |= {key: value for key, value in change.items() if key not in test}
    path = tmp_path / "claims.json"
    path.write_text(json.dumps({"claims": [record]}), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_claims(path)
    assert says in str(caught.value)


def test_a_claim_that_lacks_a_field_or_stands_twice_is_refused(tmp_path):
    path = tmp_path / "claims.json"
    record = {"id": "odd", "claim": "c", "section": "1", "why": "w", "tests": []}
    path.write_text(json.dumps({"claims": [record]}), encoding="utf-8")
    with pytest.raises(InputError, match="the claim lacks \\['quote'\\]"):
        load_claims(path)
    record |= {"quote": "q", "waits_for": "patience"}
    path.write_text(json.dumps({"claims": [record, record]}), encoding="utf-8")
    with pytest.raises(InputError, match="row odd: the claim stands twice"):
        load_claims(path)


# --- p-values -------------------------------------------------------------------------------


@given(arrays(float, 60, elements=st.floats(-1, 1)))
def test_counted_tails_are_those_of_the_paired_test(differences):
    differences = np.r_[differences, [-2.0] * 10, [2.0] * 10]  # ten in either tail: counted
    both = min(tail_p_value(differences), tail_p_value(-differences))
    assert both == pytest.approx(paired_p_value(differences))


def test_a_tail_by_hand():
    differences = np.array([0.3, *[0.5] * 87, *[-0.1] * 12, np.nan])
    assert tail_p_value(differences) == pytest.approx(2 * 13 / 100)
    assert tail_p_value(-differences) == 1


def test_an_empty_tail_is_the_normal_one():
    differences = series(0.05, seed=4)
    spread = differences[1:].std()
    assert tail_p_value(differences) == pytest.approx(2 * norm.sf(0.05 / spread))
    assert tail_p_value(np.full(101, 0.2)) == pytest.approx(2 / 101)  # no spread to go by


# --- verdicts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "a", "expected"),
    [
        ("greater", 0.80, "supported"),
        ("greater", 0.60, "not supported"),
        ("greater", 0.705, "undecided"),
        ("equivalent", 0.705, "supported"),
        ("equivalent", 0.80, "not supported"),
        ("equivalent", 0.60, "not supported"),
        ("equivalent", 0.75, "undecided"),
        ("ratio", 0.80, "supported"),
        ("ratio", 0.60, "not supported"),
    ],
)
def test_every_kind_has_its_verdict(kind, a, expected):
    margin = {"margin": 0.05} if kind == "equivalent" else {}
    found = verdict([comparison(kind, **margin)], {"a": series(a), "b": series(0.7, seed=1)})
    assert found["verdict"] == expected
    effect = a / 0.7 - 1 if kind == "ratio" else a - 0.7
    assert found["effect"] == pytest.approx(effect)
    assert found["ci_low"] < effect < found["ci_high"]


def test_pairing_counts():
    shared = series(0, 0.1)  # the same patients are hard for both
    values = {"a": 0.71 + shared, "b": 0.70 + shared + series(0, 0.001, seed=2)}
    assert verdict([comparison()], values)["verdict"] == "supported"
    values["b"] = 0.70 + series(0, 0.1, seed=3)
    assert verdict([comparison()], values)["verdict"] == "undecided"


def test_one_failing_part_refutes_and_one_open_part_leaves_open():
    values = {"a": series(0.7), "low": series(0.5, seed=1), "near": series(0.7, seed=2)}
    values["high"] = series(0.9, seed=3)
    assert verdict([comparison(right=["low"])], values)["verdict"] == "supported"
    assert verdict([comparison(right=["low", "near"])], values)["verdict"] == "undecided"
    refuted = verdict([comparison(right=["low", "near", "high"])], values)
    assert refuted["verdict"] == "not supported"
    assert refuted["effect"] == pytest.approx(-0.2)
    assert refuted["note"] == "part shown: d: m of a > high"


def test_the_price_of_many_parts_is_paid_when_one_refutes():
    values = {"a": series(0.7), "b": series(0.72, seed=1)}
    one = verdict([comparison()], values)
    three = verdict([comparison(right=["b", "b", "b"])], values)
    assert three["p_value"] == pytest.approx(min(1, 3 * one["p_value"]))


def test_best_is_taken_in_every_resample():
    draws = {("d", name, "m"): value for name, value in {
        "a": np.array([0.6, 0.5, 0.8]), "x": np.array([0.5, 0.7, 0.1]),
        "y": np.array([0.4, 0.2, 0.6]),
    }.items()}  # fmt: skip
    found = compare(comparison(right=[{"best": ["x", "y"]}]), draws)
    low, high = np.percentile([0.5 - 0.7, 0.8 - 0.6], [2.5, 97.5])
    assert [found["effect"], found["ci_low"], found["ci_high"]] == pytest.approx([0.1, low, high])


def test_gains_are_compared_across_data_sets():
    draws = {
        ("d", "with", "m"): series(0.6), ("d", "without", "m"): series(0.4, seed=1),
        ("e", "with", "n"): series(0.9, seed=2), ("e", "without", "n"): series(0.75, seed=3),
    }  # fmt: skip
    gain = {"gain": ["with", "without"]}
    part = comparison("ratio", gain, [{**gain, "dataset": "e", "metric": "n"}])
    assert compare(part, draws)["effect"] == pytest.approx(1.5 / 1.2 - 1)
    draws["d", "without", "m"] = np.zeros(401)
    undefined = compare(part, draws)
    assert np.isnan(undefined["effect"])
    assert undefined["p_for"] == undefined["p_against"] == 1


def test_holm_covers_what_was_tested_and_nothing_else():
    draws = {("d", n, "m"): v for n, v in (("a", series(0.72)), ("b", series(0.69, seed=1)))}
    alone, _ = evaluate([claim(comparison())], {"table1": draws})
    waiting = claim(comparison(right=["absent"]), name="later", waits_for="a rival")
    with_waiting, _ = evaluate([claim(comparison()), waiting], {"table1": draws})
    assert with_waiting["p_holm"].tolist()[0] == alone["p_holm"][0] == alone["p_value"][0]
    assert with_waiting["verdict"][1] == "not tested"
    assert with_waiting["note"][1] == "a rival"
    twice, parts = evaluate([claim(comparison()), claim(comparison(), name="b")], {"table1": draws})
    assert twice["p_holm"].tolist() == pytest.approx([2 * alone["p_value"][0]] * 2)
    assert parts["claim"].tolist() == ["one", "b"]


def test_what_a_claim_waits_for_is_tested_once_it_is_there():
    draws = {("d", "a", "m"): series(0.9), ("d", "rival", "m"): series(0.5, seed=1)}
    waiting = claim(comparison(right=["rival"]), waits_for="a rival")
    assert evaluate([waiting], {"table1": draws})[0]["verdict"][0] == "supported"


def test_a_claim_without_its_results_is_not_tested_and_says_what_is_missing():
    found = verdict([comparison(right=["b", "c"])], {"a": series(0.7), "c": series(0.5)})
    assert (found["verdict"], found["note"]) == ("not tested", "no results of b on d")
    best = verdict([comparison(right=[{"best": ["b", "e"]}])], {"a": series(0.7)})
    assert best["note"] == "no results of b on d, e on d"


def test_on_an_absent_data_set_nothing_is_tested_whatever_an_earlier_run_left():
    draws = {("d", "a", "m"): series(0.7), ("d", "b", "m"): series(0.6)}
    draws |= {("x", "a", "m"): series(0.7), ("x", "b", "m"): series(0.6)}
    gain = {"gain": ["a", "b"]}
    elsewhere = comparison(left=gain, right=[{**gain, "dataset": "x"}])
    claims = [
        claim(comparison(datasets=("d", "x"))),
        claim(elsewhere, name="elsewhere"),
        claim(comparison(), name="there"),
        claim(comparison(datasets=("x",), right=["rival"]), name="later", waits_for="a rival"),
    ]
    verdicts, parts = evaluate(claims, {"table1": draws}, absent=["x", "y"])
    assert verdicts["verdict"].tolist() == ["not tested", "not tested", "supported", "not tested"]
    assert [verdicts["note"][k] for k in (0, 1, 3)] == ["data set x absent"] * 3
    assert set(parts["claim"]) == {"there"}
    assert (evaluate(claims, {"table1": draws})[0]["verdict"][:2] != "not tested").all()


# --- what notebook 10 writes ----------------------------------------------------------------


def names(operand) -> list[str]:
    return [operand] if isinstance(operand, str) else operand.get("best", operand.get("gain", []))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    """A run whose draws hold every series that the ledger compares, RC-TPL's the best."""
    found = Workspace.open("smoke", output=tmp_path_factory.mktemp("out"), device="cpu")
    draws: dict[str, dict] = {}
    for part in (part for one in load_claims() if one.waits_for is None for part in one.parts()):
        for operand in (part.left, part.right[0]):
            own = operand if isinstance(operand, dict) else {}
            dataset = own.get("dataset", part.datasets[0])
            metric = own.get("metric", part.metrics[0])
            for name in names(operand):
                key = dataset, name, metric
                value = 0.8 if name in ("RC-TPL", "M=12") else 0.6
                kept = draws.setdefault(part.draws, {})
                kept.setdefault(key, series(value, seed=len(kept)))
    for name, series_of_name in draws.items():
        save_draws(found.results, name, series_of_name)
    grounding = results.reported_grounding()
    tables = [results.reported_table1()]
    tables += [grounding[grounding["dataset"] == d] for d in ("rsna", "siim", "covid-rural")]
    tables += [results.reported_retrieval()]
    for number, reported in enumerate(tables, start=1):
        ours = reported[reported["method"] == "RC-TPL"].drop(columns="reported")
        ours = ours.assign(value=0.5, ci_low=0.4, ci_high=0.7, seeds=3, n=9, native=True)
        rows = results.with_reported(ours, reported)
        results.write_csv(found.figures / f"table{number}.csv", rows)
    return found


def test_claims_are_written_and_summed_up(workspace):
    verdicts = claims_report.save_claims(workspace)
    written = pd.read_csv(workspace.figures / "claims.csv")
    assert written["verdict"].tolist() == verdicts["verdict"].tolist()
    found = written.set_index("claim")["verdict"]
    assert found["names-chexpert"] == "supported"
    assert found["length-negligible"] == "not supported"  # 0.8 against 0.6
    assert found["baselines-covid"] == "supported"  # the draws of its rivals are there
    assert found["length-cost"] == "not tested"
    text = claims_report.summary(workspace, verdicts)
    counts = verdicts["verdict"].value_counts()
    assert text.startswith(f"{len(found)} claims, {len(found) - counts['not tested']} tested: ")
    assert f"{counts['supported']} supported" in text
    page = (workspace.figures / "claims.md").read_text(encoding="utf-8")
    assert "On the smoke world only: simulated radiographs" in page
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert {line.replace(" | ", "").count("|") for line in rows} == {2}
    assert len(rows) == 1 + len(found)


def test_the_forest_has_a_line_for_every_tested_claim(workspace):
    verdicts = claims_report.save_claims(workspace)
    figure = claims_report.claims_figure(workspace, verdicts)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    tested = verdicts[verdicts["verdict"] != "not tested"]
    assert labels == tested["in_words"].tolist()
    assert (workspace.figures / "claims.pdf").stat().st_size > 0


def test_the_forest_says_what_is_not_defined(workspace):
    verdicts = claims_report.save_claims(workspace)
    verdicts.loc[0, ["effect", "ci_low", "ci_high"]] = np.nan
    figure = claims_report.claims_figure(workspace, verdicts)
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown[0] == "not defined in this run"
    assert shown[1] == f"{verdicts['effect'][1]:+.3f} [{verdicts['ci_low'][1]:+.3f}, " + (
        f"{verdicts['ci_high'][1]:+.3f}]"
    )


def test_ours_stand_beside_the_reported_with_the_difference(workspace):
    cells = reproduction.save_reproduction(workspace)
    assert len(cells) == 9 * 8 + 5 * 4 + 5 * 3 + 5 * 3 + 5 * 4
    one = cells[(cells["table"] == 1) & (cells["method"] == "RC-TPL")]
    one = one[(one["dataset"] == "chexpert") & (one["metric"] == "auc")].iloc[0]
    bounds = one[["difference", "difference_low", "difference_high"]].tolist()
    assert bounds == pytest.approx([0.5 - 0.8518, 0.4 - 0.8518, 0.7 - 0.8518])
    last = reproduction.side_by_side(cells, 5)
    assert last.index.get_level_values("metric")[:4].tolist() == [
        f"precision_at_{k}" for k in (1, 2, 5, 10)
    ]
    assert last.iloc[0].tolist() == ["not run", "0.2000", "not run"]
    assert last.iloc[-1].tolist() == [
        "0.500 [0.400, 0.700]", "0.6100", "-0.110 [-0.210, +0.090]"
    ]  # fmt: skip
    page = (workspace.figures / "reproduction.md").read_text(encoding="utf-8")
    assert "Simulated radiographs" in page
    assert "| CXR-3" in page


def test_the_picture_shows_every_cell_of_rctpl(workspace):
    cells = reproduction.reported_cells(workspace)
    figure = reproduction.reproduction_figure(workspace, cells)
    labels = [label.get_text() for axis in figure.axes for label in axis.get_yticklabels()]
    assert len(labels) == 8 + 4 + 3 + 3 + 4
    assert (workspace.figures / "reproduction.png").stat().st_size > 0


def test_an_absent_table_is_an_error(tmp_path):
    empty = Workspace.open("smoke", output=tmp_path, device="cpu")
    with pytest.raises(InputError, match=r"table1\.csv: the table is not there"):
        reproduction.reported_cells(empty)
