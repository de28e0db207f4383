"""What class embeddings score that know nothing: a floor is a distribution, not one list of words.

Two kinds are drawn anew for every class and draw: random unit vectors of the joint space, and three
random words of the text tower's vocabulary. A method that lies inside a floor's range has shown
nothing; a column whose supervised reference lies inside it cannot show anything.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rctpl_utils.datasets.questions import QUESTIONS
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.features import image_features
from rctpl_utils.evaluation.grounding import GROUNDING_DATASETS, Grounding, pointing_of
from rctpl_utils.evaluation.metrics import macro_auc, tidy_row
from rctpl_utils.evaluation.table1 import SPLITS, Classification
from rctpl_utils.prompts.zero_shot import score_images
from rctpl_utils.scoring import ClassEmbeddings
from rctpl_utils.workspace import Workspace

RESAMPLES_A_DRAW = 5  # of the profile's resamples: 201 draws for a thousand, over all encoders
VECTORS, WORDS = "floor: random class vectors", "floor: random words"
KINDS = (VECTORS, WORDS)
WORDS_A_CLASS = 3
AT_ONCE = 16  # draws scored together


def random_vectors(
    encoder: Encoder, draws: int, classes: int, generator: torch.Generator
) -> Tensor:
    """Isotropic unit vectors: (draws, classes, d)."""
    drawn = torch.randn(draws, classes, encoder.dimension, generator=generator)
    return torch.nn.functional.normalize(drawn, dim=-1).to(encoder.device)


@torch.no_grad()
def random_words(encoder: Encoder, draws: int, classes: int, generator: torch.Generator) -> Tensor:
    """Embeddings of `WORDS_A_CLASS` random whole words each: (draws, classes, d) unit vectors."""
    words = sorted(w for w in encoder.text.tokenizer.get_vocab() if w.isalpha() and len(w) > 2)
    which = torch.randint(len(words), (draws * classes, WORDS_A_CLASS), generator=generator)
    texts = [" ".join(words[k] for k in row) for row in which.tolist()]
    parts = [encoder.encode_text(texts[k : k + 256]) for k in range(0, len(texts), 256)]
    return torch.cat(parts).unflatten(0, (draws, classes))


def _drawn(
    workspace: Workspace, encoders: Sequence[Encoder], kind: str, classes: int
) -> Iterator[tuple[Encoder, Tensor]]:
    """Each encoder once, with its share of the draws, (share, classes, d)."""
    draw = {VECTORS: random_vectors, WORDS: random_words}[kind]
    distinct = list(dict.fromkeys(encoders))
    share = -(-(workspace.profile.bootstrap // RESAMPLES_A_DRAW + 1) // len(distinct))
    for k, encoder in enumerate(distinct):
        yield encoder, draw(encoder, share, classes, torch.Generator().manual_seed(k))


def auc_floor(
    workspace: Workspace, encoders: Sequence[Encoder], column: str, kind: str
) -> np.ndarray:
    """Macro AUC of random class embeddings, both branches alike: (D,), an encoder after another."""
    question = QUESTIONS[column]
    opened = [open_split(workspace, question.dataset, split) for split in SPLITS]
    labels, asked = question.labels(opened[0]), question.asked(opened[0])
    values = []
    for encoder, drawn in _drawn(workspace, encoders, kind, len(asked)):
        files = [image_features(encoder, each, workspace.features) for each in opened]
        for start in range(0, len(drawn), AT_ONCE):
            part = {k: ClassEmbeddings(e, e) for k, e in enumerate(drawn[start : start + AT_ONCE])}
            test, validation = (score_images(file, part).values() for file in files)
            for scores, held_out in zip(test, validation, strict=True):
                values.append(macro_auc(labels, question.scores(scores.both, held_out.both)))
    return np.array(values)


def with_auc_floor(
    workspace: Workspace, encoders: Sequence[Encoder], outcome: Classification
) -> Classification:
    """A data set's outcome with the floors as rows: mean AUC and the range of 95 % of the draws."""
    column, films = outcome.rows[["dataset", "n"]].iloc[0]
    found = {kind: auc_floor(workspace, encoders, column, kind) for kind in KINDS}
    return _with_rows(outcome, column, "auc", found, seeds=len(set(encoders)), n=films)


def with_pointing_floor(
    workspace: Workspace, encoders: Sequence[Encoder], outcome: Grounding
) -> Grounding:
    """A data set's outcome with the floors of its pointing game on test films as rows."""
    name = outcome.rows["dataset"].iloc[0]
    concept, _ = GROUNDING_DATASETS[name]
    dataset, found = open_split(workspace, name, "test"), {}
    for kind in KINDS:
        shares = [
            pointing_of(
                encoder, dataset, image_features(encoder, dataset, workspace.features), concept,
                drawn[:, 0],
            ).mean(axis=1)
            for encoder, drawn in _drawn(workspace, encoders, kind, 1)
        ]  # fmt: skip
        found[kind] = np.concatenate(shares)
    count = {"seeds": len(set(encoders)), "n": len(outcome.films), "native": True}
    return _with_rows(outcome, name, "pointing_game", found, **count)


def _with_rows(
    outcome: Classification | Grounding,
    dataset: str,
    metric: str,
    found: Mapping[str, np.ndarray],
    **more: object,
) -> Classification | Grounding:
    """The draws of each kind as a series: its interval is the floor's range."""
    draws = {
        (dataset, kind, metric): np.r_[values.mean(), values][None]
        for kind, values in found.items()
    }
    rows = pd.DataFrame([tidy_row(key, series) | more for key, series in draws.items()])
    rows = pd.concat([outcome.rows, rows], ignore_index=True)
    return replace(outcome, rows=rows, draws=outcome.draws | draws)
