"""How far two extractors agree on the same reports: RadGraph, as in the paper, and our rules."""

from collections.abc import Collection

import numpy as np
import pandas as pd

from rctpl_utils.errors import InputError
from rctpl_utils.text.triplets import MERGE_ORDER, merge_mentions
from rctpl_utils.vocabulary import CONCEPTS

UNMENTIONED = "unmentioned"
_KINDS = (*MERGE_ORDER, UNMENTIONED)
_COLUMNS = ("both", "first_only", "second_only", "neither", "kappa", "kappa_assertion")


def agreement(
    first: pd.DataFrame, second: pd.DataFrame, report_ids: Collection[str] | None = None
) -> pd.DataFrame:
    """Agreement a concept on what is present, on the assertion, and on where it lies.

    Mentions merge first (present > absent > uncertain). Agreement is no accuracy: both may err
    alike.

    Args:
        first, second: triplets of two extractors, as `triplets_frame` makes them.
        report_ids: the reports that both have read. By default those in which either found
            something: reports that both read and found empty are then missing from `neither`.

    Returns:
        one row a concept that either finds, in the vocabulary's order, columns:
        both, first_only, second_only, neither: reports in which it is present to both, to one
        extractor, to none; kappa: Cohen's kappa of present against not present;
        kappa_assertion: the same of present, absent, uncertain and unmentioned; same_location:
        the share of `both` in which the locations of its present mentions are the same set.
        Kappa is NaN where both extractors give one and the same answer throughout.

    Raises:
        InputError: no report in common.
    """
    chosen = _reports(first, second, report_ids)
    sides = [triplets[triplets["report_id"].isin(chosen)] for triplets in (first, second)]
    found = [merge_mentions(each) for each in sides]
    places = [_locations(each) for each in sides]
    rows = {}
    for concept in CONCEPTS:
        said = [_answers(each, concept, chosen) for each in found]
        if all((answers == UNMENTIONED).all() for answers in said):
            continue
        rows[concept] = _row(*said) | {"same_location": _same_location(*places, concept)}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[*_COLUMNS, "same_location"])
    counts = list(_COLUMNS[:4])
    return table.astype(dict.fromkeys(counts, int)).rename_axis("concept")


def cohen_kappa(counts: np.ndarray) -> float:
    """(p_o - p_e) / (1 - p_e) of a square table of counts (Cohen 1960, formula 1).

    p_o is the share on the diagonal, p_e what the margins alone would give; NaN where p_e is 1.
    """
    shares = counts / counts.sum()
    expected = float(shares.sum(axis=1) @ shares.sum(axis=0))
    return (float(np.trace(shares)) - expected) / (1 - expected) if expected < 1 else float("nan")


def _reports(
    first: pd.DataFrame, second: pd.DataFrame, report_ids: Collection[str] | None
) -> list[str]:
    found = {*first["report_id"], *second["report_id"]} if report_ids is None else report_ids
    chosen = sorted(set(found))
    if not chosen:
        raise InputError(
            "no report that both extractors have read", "Give the triplets of the same reports."
        )
    return chosen


def _answers(merged: pd.Series, concept: str, report_ids: list[str]) -> np.ndarray:
    """What an extractor says of a concept in each report: (n,) of strings."""
    own = merged[merged.index.get_level_values("concept") == concept].droplevel("concept")
    return own.reindex(report_ids).fillna(UNMENTIONED).to_numpy(object)


def _row(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    counts = np.array(
        [[np.sum((first == a) & (second == b)) for b in _KINDS] for a in _KINDS]
    )  # (4, 4): first x second
    both, first_only = counts[0, 0], counts[0, 1:].sum()
    second_only, neither = counts[1:, 0].sum(), counts[1:, 1:].sum()
    binary = np.array([[both, first_only], [second_only, neither]])
    values = (*binary.ravel().tolist(), cohen_kappa(binary), cohen_kappa(counts))
    return dict(zip(_COLUMNS, values, strict=True))


def _locations(triplets: pd.DataFrame) -> dict[tuple[str, str], set[str]]:
    """(concept, report) -> the locations of its present mentions."""
    found: dict[tuple[str, str], set[str]] = {}
    present = triplets[triplets["positive"] == "present"]
    for concept, report_id, location in zip(
        present["concept"], present["report_id"], present["location"], strict=True
    ):
        places = found.setdefault((concept, report_id), set())
        if pd.notna(location):
            places.add(location)
    return found


def _same_location(
    first: dict[tuple[str, str], set[str]], second: dict[tuple[str, str], set[str]], concept: str
) -> float:
    shared = [key for key in first.keys() & second.keys() if key[0] == concept]
    return float(np.mean([first[key] == second[key] for key in shared])) if shared else np.nan
