"""The extractor against the human MeSH codes of Open-I: precision, recall and F1.

Coders name what is present, and on the development half they left out most hedged mentions; so
present triplets are the predictions, absent and uncertain ones are none. (They did code most
"A versus B", which costs recall.) Concepts are compared as they are named, without their parents.
Reports are split by a hash of their identifier: rules were written on one half, scores come from
the other.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd

from rctpl_utils.datasets.openi import OpenIReport, mesh_findings, openi_archive, read_openi
from rctpl_utils.errors import InputError
from rctpl_utils.text.concepts.spacy_extractor import SpacyExtractor
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import triplets_frame
from rctpl_utils.vocabulary import CONCEPTS, split_location

# MeSH's codes are coarser: no mid zone (coders took the middle lobe, on the left the lingula), no
# perihilar region (the hilum), no periphery.
_CODED_ZONE = {"perihilar": "hilum", "lingula": "middle", "peripheral": None}
Items = Mapping[str, set[tuple]]  # report_id -> what it holds


def development_half(uid: str) -> bool:
    """Whether rules were written on this report: the first byte of its SHA-256 is even."""
    return hashlib.sha256(uid.encode()).digest()[0] % 2 == 0


def extract_openi(extractor: SpacyExtractor, reports: Iterable[OpenIReport]) -> pd.DataFrame:
    """Triplets of Open-I reports, `report_id` their uid; reports without text give none."""
    plain = (Report(r.uid, r.uid, r.findings, r.impression, "test") for r in reports)
    return triplets_frame(extractor.extract(report for report in plain if report.text))


def held_out_reports() -> list[OpenIReport]:
    """The packaged Open-I reports that rules were not written on."""
    return [report for report in read_openi(openi_archive()) if not development_half(report.uid)]


def extraction_scores(triplets: pd.DataFrame, reports: Sequence[OpenIReport]) -> pd.DataFrame:
    """Scores a concept and micro-averaged, for concepts and for located concepts.

    Support is the number of gold items. A located item is (concept, side, zone) with a side or a
    zone, exact in all three.
    """
    if not reports:
        raise InputError("no report to score", "Give the Open-I reports of one half.")
    tables = [
        _scores("concept", gold_concepts(reports), predicted_concepts(triplets)),
        _scores("located concept", gold_located(reports), predicted_located(triplets)),
    ]
    return pd.concat(tables, ignore_index=True)


def gold_concepts(reports: Iterable[OpenIReport]) -> Items:
    """The coded concepts of each report, as 1-tuples."""
    return {r.uid: {(f.concept,) for f in mesh_findings(r)} for r in reports}


def gold_located(reports: Iterable[OpenIReport]) -> Items:
    """The coded (concept, side, zone) of each report, see `_precise`."""
    return {r.uid: _precise((f.concept, f.side, f.zone) for f in mesh_findings(r)) for r in reports}


def predicted_concepts(triplets: pd.DataFrame) -> Items:
    """The extracted concepts of each report, as 1-tuples."""
    return _collect(triplets, lambda concept, location: (concept,))


def predicted_located(triplets: pd.DataFrame) -> Items:
    """The extracted (concept, side, zone) of each report, see `_precise`."""
    found = _collect(triplets, lambda concept, location: (concept, *split_location(location)))
    return {report_id: _precise(items) for report_id, items in found.items()}


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


def _collect(triplets: pd.DataFrame, item: Callable[[str, str | None], tuple]) -> Items:
    found: dict[str, set] = {}
    for each in triplets[triplets["positive"] == "present"].itertuples():
        location = each.location if pd.notna(each.location) else None
        found.setdefault(each.report_id, set()).add(item(each.concept, location))
    return found


def _precise(items: Iterable[tuple]) -> set[tuple]:
    """Items in MeSH's zones, a side each, without those that a more precise one implies.

    "Bilateral" becomes left and right; (c, left, None) goes where (c, left, base) is there too.
    """
    full: set[tuple] = set()
    for concept, side, zone in items:
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


def _scores(task: str, gold: Items, predicted: Items) -> pd.DataFrame:
    """Scores over the gold's reports, a row a concept that occurs, then `micro`."""
    hits, wanted, given = Counter(), Counter(), Counter()
    for uid, items in gold.items():
        said = predicted.get(uid, set())
        wanted.update(item[0] for item in items)
        given.update(item[0] for item in said)
        hits.update(item[0] for item in items & said)
    names = [name for name in CONCEPTS if wanted[name] or given[name]]
    rows = pd.DataFrame({"concept": [*names, "micro"], "task": task})
    hit, say, want = (
        pd.Series([*(each[name] for name in names), each.total()]) for each in (hits, given, wanted)
    )
    scores = {"precision": hit / say, "recall": hit / want, "f1": 2 * hit / (say + want)}
    return rows.assign(**scores, support=want)
