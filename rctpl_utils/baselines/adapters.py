"""From trained competitors to rows of the tables: scores, heat maps, retrieval vectors."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch

from rctpl_utils.baselines.base import GROUND, RETRIEVE, ZeroShotModel
from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.datasets.images import image_size
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.frame import Frame, on_squares
from rctpl_utils.evaluation.grounding import Films, Grounder, MapMaker
from rctpl_utils.evaluation.retrieval import DATASET, Pair, Side, standardized, unit
from rctpl_utils.evaluation.table1 import Scorer
from rctpl_utils.workspace import Workspace

BATCH = 32  # films or sentences at once
FilmReader = Callable[[ChestXrayDataset], Callable[[np.ndarray], Any]]


@dataclass(frozen=True)
class Competitor:
    """A method, named as in the tables, with its trained models and what it reads of a film.

    `models` are one a seed; for each, `films` gives from a data set a function from row numbers to
    batches. `labeled` images a class were learned from (0: zero-shot). `frame` is the part of a
    film that its maps cover; None for the padded square.
    """

    name: str
    models: tuple[ZeroShotModel, ...]
    films: tuple[FilmReader, ...]
    labeled: int = 0
    frame: Frame | None = None

    def runs(self) -> Iterator[tuple[ZeroShotModel, FilmReader]]:
        """Each seed's model with what it reads."""
        return zip(self.models, self.films, strict=True)

    def published(self, ability: str) -> bool:
        """Whether the published method can do so; otherwise the row is an extension of ours."""
        return ability in self.models[0].published


@lru_cache(maxsize=8)
def _opened(films: FilmReader, dataset: ChestXrayDataset) -> Callable[[np.ndarray], Any]:
    """A reader on a data set, kept: opening stamps every file, and a seed's models share it."""
    return films(dataset)


def scorers(competitors: Sequence[Competitor]) -> dict[str, list[Scorer]]:
    """For Table 1: by name, one function a seed from a data set to scores (n, L)."""

    def scorer(model: ZeroShotModel, films: FilmReader) -> Scorer:
        def score(dataset: ChestXrayDataset, asked: tuple[str, ...]) -> np.ndarray:
            read = _opened(films, dataset)
            return _joined(model.classify(read(rows), asked) for rows in _parts(dataset))

        return score

    return {each.name: [scorer(*run) for run in each.runs()] for each in competitors}


def grounders(competitors: Sequence[Competitor]) -> list[Grounder]:
    """For Tables 2 to 4: one row a competitor."""

    def maker(model: ZeroShotModel, films: FilmReader, frame: Frame | None) -> MapMaker:
        def maps(asked: Films) -> torch.Tensor:
            found = model.ground(_opened(films, asked.dataset)(asked.rows), asked.concept).float()
            if frame is None:
                return found
            paths = asked.dataset.records["path"].iloc[asked.rows]
            return on_squares(found, [image_size(path) for path in paths], frame)

        return maps

    return [
        Grounder(
            each.name,
            tuple(maker(*run, each.frame) for run in each.runs()),
            native=each.published(GROUND),
        )
        for each in competitors
    ]


def retrieval_pairs(
    workspace: Workspace, competitors: Sequence[Competitor], images: Side, sentences: Side
) -> dict[str, list[Pair]]:
    """For Table 5: each competitor's own vectors of the same films and sentences, one pair a seed.

    They are standardized over the pool as all rows of the table are.
    """
    dataset = open_split(workspace, DATASET, "test")
    places = pd.Index(dataset.records["image_id"]).get_indexer(images.records["item_id"])
    codes, texts = pd.factorize(sentences.records["sentence"])
    found = {}
    for each in competitors:
        found[each.name] = []
        for model, films in each.runs():
            read = _opened(films, dataset)
            seen = _joined(model.embed_images(read(places[rows])) for rows in _parts(places))
            said = _joined(model.embed_texts(list(texts[rows])) for rows in _parts(texts))
            found[each.name].append(Pair(*(unit(standardized(s)) for s in (seen, said[codes]))))
    return found


def _parts(items: Any) -> list[np.ndarray]:
    return [np.arange(k, min(k + BATCH, len(items))) for k in range(0, len(items), BATCH)]


def _joined(parts: Iterable[torch.Tensor]) -> np.ndarray:
    return torch.cat(list(parts)).float().cpu().numpy()


def published(competitors: Sequence[Competitor]) -> Mapping[str, bool]:
    """By name, whether retrieval is the method's own."""
    return {each.name: each.published(RETRIEVE) for each in competitors}
