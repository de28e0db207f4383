"""The ledger of the paper's claims, and the verdicts on them from the draws behind the tables.

`data/claims.json` fixes every test before a run (Table 1 of an earlier run was known by then).

Supported: the claimed direction, p below 0.05 after Holm's correction. Not supported: the opposite
direction (for an equivalence: outside its margin), as sure. Undecided: neither. Not tested: a data
set or a method that the claim needs was not run; the note says which.

A comparison counts only where it can tell: on a column whose supervised reference lies inside the
floor's range, or reaches less than 0.75 of AUC, the *instrument is invalid* (an accuracy stands or
falls with the AUC of its scores; a column of the unseen disease needs 0.85, and descriptions that
reach 0.75); a rival below its own starting point (for miniatures, plain class
names on the stand-in whose lower layers they share; for prompt learners, contexts without a step)
is *untrained*, and neither a win nor a loss against it says anything. Such parts are left out and
listed; a claim that has no others gets that verdict.
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

Operand = str | dict[str, Any]
"""A series' name, or `{"constant": x}`, or `{"gain": [a, b]}` (a over b, where wanted on a
`dataset` and `metric` of its own)."""


@dataclass(frozen=True)
class Comparison:
    """Left against right on resampled patients, of the file `draws`.

    Every data set with every metric against every right-hand series is a part. Kinds: "greater"
    (left - right above 0), "ratio" (left / right - 1 above 0) and "equivalent" (left - right
    between -margin and +margin, in the metric's unit; the others have no margin).
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
    """One claim of the paper, supported only by all parts of all its tests.

    `claim` is what is tested, in a few words, `quote` the paper's own, `why` the reason that the
    test stands for them, `waits_for` what is missing where the claim cannot be tested yet.
    """

    id: str
    claim: str
    section: str
    quote: str
    why: str
    tests: tuple[Comparison, ...]
    waits_for: str | None = None

    def parts(self) -> list[Comparison]:
        """All comparisons that the claim needs."""
        return [part for test in self.tests for part in test.parts()]


def load_claims(path: Path = LEDGER) -> list[Claim]:
    """Read and check the ledger; an `InputError` names the claim and what it lacks."""
    claims: list[Claim] = []
    for number, record in enumerate(read_json(path)["claims"], start=1):
        name = record.get("id", number)
        claim = _build(Claim, record, path, name)
        tests = tuple(_comparison(test, path, name) for test in claim.tests)
        if not tests and claim.waits_for is None:
            raise InputError("the claim has no test", _CURE, file=path, row=name)
        if claim.id in {other.id for other in claims}:
            raise InputError("the claim stands twice", _CURE, file=path, row=name)
        claims.append(replace(claim, tests=tests))
    return claims


def _words(operand: Operand) -> str:
    if isinstance(operand, str):
        return operand
    if "constant" in operand:
        return str(operand["constant"])
    place = ", ".join(operand[key] for key in ("dataset", "metric") if key in operand)
    return f"gain of ({operand['gain'][0]}) over ({operand['gain'][1]})" + (
        f" on {place}" if place else ""
    )


def _build(kind: type, record: dict[str, Any], path: Path, name: str | int) -> Any:
    """Make a dataclass from a record whose fields must be exactly its own, none of them empty."""
    optional = {"waits_for", "margin"}
    wanted = {field.name for field in fields(kind)}
    missing, strange = wanted - optional - set(record), set(record) - wanted
    if missing or strange:
        problem = f"the claim lacks {sorted(missing)}" if missing else f"unknown {sorted(strange)}"
        raise InputError(problem, _CURE, file=path, row=name)
    empty = sorted(key for key, value in record.items() if not value and key != "tests")
    if empty:
        raise InputError(f"empty: {', '.join(empty)}", _CURE, file=path, row=name)
    return kind(**record)


def _comparison(record: dict[str, Any], path: Path, name: str | int) -> Comparison:
    found: Comparison = _build(Comparison, record, path, name)
    if found.kind not in KINDS:
        problem = f"kind {found.kind!r} is none of {', '.join(KINDS)}"
        raise InputError(problem, _CURE, file=path, row=name)
    if (found.kind == "equivalent") != (found.margin is not None and found.margin > 0):
        problem = "a margin above zero belongs to kind 'equivalent', and to no other"
        raise InputError(problem, _CURE, file=path, row=name)
    for operand in (found.left, *found.right):
        if not isinstance(operand, str) and not {"constant", "gain"} & set(operand):
            raise InputError(f"no series: {operand!r}", _CURE, file=path, row=name)
    lists = {name: tuple(getattr(found, name)) for name in ("datasets", "metrics", "right")}
    return replace(found, **lists)


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
    gaps = {claim.id: _gap(claim, draws, absent) for claim in claims}
    tested = {
        claim.id: [
            {"test": part.words(), "metric": part.metrics[0]}
            | compare(part, draws[part.draws])
            | {"left_out": left_out(part, draws, miniatures)}
            for part in ([] if gaps[claim.id] else claim.parts())
        ]
        for claim in claims
    }
    rows = [_judge(claim, tested[claim.id], gaps[claim.id]) for claim in claims]
    verdicts = pd.DataFrame(rows)
    known = verdicts["p_value"].notna()
    why = verdicts.pop("left_out")
    verdicts["p_holm"] = np.nan
    verdicts.loc[known, "p_holm"] = holm(verdicts.loc[known, "p_value"].to_numpy())
    sure = verdicts["p_holm"] < ALPHA
    verdicts["verdict"] = np.select(
        [why != "", ~known, sure & verdicts["holds"], sure],
        [why, "not tested", *VERDICTS[:2]],
        "undecided",
    )
    parts = [{"claim": name, **part} for name, found in tested.items() for part in found]
    parts = pd.DataFrame(parts).drop(columns="metric", errors="ignore")  # its test names it
    return verdicts.drop(columns="holds"), parts


def compare(part: Comparison, draws: Draws) -> dict[str, Any]:
    """Test one part: effect, ci_low, ci_high, p_for, p_against.

    What is not defined in the sample (a ratio over zero) decides nothing: no interval, and both
    p-values 1.
    """
    left, right = _series(part.left, part, draws), _series(part.right[0], part, draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        effect = left / right - 1 if part.kind == "ratio" else left - right
    if not np.isfinite(effect[:, 0]).all() or not np.isfinite(effect[:, 1:].mean(axis=0)).any():
        return {"effect": np.nan, "ci_low": np.nan, "ci_high": np.nan, "p_for": 1, "p_against": 1}
    value, low, high = interval(effect, None)
    if part.kind == "equivalent":  # two one-sided tests (Schuirmann 1987)
        inside = max(tail_p_value(part.margin - effect), tail_p_value(effect + part.margin))
        outside = min(tail_p_value(effect - part.margin), tail_p_value(-part.margin - effect))
    else:
        inside, outside = tail_p_value(effect), tail_p_value(-effect)
    return {
        "effect": value, "ci_low": low, "ci_high": high, "p_for": inside, "p_against": outside
    }  # fmt: skip


def left_out(part: Comparison, draws: Mapping[str, Draws], miniatures: bool = True) -> str:
    """Why a comparison decides nothing: `INVALID`, `UNTRAINED_RIVAL`, or "" where it counts."""
    keys = part.series()
    if any(invalid_instrument(dataset, metric, draws) for dataset, _, metric in keys):
        return INVALID
    poor = any(_untrained(key, draws[part.draws], miniatures) for key in keys)
    return UNTRAINED_RIVAL if poor else ""


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


def _untrained(key: Key, draws: Draws, miniatures: bool) -> bool:
    dataset, name, metric = key
    if name in BASELINES:
        start = draws.get((dataset, "class names", metric)) if miniatures else None
    elif name.startswith(LEARNERS):
        start = draws.get((dataset, "untrained contexts", metric))
    else:
        return False
    return start is not None and _value(draws[key]) < _value(start)


def _gap(claim: Claim, draws: Mapping[str, Draws], absent: Collection[str]) -> str | None:
    """Why a claim cannot be tested: a data set that is absent, or what has no results; or None."""
    needed = [(part.draws, key) for part in claim.parts() for key in part.series()]
    gone = dict.fromkeys(dataset for _, (dataset, _, _) in needed if dataset in absent)
    if gone:
        return absence(gone)
    unmet = [key for file, key in needed if key not in draws[file]]
    if unmet and claim.waits_for is None:
        places = dict.fromkeys(f"{name} on {dataset}" for dataset, name, _ in unmet)
        return f"no results of {', '.join(places)}"
    return claim.waits_for if unmet or not needed else None


def _value(series: np.ndarray) -> float:
    return float(np.atleast_2d(series)[:, 0].mean())


def _judge(claim: Claim, parts: list[dict[str, Any]], gap: str | None) -> dict[str, Any]:
    row = {"claim": claim.id, "in_words": claim.claim, "quote": claim.quote}
    row |= {"section": claim.section, "test": "; ".join(test.words() for test in claim.tests)}
    gone = [part for part in parts if part["left_out"]]
    counted = [part for part in parts if not part["left_out"]]
    omitted = f"left out, {len(gone)} of {len(parts)}: " + "; ".join(
        f"{part['test']} ({part['left_out']})" for part in gone
    )
    shown = ("effect", "ci_low", "ci_high", "metric")
    if not counted:
        reasons = [part["left_out"] for part in gone]
        row |= dict.fromkeys((*shown, "p_value"), np.nan)
        why = max(reasons, key=reasons.count, default="")
        return row | {"holds": False, "note": omitted if gone else gap, "left_out": why}
    against = min(1.0, len(counted) * min(part["p_against"] for part in counted))
    hardest = max(counted, key=lambda part: (part["p_for"], -part["p_against"]))
    refuted = against < hardest["p_for"]
    decides = min(counted, key=lambda part: part["p_against"]) if refuted else hardest
    notes = [f"part shown: {decides['test']}"] if len(counted) > 1 else []
    notes += [omitted] if gone else []
    row |= {name: decides[name] for name in shown}
    row |= {"p_value": min(hardest["p_for"], against), "holds": not refuted}
    return row | {"note": "; ".join(notes), "left_out": ""}


def _series(operand: Operand, part: Comparison, draws: Draws) -> np.ndarray:
    """The operand's values in the sample and in every resample; a constant has one for all."""
    found = [np.atleast_2d(draws[key]) for key in _keys(operand, part)]
    if isinstance(operand, str):
        return found[0]
    if "constant" in operand:
        return np.float64(operand["constant"])
    above, below = found
    with np.errstate(divide="ignore", invalid="ignore"):
        return above / below


def _keys(operand: Operand, part: Comparison) -> list[Key]:
    """The series that an operand of a part is made from; none for a constant."""
    own = {"gain": [operand]} if isinstance(operand, str) else operand
    dataset, metric = own.get("dataset", part.datasets[0]), own.get("metric", part.metrics[0])
    return [(dataset, name, metric) for name in own.get("gain", [])]
