"""What the extraction notebook shows: the extractor in use, examples, counts, agreement."""

from collections.abc import Collection
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rctpl_utils.errors import InputError
from rctpl_utils.given_files import child
from rctpl_utils.text.concepts.radgraph import RadGraphExtractor
from rctpl_utils.text.concepts.spacy_extractor import SpacyExtractor
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import MERGE_ORDER, merge_mentions, triplets_frame
from rctpl_utils.vocabulary import CONCEPTS

RADGRAPH_FILE = "MIMIC-CXR_graphs.json"
EXAMPLES, LONGEST = 8, 90  # triplets that are shown, characters of a quoted sentence
_COLORS = ("#0072B2", "#56B4E9", "#E69F00")  # Okabe-Ito: present, absent, uncertain
_UNMENTIONED = "unmentioned"
_COUNTS = ("both", "first_only", "second_only", "neither")
Extractor = SpacyExtractor | RadGraphExtractor


def choose_extractor(root: Path) -> Extractor:
    """RadGraph's own graphs where they lie beside the reports, as in the paper; else our rules."""
    graphs = child(root, RADGRAPH_FILE)
    return RadGraphExtractor(graphs) if graphs.is_file() else SpacyExtractor()


def agreement_with_rules(
    extractor: Extractor, triplets: pd.DataFrame, reports: list[Report]
) -> pd.DataFrame | str:
    """How far RadGraph's triplets agree with our rules' on the reports that its file holds."""
    if not isinstance(extractor, RadGraphExtractor):
        return f"not run: no {RADGRAPH_FILE} beside the reports"
    ours = triplets_frame(SpacyExtractor().extract(reports))
    return agreement(triplets, ours, extractor.read)


def agreement(
    first: pd.DataFrame, second: pd.DataFrame, report_ids: Collection[str]
) -> pd.DataFrame:
    """How far the triplets of two extractors agree on reports that both have read.

    Mentions merge first (present > absent > uncertain). Agreement is no accuracy: both may err
    alike. One row a concept that either finds, columns: both, first_only, second_only, neither:
    reports in which it is present to both, to one, to none; kappa: Cohen's kappa of present against
    not present; kappa_assertion: the same of present, absent, uncertain and unmentioned;
    same_location: the share of `both` in which its present mentions lie at the same set of places.
    """
    if not (chosen := sorted(set(report_ids))):
        raise InputError(
            "no report that both extractors have read", "Give the triplets of the same reports."
        )
    answers, places = [], []
    for triplets in (first, second):
        own = triplets[triplets["report_id"].isin(chosen)]
        merged = merge_mentions(own).unstack("concept").reindex(index=chosen, columns=CONCEPTS)
        answers.append(merged.astype(object).fillna(_UNMENTIONED))
        present = own[own["positive"] == "present"].groupby(["concept", "report_id"])["location"]
        places.append(present.apply(lambda locations: set(locations.dropna())))
    rows = {}
    for concept in CONCEPTS:
        one, two = (each[concept] for each in answers)
        if (one == _UNMENTIONED).all() and (two == _UNMENTIONED).all():
            continue
        kinds = (*MERGE_ORDER, _UNMENTIONED)  # counts: (4, 4), first x second
        counts = np.array([[np.sum((one == a) & (two == b)) for b in kinds] for a in kinds])
        both, first_only = counts[0, 0], counts[0, 1:].sum()
        second_only, neither = counts[1:, 0].sum(), counts[1:, 1:].sum()
        binary = np.array([[both, first_only], [second_only, neither]])
        shared = one.index[(one == "present") & (two == "present")]
        same = [places[0][concept, report] == places[1][concept, report] for report in shared]
        rows[concept] = dict(zip(_COUNTS, binary.ravel().tolist(), strict=True)) | {
            "kappa": cohen_kappa(binary),
            "kappa_assertion": cohen_kappa(counts),
            "same_location": float(np.mean(same)) if same else np.nan,
        }
    columns = [*_COUNTS, "kappa", "kappa_assertion", "same_location"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.astype(dict.fromkeys(_COUNTS, int)).rename_axis("concept")


def cohen_kappa(counts: np.ndarray) -> float:
    """(p_o - p_e) / (1 - p_e) of a square table of counts (Cohen 1960, formula 1).

    p_o is the share on the diagonal, p_e what the margins alone would give; NaN where p_e is 1.
    """
    shares = counts / counts.sum()
    expected = float(shares.sum(axis=1) @ shares.sum(axis=0))
    return (float(np.trace(shares)) - expected) / (1 - expected) if expected < 1 else float("nan")


def example_triplets(triplets: pd.DataFrame, sources: pd.Series) -> pd.DataFrame:
    """A few short located examples, one a concept, with the source of the quoted sentence.

    `sources` names, by report_id, the source of each report that may be quoted.
    """
    quotable = triplets["report_id"].isin(sources.index) & triplets["location"].notna()
    short = triplets[quotable & (triplets["sentence"].str.len() <= LONGEST)]
    chosen = short.drop_duplicates("sentence").drop_duplicates("concept").head(EXAMPLES)
    shown = chosen[["sentence", "concept", "location", "positive"]]
    return shown.assign(source=chosen["report_id"].map(sources)).reset_index(drop=True)


def mention_counts(triplets: pd.DataFrame) -> pd.DataFrame:
    """Mentions a concept (rows) and assertion (columns), the most frequent concept first."""
    counts = pd.crosstab(triplets["concept"], triplets["positive"])
    counts = counts.reindex(columns=list(MERGE_ORDER), fill_value=0)
    known = counts.reindex([c for c in CONCEPTS if c in counts.index])
    order = known.sum(axis=1).sort_values(ascending=False, kind="stable").index
    return known.loc[order].rename_axis(columns=None)


def mention_figure(counts: pd.DataFrame) -> Figure:
    """Stacked bars of `mention_counts`."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    counts.iloc[::-1].plot.barh(stacked=True, color=_COLORS, width=0.8, ax=axes)
    axes.set(xlabel="mentions", ylabel="")
    axes.legend(title=None, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    plt.close(figure)
    return figure
