"""The ledger, and its verdicts on draws whose answers are known; ours beside the reported."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.stats import norm

from rctpl_utils.errors import InputError
from rctpl_utils.evaluation import results
from rctpl_utils.evaluation.metrics import tail_p_value
from rctpl_utils.evaluation.results import BASELINES, load_draws, save_draws
from rctpl_utils.reporting import claims as ledger
from rctpl_utils.reporting import reproduction
from rctpl_utils.workspace import Workspace

CASES = pd.read_csv(Path(__file__).parent / "cases" / "claims.csv", dtype=str).fillna("")


def series(value: float, spread: float = 0.01, seed: int = 0, resamples: int = 400) -> np.ndarray:
    """The sample's value, then resamples around it, their mean exactly the value."""
    noise = np.random.default_rng(seed).normal(size=resamples)
    return value + spread * np.r_[0, noise - noise.mean()]


def runs(values: list[float], spread: float = 0.01, seed: int = 0) -> np.ndarray:
    """One series a seed, on the same resamples."""
    return np.stack([series(value, spread, seed) for value in values])


def comparison(kind: str = "greater", left="a", right=("b",), **fields) -> ledger.Comparison:
    known = {"draws": "table1", "datasets": ("d",), "metrics": ("m",), **fields}
    return ledger.Comparison(kind=kind, left=left, right=tuple(right), **known)


def claim(*tests: ledger.Comparison, name="one", waits_for=None) -> ledger.Claim:
    return ledger.Claim(name, "in words", "1", "quoted", "because", tests, waits_for)


def at(values: dict[str, np.ndarray], dataset: str = "d", metric: str = "m") -> dict:
    """Draws of several methods on one data set."""
    return {(dataset, name, metric): value for name, value in values.items()}


def verdict(test: ledger.Comparison, values: dict[str, np.ndarray]) -> pd.Series:
    return ledger.evaluate([claim(test)], {"table1": at(values)})[0].iloc[0]


def test_the_ledger_holds_the_claims_that_matter():
    claims = ledger.load_claims()
    tested = [one for one in claims if one.waits_for is None]
    assert len(tested) >= 14
    sections = r"Abstract|1|2\.2|3\.2|4\.1\.5|4\.2\.[123]|4\.3\.[123]|5"
    assert all(re.fullmatch(sections, one.section) for one in claims)
    assert {"greater", "equivalent", "ratio"} == {t.kind for one in tested for t in one.tests}
    assert set(BASELINES) <= {str(r) for one in tested for t in one.tests for r in t.right}
    for title in (one.claim for one in claims if one.tests):  # names opponent and measure
        assert re.search("above|within|nearer|nearest", title) and ": " in title, title


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
        ({"quote": ""}, "empty: quote"),
        ({"why": None}, "empty: why"),
        ({"sectoin": "1"}, "unknown ['sectoin']"),
        ({"tests": []}, "the claim has no test"),
        ({"kind": "better"}, "kind 'better' is none of"),
        ({"margin": 0.1}, "a margin above zero belongs to kind 'equivalent'"),
        ({"kind": "equivalent"}, "a margin above zero belongs to kind 'equivalent'"),
        ({"right": [{"worst": ["b"]}]}, "no series: {'worst': ['b']}"),
        ({"quote": ...}, "the claim lacks ['quote']"),
        ({}, "the claim stands twice"),
    ],
)
def test_an_incomplete_claim_is_refused_by_name(tmp_path, change, says):
    test = {"draws": "t", "datasets": ["d"], "metrics": ["m"], "kind": "greater", "left": "a"}
    inner = {key: change[key] for key in ("kind", "margin", "right") if key in change}
    record = {"id": "odd", "claim": "c", "section": "1", "quote": "q", "why": "w"}
    record |= {"tests": [{**test, "right": ["b"], **inner}]}
    record |= {key: value for key, value in change.items() if key not in inner}
    record = {key: value for key, value in record.items() if value is not ...}
    path = tmp_path / "claims.json"
    path.write_text(json.dumps({"claims": [record] * (1 if change else 2)}), encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(f"row odd: {says}")):
        ledger.load_claims(path)


def test_a_tail_by_hand_and_an_empty_one_is_the_normal_one():
    differences = np.array([0.3, *[0.5] * 87, *[-0.1] * 12, np.nan])
    assert tail_p_value(differences) == pytest.approx(2 * 13 / 100)
    assert tail_p_value(-differences) == 1
    differences = series(0.05, seed=4)
    spread = differences[1:].std()
    assert tail_p_value(differences) == pytest.approx(2 * norm.sf(0.05 / spread))
    assert tail_p_value(np.full(101, 0.2)) == pytest.approx(2 / 101)  # no spread to go by


