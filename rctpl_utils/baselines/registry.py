"""All competitors of a run, and their rows of Tables 1 to 5: scores, heat maps, retrieval vectors.

The paper's baselines are trained here on the stand-in or read from released checkpoints; the prompt
learners stand on RC-TPL's own encoders. The supervised references, where there are any, are a row
more in each table.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from rctpl_utils.baselines import released
from rctpl_utils.baselines.base import GROUND, RETRIEVE, ZeroShotModel
from rctpl_utils.baselines.miniatures import MINIATURES, load_miniature
from rctpl_utils.baselines.prompt_learners import learners_of
from rctpl_utils.baselines.supervised import SupervisedBound
from rctpl_utils.baselines.training_data import backbone_maps, in_batches
from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.datasets.chexpert import COMPETITION
from rctpl_utils.datasets.images import image_size
from rctpl_utils.datasets.splits import has_training_films, open_split
from rctpl_utils.encoders.base import Encoder, per_encoder
from rctpl_utils.encoders.features import image_features
from rctpl_utils.encoders.frame import Frame, on_squares
from rctpl_utils.encoders.release import released_file
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.evaluation.grounding import Films, Grounder
from rctpl_utils.evaluation.retrieval import DATASET, Pair, Side, standardized, unit
from rctpl_utils.evaluation.table1 import SUPERVISED, Scorer
from rctpl_utils.workspace import Workspace

BATCH = 32  # films or sentences at once
Read = Callable[[np.ndarray], Any]  # from row numbers to the batch that a model reads
FilmReader = Callable[[ChestXrayDataset], Read]


@dataclass(frozen=True)
class Competitor:
    """A method, named as in the tables, with a trained model a seed and what each reads."""

    name: str
    models: tuple[ZeroShotModel, ...]
    films: tuple[FilmReader, ...]
    labeled: int = 0  # images a class that it learned from; 0: zero-shot
    frame: Frame | None = None  # the part of a film that its maps cover; None: the padded square

    def runs(self) -> Iterator[tuple[ZeroShotModel, FilmReader]]:
        """Each seed's model with what it reads."""
        return zip(self.models, self.films, strict=True)

    def published(self, ability: str) -> bool:
        """Whether the published method can do so; otherwise the row is an extension of ours."""
        return ability in self.models[0].published


def load_competitors(workspace: Workspace, encoders: Sequence[Encoder]) -> list[Competitor]:
    """The rows that stand beside RC-TPL: the paper's baselines, then the prompt learners."""
    if workspace.profile.baselines is None:
        return [*load_checkpoints(workspace), *load_prompt_learners(workspace, encoders)]
    films = tuple(partial(_backbone_maps, workspace, each) for each in encoders)
    runs, rows = list(zip(encoders, workspace.profile.seeds, strict=True)), []
    for make in MINIATURES:
        models = tuple(load_miniature(make, *run, workspace.weights) for run in runs)
        rows.append(Competitor(make.name, models, films))
    return [*rows, *load_prompt_learners(workspace, encoders)]


def load_checkpoints(workspace: Workspace) -> list[Competitor]:
    """The baselines whose released weights the user has put below the data root."""
    rows, root = [], workspace.data_root
    for name in (each for each in released.PUBLIC if released.is_provided(each, root)):
        model = released.load_released(name, root, workspace.device)
        films = (partial(_preprocessed, model),)
        rows.append(Competitor(model.name, (model,), films, frame=model.frame))
    return rows


def why_absent(workspace: Workspace) -> dict[str, str]:
    """By name, why a baseline has no row of ours; empty where all are trained here."""
    if workspace.profile.baselines is not None:
        return {}
    root = workspace.data_root
    absent = [each for each in released.PUBLIC if not released.is_provided(each, root)]
    reasons = dict.fromkeys(released.NO_PUBLIC_WEIGHTS, "no public weights")
    return reasons | dict.fromkeys(absent, "weights not there")


def load_prompt_learners(workspace: Workspace, encoders: Sequence[Encoder]) -> list[Competitor]:
    """The learned ones, one encoder a seed; none without films of MIMIC-CXR."""
    if not has_training_films(workspace):
        return []
    films = per_encoder(encoders, lambda each: partial(_features, workspace, each))
    packaged = workspace.profile.weights == "package"
    rows = []
    for each in learners_of(workspace):
        models = []
        for seed, encoder in zip(workspace.profile.seeds, encoders, strict=True):
            name = each.file(seed)
            path = released_file(name, workspace.weights) if packaged else workspace.prompts / name
            model = each.kind(encoder, seed, shots=each.shots).load(load_file(path))
            models.append(model.to(encoder.device))
        rows.append(Competitor(models[0].name, tuple(models), films, labeled=each.shots or 0))
    return rows


