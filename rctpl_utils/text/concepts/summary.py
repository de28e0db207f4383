"""What the extraction notebook shows: the extractor in use, examples, counts."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from rctpl_utils.given_files import child
from rctpl_utils.text.concepts.agreement import agreement
from rctpl_utils.text.concepts.radgraph import RadGraphExtractor
from rctpl_utils.text.concepts.spacy_extractor import SpacyExtractor
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import MERGE_ORDER, Extractor, triplets_frame
from rctpl_utils.vocabulary import CONCEPTS

RADGRAPH_FILE = "MIMIC-CXR_graphs.json"
EXAMPLES, LONGEST = 8, 90  # triplets that are shown, characters of a quoted sentence
_COLORS = ("#0072B2", "#56B4E9", "#E69F00")  # Okabe-Ito: present, absent, uncertain


def choose_extractor(root: Path) -> Extractor:
    """RadGraph's own graphs where they lie beside the reports, as in the paper; else our rules."""
    graphs = child(root, RADGRAPH_FILE)
    return RadGraphExtractor(graphs) if graphs.is_file() else SpacyExtractor()


def agreement_with_rules(
    extractor: Extractor, triplets: pd.DataFrame, reports: list[Report]
) -> pd.DataFrame | str:
    """How far RadGraph's triplets agree with our rules', concept by concept.

    Args:
        extractor: the one in use; its `read` tells which reports RadGraph's file holds.
        triplets: what it found.
        reports: all reports.
    """
    if not isinstance(extractor, RadGraphExtractor):
        return f"not run: no {RADGRAPH_FILE} beside the reports"
    ours = triplets_frame(SpacyExtractor().extract(reports))
    return agreement(triplets, ours, extractor.read)


def example_triplets(triplets: pd.DataFrame, sources: pd.Series) -> pd.DataFrame:
    """A few short located examples, one a concept, with the source of the quoted sentence.

    Args:
        triplets: all triplets.
        sources: report_id -> name of the source, for reports that may be quoted.
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