def draws_of(words: str, dataset: str, metric: str) -> dict:
    """Draws of "name value [value ...]; ..."; a floor's are spread evenly, and told by AUC too."""
    draws = {}
    for seed, each in enumerate(filter(lambda each: each != "released", words.split("; "))):
        name, values = re.fullmatch(r"(.*?) ((?:[\d.]+(?: to | |$))+)", each).groups()
        numbers = [float(value) for value in values.replace("to ", "").split()]
        found = runs(numbers, seed=seed) if len(numbers) > 1 else series(numbers[0], seed=seed)
        if name in ("supervised", "floor"):
            if name == "floor":
                found = np.r_[np.mean(numbers), np.linspace(*numbers, 201)][None]
            names = ledger.FLOORS if name == "floor" else (ledger.SUPERVISED,)
            draws |= at(dict.fromkeys(names, found), dataset, "auc")
        else:
            draws |= at({name: found}, dataset, metric) | at({name: found}, dataset, "auc")
    return draws


@pytest.mark.parametrize("case", list(CASES.itertuples()), ids=CASES["shows"])
def test_verdicts(case):
    dataset, metric = case.place.split(": ")
    right = [{"constant": 0.5} if each == "0.5" else each for each in case.right.split("; ")]
    margin = {"margin": float(case.margin)} if case.margin else {}
    test = comparison(case.kind, right=right, datasets=(dataset,), metrics=(metric,), **margin)
    draws, released = draws_of(case.series, dataset, metric), case.series.startswith("released")
    verdicts, parts = ledger.evaluate([claim(test)], {"table1": draws}, miniatures=not released)
    found = verdicts.iloc[0]
    assert found["verdict"] == case.verdict
    assert (found["note"] or "").endswith(case.note) and bool(found["note"]) == bool(case.note)
    assert np.isnan(found["p_holm"]) == (not case.effect)
    if case.effect:
        assert found["effect"] == pytest.approx(float(case.effect), abs=1e-6)
        assert found["ci_low"] < found["effect"] < found["ci_high"]
    if case.verdict in (ledger.INVALID, ledger.UNTRAINED_RIVAL):
        assert parts["left_out"].tolist() == [case.verdict]


def test_pairing_of_patients_and_seeds_counts_and_the_same_series_differs_by_nothing(tmp_path):
    shared = series(0, 0.1)  # the same patients are hard for both
    values = {"a": 0.71 + shared, "b": 0.70 + shared + series(0, 0.001, seed=2)}
    assert verdict(comparison(), values)["verdict"] == "supported"
    values["b"] = 0.70 + series(0, 0.1, seed=3)
    assert verdict(comparison(), values)["verdict"] == "undecided"
    values = {"a": runs([0.6, 0.7, 0.8]), "b": runs([0.59, 0.69, 0.79])}
    paired = verdict(comparison(), values)
    assert paired["verdict"] == "supported" and paired["ci_low"] == pytest.approx(0.01)
    values["b"] = values["b"][[1, 2, 0]]
    assert verdict(comparison(), values)["verdict"] == "undecided"
    same = runs([0.6, 0.7, 0.8], 0.05)
    save_draws(tmp_path, "x", at({"a": same, "b": same.copy()}))
    found = ledger.compare(comparison(), load_draws(tmp_path, "x"))
    assert (found["effect"], found["ci_low"], found["ci_high"]) == (0, 0, 0)
    assert found["p_for"] == found["p_against"] == 1


def test_many_parts_have_their_price_and_many_equal_rivals_are_no_evidence_against():
    values = {"a": series(0.7), "b": series(0.72, seed=1)}
    one, three = (verdict(comparison(right=["b"] * n), values)["p_value"] for n in (1, 3))
    assert three == pytest.approx(min(1, 3 * one))
    # the best of eight equal rivals beats a ninth equal; one test a rival does not say so
    generator, refuted = np.random.default_rng(5), 0
    names = [*(f"r{k}" for k in range(8)), "a"]
    for _ in range(100):
        means = 0.7 + generator.normal(0, 0.01, len(names))
        values = {name: series(means[k], seed=k) for k, name in enumerate(names)}
        refuted += verdict(comparison(right=names[:-1]), values)["verdict"] == "not supported"
    assert refuted <= 10


