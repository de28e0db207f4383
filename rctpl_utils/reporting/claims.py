"""The ledger of the paper's claims, and the verdicts on them from the draws behind the tables.

`data/claims.json` fixes every test before a run (Table 1 of an earlier run was known by then).

Supported: the claimed direction, p below 0.05 after Holm's correction. Not supported: the opposite
(for an equivalence: outside its margin), as sure. Undecided: neither. Not tested: a data set or a
method that the claim needs was not run.

A comparison counts only where it can tell. On a column whose supervised reference lies inside the
floor's range, or reaches less than 0.75 of AUC, the *instrument is invalid* (an accuracy stands or
falls with the AUC of its scores; a column of the unseen disease needs 0.85, and descriptions that
reach 0.75). A rival below its own starting point (for miniatures, class names on the stand-in whose
lower layers they share; for prompt learners, contexts without a step) is *untrained*. Such parts
are left out and listed; a claim that has no others gets that verdict.
"""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rctpl_utils.datasets.splits import absence
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.metrics import holm, interval, tail_p_value
from rctpl_utils.evaluation.results import BASELINES, Draws, Key
from rctpl_utils.evaluation.table1 import SUPERVISED
from rctpl_utils.files import read_json
from rctpl_utils.prompts.variants import MACHINE_WRITTEN
from rctpl_utils.reporting.common import ALPHA
from rctpl_utils.workspace import PACKAGE_DATA

LEDGER = PACKAGE_DATA / "claims.json"
KINDS = ("greater", "equivalent", "ratio")
_CURE = "Mend the ledger; the docstring of rctpl_utils.reporting.claims says what it holds."

INVALID, UNTRAINED_RIVAL = "instrument invalid", "rival untrained"
VERDICTS = ("supported", "not supported", "undecided", "not tested", INVALID, UNTRAINED_RIVAL)
ENOUGH = 0.75  # AUC of the supervised reference; of the best descriptions of an unseen disease
ENOUGH_UNSEEN = 0.85  # of the reference there
UNSEEN, DESCRIBED = "covidx", ("descriptions", MACHINE_WRITTEN)
FLOORS = ("floor: random class vectors", "floor: random words")
LEARNERS = ("TaI-DPT", "CoOp", "CoCoOp", "DualCoOp")  # names begin so
_JUDGED_BY = {"acc_oracle": "auc", "acc_validation": "auc"}  # columns made of the same scores
_EFFECT = ("effect", "ci_low", "ci_high")
_COLUMNS = (
    *("claim", "in_words", "quote", "section", "test", "metric", *_EFFECT),
    *("p_value", "p_holm", "verdict", "note"),
)

Operand = str | dict[str, Any]
"""A series' name, or `{"constant": x}`, or `{"gain": [a, b]}` (a over b, where wanted on a
`dataset` and `metric` of its own)."""


