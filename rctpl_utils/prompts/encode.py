"""Encode what the notebooks will ask for, ahead of them and by several processes.

    accelerate launch --multi_gpu --num_processes 4 -m rctpl_utils encode \\
        --profile paper --data-root DIR --checkpoint FILE

Needs the triplets (notebook 01) and the encoder (notebook 03, or the checkpoint). Texts and images
go to `build/<profile>/features`, where the notebooks find them; what is there already is checked
and skipped.
"""

import argparse
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rctpl_utils.datasets import DATASETS, present_datasets
from rctpl_utils.datasets.splits import REPORTS, has_training_films, open_split
from rctpl_utils.encoders.base import Encoder, per_encoder
from rctpl_utils.encoders.features import image_features, text_features
from rctpl_utils.encoders.loading import load_encoders
from rctpl_utils.encoders.parallel_training import processes
from rctpl_utils.errors import InputError
from rctpl_utils.options import add_run_options, command, run_of
from rctpl_utils.prompts.training import TextCorpus
from rctpl_utils.text.knowledge import Knowledge, describe_triplets
from rctpl_utils.text.reports import Report, run_reports, with_enough_concepts
from rctpl_utils.text.triplets import report_labels
from rctpl_utils.vocabulary import TRAINING_CONCEPTS
from rctpl_utils.workspace import Workspace

TEXTS = "texts"
SPLITS = ("validation", "test")  # prompts are learned from text: no training image is asked for
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


def load_corpora(
    workspace: Workspace, encoders: Sequence[Encoder], absent: bool = True
) -> tuple[tuple[TextCorpus, ...], tuple[TextCorpus, ...]]:
    """The training and the validation corpus of notebook 04, each in every encoder's features.

    `absent` says whether H holds descriptions of absent triplets (RC-TPL), or not (RC-TPL+). No
    triplets or no reports are an `InputError`.
    """
    if not workspace.triplets.exists():
        raise InputError("no triplets there", "Run notebook 01 first.", file=workspace.triplets)
    triplets = pd.read_parquet(workspace.triplets)
    reports = with_enough_concepts(run_reports(workspace), triplets)

    def corpora(split: str) -> tuple[TextCorpus, ...]:
        own = [report for report in reports if report.split == split]
        given = (own, triplets, TRAINING_CONCEPTS, workspace.features)
        return per_encoder(encoders, lambda each: build_corpus(each, *given, absent=absent))

    return corpora("train"), corpora("validate")


def encode(workspace: Workspace, what: Sequence[str]) -> list[str]:
    """Encode the named things, or all that is there; a line a thing says what was done.

    An unknown name, and a data set that was named and is absent, is an `InputError`.
    """
    unknown = sorted(set(what) - {TEXTS, *DATASETS})
    if unknown:
        known = ", ".join((TEXTS, *DATASETS))
        raise InputError(f"nothing is called {unknown[0]!r}", f"Choose of: {known}.")
    encoders, lines = load_encoders(workspace), []
    if not what or TEXTS in what:
        training, validation = load_corpora(workspace, encoders)
        counts = f"{len(training[0])} training and {len(validation[0])} validation reports"
        lines.append(f"texts of {counts}")
    for name in what or DATASETS:
        if name == TEXTS:
            continue
        films = name != REPORTS or has_training_films(workspace)
        if not what and not (films and present_datasets([name], workspace.data_root)):
            lines.append(f"{name}: not there")
            continue
        for split in SPLITS:
            dataset = open_split(workspace, name, split)
            for encoder in dict.fromkeys(encoders):
                image_features(encoder, dataset, workspace.features)
            lines.append(f"{name}, {split}: {len(dataset)} images")
    return lines


def run_command(options: argparse.Namespace, work: Callable[[Workspace], list[str]]) -> int:
    """Do the work of a command line in the run that its options name; return the exit status.

    `work` returns the lines to print; the first of several processes prints them.
    """
    try:
        processes()  # joins the others: each then has a CUDA device of its own, the current one
        lines = work(Workspace.open(**run_of(options)))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    group = processes()
    if group.first:
        print("\n".join(lines))
    group.leave()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, or 2 for bad input."""
    parser = command("encode", __doc__)
    parser.add_argument(
        "what", nargs="*", metavar="WHAT",
        help=f"{TEXTS} (reports and descriptions) and data sets, of {', '.join(DATASETS)}; "
        "default: the texts and every data set that is there",
    )  # fmt: skip
    add_run_options(parser)
    options = parser.parse_args(arguments)
    return run_command(options, lambda workspace: encode(workspace, options.what))
