"""What the extraction notebook shows: the extractor in use, examples, counts, agreement, scores.

Scores are those against the human MeSH codes of Open-I. Coders name what is present, and on the
development half they left out most hedged mentions; so present triplets are the predictions, absent
and uncertain ones are none. (They did code most "A versus B", which costs recall.) Concepts are
compared as they are named, without their parents. Reports are split by a hash of their identifier:
rules were written on one half, scores come from the other.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rctpl_utils.datasets.openi import OpenIReport, mesh_findings, openi_archive, read_openi
from rctpl_utils.errors import InputError
from rctpl_utils.given_files import child
from rctpl_utils.text.concepts.radgraph import RadGraphExtractor
from rctpl_utils.text.concepts.spacy_extractor import SpacyExtractor
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import MERGE_ORDER, merge_mentions, triplets_frame
from rctpl_utils.vocabulary import CONCEPTS, split_location

RADGRAPH_FILE = "MIMIC-CXR_graphs.json"
EXAMPLES, LONGEST = 8, 90  # triplets that are shown, characters of a quoted sentence
_COLORS = ("#0072B2", "#56B4E9", "#E69F00")  # Okabe-Ito: present, absent, uncertain
_UNMENTIONED = "unmentioned"
_COUNTS = ("both", "first_only", "second_only", "neither")
# MeSH's codes are coarser: no mid zone (coders took the middle lobe, on the left the lingula), no
# perihilar region (the hilum), no periphery.
_CODED_ZONE = {"perihilar": "hilum", "lingula": "middle", "peripheral": None}
Extractor = SpacyExtractor | RadGraphExtractor
Items = Mapping[str, set[tuple]]  # report_id -> what it holds


def choose_extractor(root: Path) -> Extractor:
    """RadGraph's own graphs where they lie beside the reports, as in the paper; else our rules."""
    graphs = child(root, RADGRAPH_FILE)
    return RadGraphExtractor(graphs) if graphs.is_file() else SpacyExtractor()


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
    kinds, answers, places = [*MERGE_ORDER, _UNMENTIONED], [], []
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
        counts = pd.crosstab(one, two).reindex(index=kinds, columns=kinds, fill_value=0).to_numpy()
        with_first, without = counts[0], counts[1:].sum(axis=0)  # by the second's answer
        binary = np.array([[row[0], row[1:].sum()] for row in (with_first, without)])
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


def development_half(uid: str) -> bool:
    """Whether rules were written on this report: the first byte of its SHA-256 is even."""
    return hashlib.sha256(uid.encode()).digest()[0] % 2 == 0


def held_out_reports() -> list[OpenIReport]:
    """The packaged Open-I reports that rules were not written on."""
    return [report for report in read_openi(openi_archive()) if not development_half(report.uid)]


def extract_openi(extractor: SpacyExtractor, reports: Iterable[OpenIReport]) -> pd.DataFrame:
    """Triplets of Open-I reports, `report_id` their uid; reports without text give none."""
    plain = (Report(r.uid, r.uid, r.findings, r.impression, "test") for r in reports)
    return triplets_frame(extractor.extract(report for report in plain if report.text))


def gold_concepts(reports: Iterable[OpenIReport], located: bool = False) -> Items:
    """The coded concepts of each report as 1-tuples; or (concept, side, zone), see `_items`."""
    found = {r.uid: [(f.concept, f.side, f.zone) for f in mesh_findings(r)] for r in reports}
    return {uid: _items(each, located) for uid, each in found.items()}


def predicted_concepts(triplets: pd.DataFrame, located: bool = False) -> Items:
    """The extracted concepts of each report, as `gold_concepts` gives the coded ones."""
    found: dict[str, list[tuple]] = {}
    for each in triplets[triplets["positive"] == "present"].itertuples():
        location = each.location if pd.notna(each.location) else None
        found.setdefault(each.report_id, []).append((each.concept, *split_location(location)))
    return {uid: _items(each, located) for uid, each in found.items()}


def _items(found: Iterable[tuple], located: bool) -> set[tuple]:
    """Concepts; or items in MeSH's zones, a side each, without what a more precise one implies.

    "Bilateral" becomes left and right; (c, left, None) goes where (c, left, base) is there too.
    """
    if not located:
        return {item[:1] for item in found}
    full: set[tuple] = set()
    for concept, side, zone in found:
        side = "left" if zone == "lingula" else side
        zone = _CODED_ZONE.get(zone, zone)
        sides = ("left", "right") if side == "bilateral" else (side,)
        full |= {(concept, each, zone) for each in sides if each or zone}
    with_zone = {(concept, side) for concept, side, zone in full if zone}
    with_side = {(concept, zone) for concept, side, zone in full if side}
    return {
        (concept, side, zone)
        for concept, side, zone in full
        if (zone or (concept, side) not in with_zone) and (side or (concept, zone) not in with_side)
    }


def extraction_scores(triplets: pd.DataFrame, reports: Sequence[OpenIReport]) -> pd.DataFrame:
    """Scores over the gold's reports, for concepts and for located ones: a row a concept that
    occurs, then the micro-average.

    Support is the number of gold items. A located item is (concept, side, zone) with a side or a
    zone, exact in all three.
    """
    if not reports:
        raise InputError("no report to score", "Give the Open-I reports of one half.")
    tables = []
    for task, located in (("concept", False), ("located concept", True)):
        predicted = predicted_concepts(triplets, located)
        hits, wanted, given = Counter(), Counter(), Counter()
        for uid, items in gold_concepts(reports, located).items():
            said = predicted.get(uid, set())
            wanted.update(item[0] for item in items)
            given.update(item[0] for item in said)
            hits.update(item[0] for item in items & said)
        names = [name for name in CONCEPTS if wanted[name] or given[name]]
        hit, say, want = (
            pd.Series([*(counts[name] for name in names), counts.total()])
            for counts in (hits, given, wanted)
        )
        rows = pd.DataFrame({"concept": [*names, "micro"], "task": task})
        scores = {"precision": hit / say, "recall": hit / want, "f1": 2 * hit / (say + want)}
        tables.append(rows.assign(**scores, support=want))
    return pd.concat(tables, ignore_index=True)


def common_errors(
    triplets: pd.DataFrame, reports: Sequence[OpenIReport], top: int = 10
) -> pd.DataFrame:
    """The commonest errors of the concept task: columns error, concept, count, report_id, said.

    `said` is the code that was missed, or the sentence that made a spurious concept.
    """
    gold, predicted = gold_concepts(reports), predicted_concepts(triplets)
    codes = {(r.uid, f.concept): f.code for r in reports for f in mesh_findings(r)}
    present = triplets[triplets["positive"] == "present"]
    said = {(t.report_id, t.concept): t.sentence for t in present.itertuples()}
    errors: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for uid in gold:
        for error, items, source in (
            ("missed", gold[uid] - predicted.get(uid, set()), codes),
            ("spurious", predicted.get(uid, set()) - gold[uid], said),
        ):
            for (concept,) in sorted(items):
                errors.setdefault((error, concept), []).append((uid, source[uid, concept]))
    ranked = sorted(errors.items(), key=lambda entry: (-len(entry[1]), entry[0]))[:top]
    rows = [(error, concept, len(where), *where[0]) for (error, concept), where in ranked]
    return pd.DataFrame(rows, columns=["error", "concept", "count", "report_id", "said"])
