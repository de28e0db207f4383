"""Triplets (concept, location, positive) and the report-level labels made from them (Eq. 1)."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from rctpl_utils.errors import InputError
from rctpl_utils.vocabulary import with_parents

Assertion = Literal["present", "absent", "uncertain"]
MERGE_ORDER: tuple[Assertion, ...] = ("present", "absent", "uncertain")  # the first one wins


class Triplet(NamedTuple):
    """One mention: what, where, and whether it is there (paper 3.1.1, Eq. 1).

    Concept and location ("left lower lobe", or None) are the vocabulary's; `start` and `end` are
    the mention's characters in `Report.text`.
    """

    report_id: str
    sentence: str
    concept: str
    location: str | None
    positive: Assertion
    start: int
    end: int
    extractor: str


def triplets_frame(triplets: Iterable[Triplet]) -> pd.DataFrame:
    """One row a triplet, columns as the fields; an empty frame keeps its columns."""
    frame = pd.DataFrame(list(triplets), columns=list(Triplet._fields))
    return frame.astype({"start": "int64", "end": "int64"})


def merge_mentions(triplets: pd.DataFrame) -> pd.Series:
    """One assertion for each (report_id, concept): present > absent > uncertain."""
    rank = triplets["positive"].map({value: i for i, value in enumerate(MERGE_ORDER)})
    if rank.isna().any():
        wrong = triplets["positive"][rank.isna()].iloc[0]
        raise InputError(f"{wrong!r} is no assertion", f"Use {', '.join(MERGE_ORDER)}.")
    best = rank.groupby([triplets["report_id"], triplets["concept"]]).min()
    return best.map(dict(enumerate(MERGE_ORDER)))


def report_labels(
    triplets: pd.DataFrame, report_ids: Sequence[str], concepts: Sequence[str]
) -> pd.DataFrame:
    """Labels (n reports, L concepts): 1 present, 0 absent or unmentioned, NaN uncertain.

    Mentions merge first; then what is present makes its parents present, and what is uncertain
    makes parents that are not present uncertain: a possible pneumonia is a possible opacity, even
    where another opacity is denied.
    """
    merged = merge_mentions(triplets).reset_index(name="positive")
    rows, columns = pd.Index(report_ids, name="report_id"), pd.Index(concepts)
    labels = np.zeros((len(rows), len(columns)))  # (n, L)
    for assertion, value in (("uncertain", np.nan), ("present", 1.0)):  # present is written last
        for concept, mentions in merged[merged["positive"] == assertion].groupby("concept"):
            row = rows.get_indexer(mentions["report_id"])
            column = columns.get_indexer(sorted(with_parents([concept])))
            labels[np.ix_(row[row >= 0], column[column >= 0])] = value
    return pd.DataFrame(labels, index=rows, columns=columns)