def _backbone_maps(workspace: Workspace, encoder: StandIn, dataset: ChestXrayDataset) -> Read:
    maps = backbone_maps(encoder, dataset, workspace.features)
    return lambda rows: torch.from_numpy(np.array(maps[rows])).to(workspace.device)


def _preprocessed(model: released.ReleasedModel, dataset: ChestXrayDataset) -> Read:
    def read(rows: np.ndarray) -> Tensor:
        films = [model.preprocess(dataset.pixels(row)) for row in rows]
        return torch.stack(films).to(model.device)

    return read


def _features(workspace: Workspace, encoder: Encoder, dataset: ChestXrayDataset) -> Read:
    file = image_features(encoder, dataset, workspace.features)
    return lambda rows: file.batch(rows, encoder.device)


@lru_cache(maxsize=8)
def _opened(films: FilmReader, dataset: ChestXrayDataset) -> Read:
    """A reader on a data set, kept: opening stamps every file, and a seed's models share it."""
    return films(dataset)


def scorers(
    competitors: Sequence[Competitor], references: Sequence[SupervisedBound] = ()
) -> dict[str, list[Scorer]]:
    """For Table 1: by name, one function a seed from a data set to scores (n, L)."""
    rows = {each.name: [partial(_scores, *run) for run in each.runs()] for each in competitors}
    return rows | ({SUPERVISED: [each.scores for each in references]} if references else {})


def _scores(
    model: ZeroShotModel, films: FilmReader, dataset: ChestXrayDataset, asked: tuple[str, ...]
) -> np.ndarray:
    read = _opened(films, dataset)
    return in_batches(lambda rows: model.classify(read(rows), asked), len(dataset), BATCH)


def grounders(
    competitors: Sequence[Competitor], references: Sequence[SupervisedBound] = ()
) -> list[Grounder]:
    """For Tables 2 to 4: one row a competitor, one of the references' class activation maps."""
    rows = []
    for each in competitors:
        makers = tuple(partial(_maps, each.frame, *run) for run in each.runs())
        rows.append(Grounder(each.name, makers, native=each.published(GROUND)))
    if references:
        rows.append(Grounder(SUPERVISED, tuple(each.activation_map for each in references)))
    return rows


def _maps(frame: Frame | None, model: ZeroShotModel, films: FilmReader, asked: Films) -> Tensor:
    found = model.ground(_opened(films, asked.dataset)(asked.rows), asked.concept).float()
    if frame is None:
        return found
    paths = asked.dataset.records["path"].iloc[asked.rows]
    return on_squares(found, [image_size(path) for path in paths], frame)


def retrieval_pairs(
    workspace: Workspace,
    competitors: Sequence[Competitor],
    images: Side,
    sentences: Side,
    references: Sequence[SupervisedBound] = (),
) -> dict[str, list[Pair]]:
    """For Table 5: each competitor's own vectors of the same films and sentences, one pair a seed.

    They are standardized over the pool as all rows of the table are. The references' are a film's
    logits for the five classes and each sentence's own class, which is given, not guessed: what is
    bounded is how well films are told apart.
    """
    dataset = open_split(workspace, DATASET, "test")
    places = pd.Index(dataset.records["image_id"]).get_indexer(images.records["item_id"])
    codes, texts = pd.factorize(sentences.records["sentence"])

    def pair(model: ZeroShotModel, films: FilmReader) -> Pair:
        read = _opened(films, dataset)
        seen = in_batches(lambda rows: model.embed_images(read(places[rows])), len(places), BATCH)
        said = in_batches(lambda rows: model.embed_texts(list(texts[rows])), len(texts), BATCH)
        return Pair(unit(standardized(seen)), unit(standardized(said[codes])))

    rows = {each.name: [pair(*run) for run in each.runs()] for each in competitors}
    if references:
        classes = unit(standardized(np.eye(len(COMPETITION))[sentences.classes]))
        logits = [each.scores(dataset, COMPETITION)[places] for each in references]
        rows[SUPERVISED] = [Pair(unit(standardized(each)), classes) for each in logits]
    return rows


def published(competitors: Sequence[Competitor]) -> Mapping[str, bool]:
    """By name, whether retrieval is the method's own."""
    return {each.name: each.published(RETRIEVE) for each in competitors}
