"""The claims ledger as data: what the paper says, and the test that stands for it.

`data/claims.json` fixes every test before a run (Table 1 of an earlier run was known by then). A
test compares series of bootstrap draws (see `draws`), and names lists where several comparisons
belong to one claim: every data set with every metric against every right-hand series is a part,
and a claim is supported only by all its parts.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.workspace import PACKAGE_DATA

LEDGER = PACKAGE_DATA / "claims.json"
KINDS = ("greater", "equivalent", "ratio")
_CURE = "Mend the ledger; the docstring of rctpl_utils.reporting.claims_schema says what it holds."

Operand = str | dict[str, Any]
"""A series' name, or `{"constant": x}`, or `{"gain": [a, b]}` (a over b, where wanted on a
`dataset` and `metric` of its own)."""


@dataclass(frozen=True)
class Comparison:
    """Left against right on resampled patients.

    Attributes:
        draws: the file of draws (`bootstrap_samples.load_draws`).
        kind: "greater" (left - right above 0), "ratio" (left / right - 1 above 0) or "equivalent"
            (left - right between -margin and +margin).
        margin: of "equivalent" only, in the metric's unit.
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
    """One claim of the paper.

    Attributes:
        claim: what is tested, in a few words.
        quote, section: the paper's own words and their place.
        why: the reason that the test stands for the claim.
        waits_for: what is missing where the claim cannot be tested yet.
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
    """Read and check the ledger.

    Raises:
        InputError: names the claim that is incomplete, and what it lacks.
    """
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
    return replace(
        found,
        datasets=tuple(found.datasets),
        metrics=tuple(found.metrics),
        right=tuple(found.right),
    )