@dataclass(frozen=True)
class Comparison:
    """Left against right on resampled patients, of the file `draws`; each data set, metric and
    right-hand series is a part. Kinds: "greater" (left - right above 0), "ratio" (left / right - 1
    above 0), "equivalent" (left - right within the margin, which the others do not have).
    """

    draws: str
    datasets: tuple[str, ...]
    metrics: tuple[str, ...]
    kind: str
    left: Operand
    right: tuple[Operand, ...]
    margin: float | None = None

    def parts(self) -> Iterator["Comparison"]:
        """Yield one comparison a data set, metric and right-hand series."""
        for dataset, metric, right in itertools.product(self.datasets, self.metrics, self.right):
            yield replace(self, datasets=(dataset,), metrics=(metric,), right=(right,))

    def series(self) -> list[Key]:
        """The keys of all series that a part is made from."""
        return [key for operand in (self.left, self.right[0]) for key in _keys(operand, self)]

    def words(self) -> str:
        """The test as a person reads it."""
        place = f"{', '.join(self.datasets)}: {', '.join(self.metrics)}"
        each = "each of " if len(self.right) > 1 else ""
        others = f"{each}{', '.join(map(_words, self.right))}"
        left = _words(self.left)
        if self.kind == "equivalent":
            return f"{place} of {left} within {self.margin} of {others}"
        return f"{place} of {left} > {others}"


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, supported only by all parts of all its tests."""

    id: str
    claim: str  # what is tested, in a few words
    section: str
    quote: str  # the paper's own words
    why: str  # why the test stands for them
    tests: tuple[Comparison, ...]
    waits_for: str | None = None  # what is missing where the claim cannot be tested yet

    def parts(self) -> list[Comparison]:
        """All comparisons that the claim needs."""
        return [part for test in self.tests for part in test.parts()]


def load_claims(path: Path = LEDGER) -> list[Claim]:
    """Read and check the ledger; an `InputError` names the claim and what it lacks."""
    claims: list[Claim] = []
    for number, record in enumerate(read_json(path)["claims"], start=1):
        problem = next(_problems(record, {each.id for each in claims}), None)
        if problem:
            raise InputError(problem, _CURE, file=path, row=record.get("id", number))
        lists = ("datasets", "metrics", "right")
        tests = [test | {name: tuple(test[name]) for name in lists} for test in record["tests"]]
        claims.append(Claim(**record | {"tests": tuple(Comparison(**test) for test in tests)}))
    return claims


def _problems(record: dict[str, Any], known: Collection[str]) -> Iterator[str]:
    """What is wrong with a claim, whose fields must be exactly its own, none of them empty."""
    tests = record.get("tests", [])
    for kind, one in [(Claim, record), *((Comparison, test) for test in tests)]:
        wanted = {field.name for field in fields(kind)}
        if missing := wanted - {"waits_for", "margin"} - set(one):
            yield f"the claim lacks {sorted(missing)}"
        if strange := set(one) - wanted:
            yield f"unknown {sorted(strange)}"
        if empty := sorted(key for key, value in one.items() if not value and key != "tests"):
            yield f"empty: {', '.join(empty)}"
    for test in tests:
        kind, margin = test["kind"], test.get("margin")
        if kind not in KINDS:
            yield f"kind {kind!r} is none of {', '.join(KINDS)}"
        if (kind == "equivalent") != (margin is not None and margin > 0):
            yield "a margin above zero belongs to kind 'equivalent', and to no other"
        for operand in (test["left"], *test["right"]):
            if not isinstance(operand, str) and not {"constant", "gain"} & set(operand):
                yield f"no series: {operand!r}"
    if not tests and record.get("waits_for") is None:
        yield "the claim has no test"
    if record["id"] in known:
        yield "the claim stands twice"


def evaluate(
    claims: Sequence[Claim],
    draws: Mapping[str, Draws],
    absent: Collection[str] = (),
    miniatures: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test every claim, Holm-corrected over all that could be tested.

    A claim's p-value is the smaller of two. *For* it: the largest of its parts (intersection-
    union: all must hold; Berger 1982). *Against* it: the smallest of its parts' opposite tests,
    times their number (Holm's first step, 1979: one failing part is enough). Both are doubled
    one-sided values, so that below 0.05 the 95 % interval shown excludes the hypothesis.

    On `absent` data sets nothing is tested, whatever an earlier run left. `miniatures`: whether the
    baselines were trained on the stand-in, so that its class names are their starting point; a
    released checkpoint has none here. Returned are the verdicts, one row a claim with the effect
    of the part which decides, and all parts.
    """
    rows, every = [], []
    for claim in claims:
        gap = _gap(claim, draws, absent)
        parts = [
            {"claim": claim.id, "test": part.words(), "metric": part.metrics[0]}
            | compare(part, draws[part.draws])
            | {"left_out": left_out(part, draws, miniatures)}
            for part in ([] if gap else claim.parts())
        ]
        rows.append(_judge(claim, parts, gap))
        every += parts
    verdicts = pd.DataFrame(rows)
    known = verdicts["p_value"].notna()
    verdicts.loc[known, "p_holm"] = holm(verdicts.loc[known, "p_value"].to_numpy())
    sure, why = verdicts["p_holm"] < ALPHA, verdicts["left_out"]
    verdicts["verdict"] = np.select(
        [why != "", ~known, sure & verdicts["holds"], sure],
        [why, "not tested", *VERDICTS[:2]],
        "undecided",
    )
    parts = pd.DataFrame(every).drop(columns="metric", errors="ignore")  # its test names it
    return verdicts[list(_COLUMNS)], parts


def _judge(claim: Claim, parts: list[dict[str, Any]], gap: str | None) -> dict[str, Any]:
    row = dict.fromkeys(("metric", *_EFFECT, "p_value", "p_holm"), np.nan)
    row |= {"claim": claim.id, "in_words": claim.claim, "quote": claim.quote}
    row |= {"section": claim.section, "test": "; ".join(test.words() for test in claim.tests)}
    gone = [part for part in parts if part["left_out"]]
    counted = [part for part in parts if not part["left_out"]]
    omitted = f"left out, {len(gone)} of {len(parts)}: " + "; ".join(
        f"{part['test']} ({part['left_out']})" for part in gone
    )
    if not counted:
        reasons = [part["left_out"] for part in gone]
        why = max(reasons, key=reasons.count, default="")
        return row | {"holds": False, "note": omitted if gone else gap, "left_out": why}
    against = min(1.0, len(counted) * min(part["p_against"] for part in counted))
    hardest = max(counted, key=lambda part: (part["p_for"], -part["p_against"]))
    refuted = against < hardest["p_for"]
    decides = min(counted, key=lambda part: part["p_against"]) if refuted else hardest
    notes = [f"part shown: {decides['test']}"] if len(counted) > 1 else []
    notes += [omitted] if gone else []
    row |= {name: decides[name] for name in ("metric", *_EFFECT)}
    row |= {"p_value": min(hardest["p_for"], against), "holds": not refuted}
    return row | {"note": "; ".join(notes), "left_out": ""}