def test_what_is_left_out_by_table1s_column_costs_no_correction():
    draws = draws_of("a 0.9; b 0.6; supervised 0.7; floor 0.4 to 0.6", "d", "auc")
    draws |= draws_of("a 0.72; b 0.69", "e", "auc")
    claims = [claim(comparison(datasets=(n,), metrics=("auc",)), name=n) for n in ("d", "e")]
    verdicts, _ = ledger.evaluate(claims, {"table1": draws})
    assert verdicts["verdict"][0] == ledger.INVALID
    assert verdicts["p_holm"][1] == verdicts["p_value"][1]
    judged = draws_of("supervised 0.7; floor 0.4 to 0.6", "d", "auc")
    draws = {"table1": judged, "ablations": draws_of("a 0.9; b 0.6", "d", "auc")}
    assert ledger.left_out(comparison(draws="ablations", metrics=("auc",)), draws) == ledger.INVALID


def test_gains_are_compared_across_data_sets_and_what_they_miss_is_named():
    draws = at({"with": series(0.6), "without": series(0.4, seed=1)})
    draws |= at({"with": series(0.9, seed=2), "without": series(0.75, seed=3)}, "e", "n")
    gain = {"gain": ["with", "without"]}
    part = comparison("ratio", gain, [{**gain, "dataset": "e", "metric": "n"}])
    assert ledger.compare(part, draws)["effect"] == pytest.approx(1.5 / 1.2 - 1)
    draws["d", "without", "m"] = np.zeros(401)
    undefined = ledger.compare(part, draws)
    assert np.isnan(undefined["effect"])
    assert undefined["p_for"] == undefined["p_against"] == 1
    gain = verdict(comparison("ratio", {"gain": ["b", "e"]}, ["a"]), {"a": series(0.7)})
    assert (gain["verdict"], gain["note"]) == ("not tested", "no results of b on d, e on d")


def test_holm_covers_what_was_tested_and_nothing_else():
    draws = {"table1": at({"a": series(0.72), "b": series(0.69, seed=1)})}
    one = claim(comparison())
    alone, _ = ledger.evaluate([one], draws)
    waiting = claim(comparison(right=["absent"]), name="later", waits_for="a rival")
    with_waiting, _ = ledger.evaluate([one, waiting], draws)
    assert with_waiting["p_holm"].tolist()[0] == alone["p_holm"][0] == alone["p_value"][0]
    assert (with_waiting["verdict"][1], with_waiting["note"][1]) == ("not tested", "a rival")
    twice, parts = ledger.evaluate([one, claim(comparison(), name="b")], draws)
    assert twice["p_holm"].tolist() == pytest.approx([2 * alone["p_value"][0]] * 2)
    assert parts["claim"].tolist() == ["one", "b"]
    there = claim(comparison(right=["b"]), waits_for="a rival")  # it has come: it is tested
    assert ledger.evaluate([there], draws)[0]["p_holm"][0] == alone["p_holm"][0]


def test_on_an_absent_data_set_nothing_is_tested_whatever_an_earlier_run_left():
    values, gain = {"a": series(0.7), "b": series(0.6)}, {"gain": ["a", "b"]}
    draws = {"table1": at(values) | at(values, "x")}
    elsewhere = comparison(left=gain, right=[{**gain, "dataset": "x"}])
    claims = [
        claim(comparison(datasets=("d", "x"))),
        claim(elsewhere, name="elsewhere"),
        claim(comparison(), name="there"),
        claim(comparison(datasets=("x",), right=["rival"]), name="later", waits_for="a rival"),
    ]
    verdicts, parts = ledger.evaluate(claims, draws, absent=["x", "y"])
    assert verdicts["verdict"].tolist() == ["not tested", "not tested", "supported", "not tested"]
    assert [verdicts["note"][k] for k in (0, 1, 3)] == ["data set x absent"] * 3
    assert set(parts["claim"]) == {"there"}
    assert (ledger.evaluate(claims, draws)[0]["verdict"][:2] != "not tested").all()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    """A run whose draws hold every series that the ledger compares, RC-TPL's the best."""
    found = Workspace.open("smoke", output=tmp_path_factory.mktemp("out"), device="cpu")
    draws: dict[str, dict] = {}
    tested = [one for one in ledger.load_claims() if one.waits_for is None]
    for part in (part for one in tested for part in one.parts()):
        kept = draws.setdefault(part.draws, {})
        for key in part.series():
            value = 0.8 if key[1] in ("RC-TPL", "M=12") else 0.6
            kept.setdefault(key, series(value, seed=len(kept)))
    for name, kept in draws.items():
        save_draws(found.results, name, kept)
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


