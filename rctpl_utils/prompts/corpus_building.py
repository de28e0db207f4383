"""From reports and triplets to the features and labels that prompts learn from (Eq. 1 and 6)."""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.features import text_features
from rctpl_utils.prompts.training import TextCorpus
from rctpl_utils.text.knowledge import Knowledge, describe_triplets
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import report_labels

Labeler = Callable[[pd.DataFrame, Sequence[str], Sequence[str]], pd.DataFrame]


def build_corpus(
    encoder: Encoder,
    reports: list[Report],
    triplets: pd.DataFrame,
    concepts: tuple[str, ...],
    folder: Path,
    knowledge: str | Knowledge = "kb",
    with_location: bool = True,
    sample: Collection[str] | None = None,
    absent: bool = True,
    labeled: Labeler = report_labels,
) -> TextCorpus:
    """Encode reports and the descriptions of their triplets; label them (Eq. 6, Eq. 9).

    A report without a present concept has no pair (i in c+, j in c-) and so no loss: it is left
    out here, which saves its share of every epoch and changes no gradient's direction.

    Args:
        reports: those that enter training (paper 4.1.1: with at least two concepts).
        triplets: of these and other reports; concepts outside `concepts` are left out.
        folder: the feature cache.
        sample: identifiers of the reports that the corpus is restricted to; the features of all
            `reports` are made, once for every sample.
        absent: whether H holds the descriptions of absent triplets too, as in the paper; without
            them it says what the labels say.
    """
    texts = list(dict.fromkeys(report.text for report in reports))
    place = {text: row for row, text in enumerate(texts)}
    encoded = text_features(encoder, texts, folder)  # of all: labels may change, features do not
    labels = labeled(triplets, [report.report_id for report in reports], concepts)
    positive = (labels == 1).any(axis=1).to_numpy()
    if sample is not None:
        positive = positive & labels.index.isin(list(sample))
    reports = [report for report, kept in zip(reports, positive, strict=True) if kept]
    identifiers = [report.report_id for report in reports]
    own = triplets["concept"].isin(concepts) & triplets["report_id"].isin(identifiers)
    if not absent:
        own &= triplets["positive"] != "absent"
    described, mapping = describe_triplets(triplets[own], knowledge, with_location)
    rows = mapping.groupby("report_id", sort=False)["text_id"].apply(lambda ids: ids.to_numpy())
    return TextCorpus(
        encoded[[place[report.text] for report in reports]],
        description_features(encoder, described["sentences"], folder),
        [rows[identifier] for identifier in identifiers],
        labels[positive].to_numpy(np.float32),
    )


def description_features(
    encoder: Encoder, sentences: Iterable[Sequence[str]], folder: Path
) -> np.ndarray:
    """One unit vector a description: the mean of its sentences', each encoded alone: (m, d)."""
    lists = [list(each) for each in sentences]
    place = {text: row for row, text in enumerate(dict.fromkeys(t for each in lists for t in each))}
    encoded = np.asarray(text_features(encoder, list(place), folder))
    means = np.stack([encoded[[place[text] for text in each]].mean(axis=0) for each in lists])
    return means / np.linalg.norm(means, axis=1, keepdims=True)