def _gap(claim: Claim, draws: Mapping[str, Draws], absent: Collection[str]) -> str | None:
    """Why a claim cannot be tested: a data set that is absent, or what has no results; or None."""
    needed = [(part.draws, key) for part in claim.parts() for key in part.series()]
    if gone := dict.fromkeys(key[0] for _, key in needed if key[0] in absent):
        return absence(gone)
    unmet = [key for file, key in needed if key not in draws[file]]
    if claim.waits_for is not None:
        return claim.waits_for if unmet or not needed else None
    places = dict.fromkeys(f"{name} on {dataset}" for dataset, name, _ in unmet)
    return f"no results of {', '.join(places)}" if unmet else None


def compare(part: Comparison, draws: Draws) -> dict[str, Any]:
    """Test one part: effect, ci_low, ci_high, p_for, p_against; what is not defined in the sample
    (a ratio over zero) has no interval, and both p-values are 1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        left, right = (_series(each, part, draws) for each in (part.left, part.right[0]))
        effect = left / right - 1 if part.kind == "ratio" else left - right
    if not np.isfinite(effect[:, 0]).all() or not np.isfinite(effect[:, 1:].mean(axis=0)).any():
        return dict.fromkeys(_EFFECT, np.nan) | {"p_for": 1, "p_against": 1}
    if part.kind == "equivalent":  # two one-sided tests (Schuirmann 1987)
        inside = max(tail_p_value(part.margin - effect), tail_p_value(effect + part.margin))
        outside = min(tail_p_value(effect - part.margin), tail_p_value(-part.margin - effect))
    else:
        inside, outside = tail_p_value(effect), tail_p_value(-effect)
    found = dict(zip(_EFFECT, interval(effect, None), strict=True))
    return found | {"p_for": inside, "p_against": outside}


def _series(operand: Operand, part: Comparison, draws: Draws) -> np.ndarray:
    """The operand's values in the sample and in every resample; a constant has one for all."""
    if not isinstance(operand, str) and "constant" in operand:
        return np.float64(operand["constant"])
    above, *below = (np.atleast_2d(draws[key]) for key in _keys(operand, part))
    return above / below[0] if below else above


def _keys(operand: Operand, part: Comparison) -> list[Key]:
    """The series that an operand of a part is made from; none for a constant."""
    own = {"gain": [operand]} if isinstance(operand, str) else operand
    dataset, metric = own.get("dataset", part.datasets[0]), own.get("metric", part.metrics[0])
    return [(dataset, name, metric) for name in own.get("gain", [])]


def _words(operand: Operand) -> str:
    if isinstance(operand, str):
        return operand
    if "constant" in operand:
        return str(operand["constant"])
    above, below = operand["gain"]
    place = ", ".join(operand[key] for key in ("dataset", "metric") if key in operand)
    return f"gain of ({above}) over ({below}){f' on {place}' if place else ''}"


def left_out(part: Comparison, draws: Mapping[str, Draws], miniatures: bool = True) -> str:
    """Why a comparison decides nothing: `INVALID`, `UNTRAINED_RIVAL`, or "" where it counts."""
    own, keys = draws[part.draws], part.series()
    if any(invalid_instrument(dataset, metric, draws) for dataset, _, metric in keys):
        return INVALID
    for dataset, name, metric in keys:
        start = "untrained contexts" if name.startswith(LEARNERS) else None
        if name in BASELINES:
            start = "class names" if miniatures else None
        first = own.get((dataset, start, metric))
        if first is not None and _value(own[dataset, name, metric]) < _value(first):
            return UNTRAINED_RIVAL
    return ""


def invalid_instrument(dataset: str, metric: str, draws: Mapping[str, Draws]) -> bool:
    """Whether a column cannot tell; one without a supervised reference or floors is taken as is."""
    metric = _JUDGED_BY.get(metric, metric)
    for found in draws.values():
        reference = found.get((dataset, SUPERVISED, metric))
        floors = [found[key] for kind in FLOORS if (key := (dataset, kind, metric)) in found]
        if reference is not None and floors:
            value = _value(reference)
            inside = any(value <= interval(floor)[2] for floor in floors)
            return inside or (metric == "auc" and value < ENOUGH) or _fails_unseen(dataset, found)
    return False


def _fails_unseen(dataset: str, found: Draws) -> bool:
    """Whether a column of the unseen disease cannot test knowledge: films or words do not tell."""
    reference = found.get((dataset, SUPERVISED, "auc"))
    keys = [(dataset, name, "auc") for name in DESCRIBED]
    described = [_value(found[key]) for key in keys if key in found]
    if not dataset.startswith(UNSEEN) or reference is None or not described:
        return False
    return _value(reference) < ENOUGH_UNSEEN or max(described) < ENOUGH


def _value(series: np.ndarray) -> float:
    return float(np.atleast_2d(series)[:, 0].mean())