def test_claims_are_written_summed_up_and_drawn(workspace, monkeypatch):
    verdicts = reproduction.save_claims(workspace)
    written = pd.read_csv(workspace.figures / "claims.csv")
    assert written["verdict"].tolist() == verdicts["verdict"].tolist()
    found = written.set_index("claim")["verdict"]
    assert found["names-chexpert"] == "supported"
    assert found["length-negligible"] == "not supported"  # 0.8 against 0.6
    assert found["baselines-covid"] == "supported"  # the draws of its rivals are there
    assert found["length-cost"] == "not tested"
    page = (workspace.figures / "claims.md").read_text(encoding="utf-8")
    assert "On the smoke world only: simulated radiographs" in page
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert {line.replace(" | ", "").count("|") for line in rows} == {2}
    assert len(rows) == 1 + len(found)
    counts = found.value_counts()
    text = reproduction.summary(workspace, verdicts)
    assert text.startswith(f"{len(found)} claims, {len(found) - counts['not tested']} tested: ")
    assert f"{counts['supported']} supported" in text
    assert f"; {counts['not tested']} not tested, 0 instrument invalid" in text

    tested = verdicts.index[verdicts["verdict"] != "not tested"]
    verdicts.loc[tested[:2], "verdict"] = [ledger.INVALID, ledger.UNTRAINED_RIVAL]
    verdicts.loc[tested[2], ["effect", "ci_low", "ci_high"]] = np.nan
    text = reproduction.summary(workspace, verdicts)
    assert "1 instrument invalid, 1 rival untrained." in text.splitlines()[0]
    assert f"Instrument invalid: {verdicts['in_words'][tested[0]]}." in text
    assert set(reproduction.TESTED) < set(ledger.VERDICTS)
    monkeypatch.setattr(Figure, "savefig", lambda _self, path, **_style: Path(path).touch())
    figure = reproduction.claims_figure(workspace, verdicts)  # a line for every tested claim
    labels = [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    drawn = [label.replace("\n", " ") for label in labels]
    assert sorted(drawn) == sorted(verdicts["in_words"][tested[2:]])
    shown = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert shown.count("not defined in this run") == 1
    row = verdicts.loc[tested[3]]
    assert f"{row['effect']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]" in shown
    assert (workspace.figures / "claims.pdf").exists()


def test_ours_stand_beside_the_reported_with_the_difference(workspace, tmp_path, monkeypatch):
    cells = reproduction.save_reproduction(workspace)
    assert len(cells) == 9 * 10 + 5 * 4 + 5 * 3 + 5 * 3 + 5 * 4
    one = cells[(cells["table"] == 1) & (cells["method"] == "RC-TPL")]
    one = one[(one["dataset"] == "chexpert") & (one["metric"] == "auc")].iloc[0]
    bounds = one[["difference", "difference_low", "difference_high"]].tolist()
    assert bounds == pytest.approx([0.5 - 0.8518, 0.4 - 0.8518, 0.7 - 0.8518])
    last = reproduction.side_by_side(cells, 5)
    names = last.index.get_level_values("metric")[:4]
    assert names.tolist() == [f"precision_at_{k}" for k in (1, 2, 5, 10)]
    assert last.iloc[0].tolist() == ["not run", "0.2000", "not run"]
    ours = ["0.500 [0.400, 0.700]", "0.6100", "-0.110 [-0.210, +0.090]"]
    assert last.iloc[-1].tolist() == ours
    page = (workspace.figures / "reproduction.md").read_text(encoding="utf-8")
    assert "Simulated radiographs" in page
    assert "| CXR-3" in page
    monkeypatch.setattr(Figure, "savefig", lambda _self, path, **_style: Path(path).touch())
    figure = reproduction.reproduction_figure(workspace, cells)
    labels = [label.get_text() for axis in figure.axes for label in axis.get_yticklabels()]
    assert len(labels) == 10 + 4 + 3 + 3 + 4  # every cell of RC-TPL
    assert (workspace.figures / "reproduction.png").exists()
    empty = Workspace.open("smoke", output=tmp_path, device="cpu")
    with pytest.raises(InputError, match=r"table1\.csv: the table is not there"):
        reproduction.save_reproduction(empty)
