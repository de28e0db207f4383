"""The verdicts on the paper's claims, from the bootstrap draws behind the tables.

Supported: the claimed direction, p below 0.05 after Holm's correction. Not supported: the opposite
direction (for an equivalence: outside its margin), as sure. Undecided: neither. Not tested: a data
set or a method that the claim needs was not run; the note says which.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rctpl_utils.availability import absence
from rctpl_utils.claims_ledger import Claim, Comparison, Operand
from rctpl_utils.draws import Draws, Key
from rctpl_utils.metrics import holm, tail_p_value

VERDICTS = ("supported", "not supported", "undecided", "not tested")
ALPHA = 0.05


def evaluate(
    claims: Sequence[Claim], draws: Mapping[str, Draws], absent: Collection[str] = ()
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Test every claim, Holm-corrected over all that could be tested.

    A claim's p-value is the smaller of two. *For* it: the largest of its parts (intersection-
    union: all must hold; Berger 1982). *Against* it: the smallest of its parts' opposite tests,
    times their number (Holm's first step, 1979: one failing part is enough). Both are doubled
    one-sided values, so that below 0.05 the 95 % interval shown excludes the hypothesis.

    Args:
        draws: for each file's name its series.
        absent: data sets on which nothing is tested, whatever an earlier run left.

    Returns:
        the verdicts, one row a claim, whose effect is that of the part which decides; and the
        parts, one row each.
    """
    gaps = {claim.id: _gap(claim, draws, absent) for claim in claims}
    tested = {
        claim.id: [] if gaps[claim.id] or not claim.tests else _test_parts(claim, draws)
        for claim in claims
    }
    rows = [_judge(claim, tested[claim.id], gaps[claim.id]) for claim in claims]
    verdicts = pd.DataFrame(rows)
    known = verdicts["p_value"].notna()
    verdicts["p_holm"] = np.nan
    verdicts.loc[known, "p_holm"] = holm(verdicts.loc[known, "p_value"].to_numpy())
    sure = verdicts["p_holm"] < ALPHA
    verdicts["verdict"] = np.select(
        [~known, sure & verdicts["holds"], sure], ["not tested", *VERDICTS[:2]], "undecided"
    )
    parts = [{"claim": name, **part} for name, found in tested.items() for part in found]
    return verdicts.drop(columns="holds"), pd.DataFrame(parts)


def compare(part: Comparison, draws: Draws) -> dict[str, Any]:
    """Test one part: effect, ci_low, ci_high, p_for, p_against.

    The effect is left - right, for a ratio left / right - 1. What is not defined in the sample (a
    ratio over zero) decides nothing: no interval, and both p-values 1.

    Raises:
        KeyError: a series that is not among the draws; its key says which.
    """
    left, right = _series(part.left, part, draws), _series(part.right[0], part, draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        effect = left / right - 1 if part.kind == "ratio" else left - right
    finite = effect[1:][np.isfinite(effect[1:])]
    if not np.isfinite(effect[0]) or not len(finite):
        return {"effect": np.nan, "ci_low": np.nan, "ci_high": np.nan, "p_for": 1, "p_against": 1}
    low, high = np.percentile(finite, [2.5, 97.5])
    if part.kind == "equivalent":  # two one-sided tests (Schuirmann 1987)
        inside = max(tail_p_value(part.margin - effect), tail_p_value(effect + part.margin))
        outside = min(tail_p_value(effect - part.margin), tail_p_value(-part.margin - effect))
    else:
        inside, outside = tail_p_value(effect), tail_p_value(-effect)
    return {
        "effect": effect[0], "ci_low": low, "ci_high": high, "p_for": inside, "p_against": outside
    }  # fmt: skip


def _test_parts(claim: Claim, draws: Mapping[str, Draws]) -> list[dict[str, Any]]:
    """The rows of a claim's parts."""
    return [{"test": part.words(), **compare(part, draws[part.draws])} for part in claim.parts()]


def _gap(claim: Claim, draws: Mapping[str, Draws], absent: Collection[str]) -> str | None:
    """Why a claim cannot be tested: a data set that is absent, or what has no results; or None."""
    needed = [
        (part.draws, key)
        for part in claim.parts()
        for operand in (part.left, part.right[0])
        for key in _keys(operand, part)
    ]
    gone = dict.fromkeys(dataset for _, (dataset, _, _) in needed if dataset in absent)
    if gone:
        return absence(gone)
    unmet = [(dataset, name) for file, (dataset, name, metric) in needed
             if (dataset, name, metric) not in draws[file]]  # fmt: skip
    if unmet and claim.waits_for is None:
        return "no results of " + ", ".join(
            dict.fromkeys(f"{name} on {dataset}" for dataset, name in unmet)
        )
    return claim.waits_for if unmet or not needed else None


def _judge(claim: Claim, parts: list[dict[str, Any]], gap: str | None) -> dict[str, Any]:
    row = {
        "claim": claim.id,
        "in_words": claim.claim,
        "quote": claim.quote,
        "section": claim.section,
        "test": "; ".join(test.words() for test in claim.tests),
    }
    unknown = dict.fromkeys(("effect", "ci_low", "ci_high", "p_value"), np.nan)
    if not parts:
        return {**row, **unknown, "holds": False, "note": gap}
    against = min(1.0, len(parts) * min(part["p_against"] for part in parts))
    hardest = max(parts, key=lambda part: (part["p_for"], -part["p_against"]))
    refuted = against < hardest["p_for"]
    decides = min(parts, key=lambda part: part["p_against"]) if refuted else hardest
    note = f"part shown: {decides['test']}" if len(parts) > 1 else ""
    shown = {name: decides[name] for name in ("effect", "ci_low", "ci_high")}
    p_value = min(hardest["p_for"], against)
    return {**row, **shown, "p_value": p_value, "holds": not refuted, "note": note}


def _series(operand: Operand, part: Comparison, draws: Draws) -> np.ndarray:
    """The operand's values in the sample and in every resample; a constant has one for all."""
    found = [draws[key] for key in _keys(operand, part)]
    if isinstance(operand, str):
        return found[0]
    if "constant" in operand:
        return np.float64(operand["constant"])
    if "best" in operand:
        return np.max(found, axis=0)
    above, below = found
    with np.errstate(divide="ignore", invalid="ignore"):
        return above / below


def _keys(operand: Operand, part: Comparison) -> list[Key]:
    """The series that an operand of a part is made from; none for a constant."""
    own = {} if isinstance(operand, str) else operand
    names = [operand] if isinstance(operand, str) else own.get("best", own.get("gain", []))
    dataset, metric = own.get("dataset", part.datasets[0]), own.get("metric", part.metrics[0])
    return [(dataset, name, metric) for name in names]
