"""Zero-shot grounding of one data set by several methods (paper 4.2.2: Tables 2, 3 and 4).

What can point at a concept: class embeddings on the dense map, Grad-CAM, and the floors. Only films
with a drawn lesion take part. Precision, recall and the honest Dice use one threshold a method,
that with the best mean validation Dice; the maximal Dice takes an oracle's, from the test films.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.images import image_size
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder, ImageFeatures
from rctpl_utils.encoders.features import ImageFeatureFile, image_features
from rctpl_utils.encoders.frame import cosine_maps, frame_of, on_film, on_squares
from rctpl_utils.encoders.gradcam import gradcam_maps
from rctpl_utils.encoders.standin import pad_to_square
from rctpl_utils.evaluation.grounding_metrics import (
    THRESHOLDS,
    Lesions,
    dice,
    pixel_counts,
    pointing_hits,
    points_into,
    region_counts,
    stretch,
)
from rctpl_utils.evaluation.metrics import patient_weights, tidy_row
from rctpl_utils.evaluation.results import Draws
from rctpl_utils.prompts.zero_shot import Embedder, Method
from rctpl_utils.workspace import Workspace

# data set -> the concept that is grounded, and whether training reports name it
GROUNDING_DATASETS = {
    "rsna": ("Pneumonia", "seen"),
    "siim": ("Pneumothorax", "seen"),
    "covid-rural": ("COVID-19", "unseen"),
}
BATCH = 32  # films whose maps of cells are held at once
HELD = 2**18  # pixels whose heat maps are held at once: a megabyte, which stays in the cache
# Centers (across, down) of the right and left lung and the mean deviation of a lung's pixels, as
# shares of the padded film: means over the 364 complete pairs among the lung outlines that
# torchxrayvision packages (v7labs). A test computes them again, from every fourth.
LUNG_CENTERS = ((0.29, 0.46), (0.70, 0.47))
LUNG_SPREAD = (0.09, 0.16)
PRIOR_SIDE = 64  # cells along a side of a prior's map


@dataclass(frozen=True)
class Films:
    """A batch of films, `rows` (n,) of a split with its features, that show one concept."""

    encoder: Encoder
    dataset: ChestXrayDataset
    file: ImageFeatureFile
    rows: np.ndarray
    concept: str

    @cached_property
    def features(self) -> ImageFeatures:
        """Their global and dense features."""
        return self.file.batch(self.rows, self.encoder.device)

    @cached_property
    def images(self) -> Tensor:
        """The films as the encoder sees them, (n, C, S, S)."""
        pixels = [self.dataset.pixels(row) for row in self.rows]
        return torch.stack([self.encoder.preprocess(each) for each in pixels])

    def on_square(self, maps: Tensor) -> Tensor:
        """The encoder's own maps (n, h, w), put where they belong on the padded square."""
        if (frame := frame_of(self.encoder)) is None:
            return maps
        paths = self.dataset.records["path"].iloc[self.rows]
        return on_squares(maps, [image_size(path) for path in paths], frame)


MapMaker = Callable[[Films], Tensor]  # films to maps of cells, (n, h, w), on the padded square


@dataclass(frozen=True)
class Grounder:
    """A row of Tables 2 to 4: a maker a seed (the films of run k come with encoder k); `native`:
    whether the paper's method grounds so.
    """

    name: str
    makers: tuple[MapMaker, ...]
    native: bool = False


def floors(prior: np.ndarray, seeds: Sequence[int]) -> list[Grounder]:
    """What any method must beat: maps that never look at the film, a random one a seed and two
    priors.
    """

    def constant(cells: np.ndarray) -> MapMaker:
        return lambda films: torch.from_numpy(cells).expand(len(films.rows), *cells.shape)

    return [
        Grounder("random map", tuple(map(random_cells, seeds))),
        Grounder("lung-center prior", (constant(lung_centers()),)),
        Grounder("mean-mask prior", (constant(prior),)),
    ]


def random_cells(seed: int) -> MapMaker:
    """A map of independent uniform cells, decided by the seed and the film's identifier."""

    def maker(films: Films) -> Tensor:
        side = films.features.dense_features.shape[1:3]
        names = films.dataset.records["image_id"].iloc[films.rows]
        digests = [hashlib.sha256(f"{seed} {name}".encode()).digest() for name in names]
        cells = [np.random.default_rng(list(digest)).random(side) for digest in digests]
        return torch.from_numpy(np.stack(cells))

    return maker


def lung_centers() -> np.ndarray:
    """Two bumps, one on the middle of each lung: (PRIOR_SIDE, PRIOR_SIDE) in [0, 1]."""
    line = (np.arange(PRIOR_SIDE) + 0.5) / PRIOR_SIDE
    bumps = [
        np.exp(
            -(((line[None, :] - across) / LUNG_SPREAD[0]) ** 2) / 2
            - ((line[:, None] - down) / LUNG_SPREAD[1]) ** 2 / 2
        )
        for across, down in LUNG_CENTERS
    ]
    return np.maximum(*bumps)


def mean_mask(dataset: ChestXrayDataset, concept: str) -> np.ndarray:
    """Where lesions lie on average: the mean of the drawn masks, (PRIOR_SIDE, PRIOR_SIDE)."""
    rows = np.flatnonzero(dataset.annotated(concept))
    total = torch.zeros(PRIOR_SIDE, PRIOR_SIDE)
    for row in rows:
        square = pad_to_square(dataset.mask(row, concept).astype(np.float32))
        shrunk = functional.adaptive_avg_pool2d(torch.from_numpy(square)[None, None], PRIOR_SIDE)
        total += shrunk[0, 0]
    return (total / len(rows)).numpy()


def dense_similarity(embedder: Embedder, branch: str = "concept") -> MapMaker:
    """The cosine of every cell with a branch's class embedding (Eq. 7, right)."""
    embed = lru_cache(maxsize=1)(lambda concept: embedder([concept]))  # once for all batches

    def maker(films: Films) -> Tensor:
        embedding = getattr(embed(films.concept), branch)  # (1, d)
        return films.on_square(cosine_maps(films.features.dense_features, embedding)[:, 0])

    return maker


def gradcam(embedder: Embedder) -> MapMaker:
    """Grad-CAM of the concept branch's score (paper 4.3.3)."""
    embed = lru_cache(maxsize=1)(lambda concept: embedder([concept]).concept)

    def maker(films: Films) -> Tensor:
        maps = gradcam_maps(films.encoder, films.images, embed(films.concept))
        return films.on_square(torch.from_numpy(maps[:, 0]))

    return maker


def table_grounders(
    methods: Sequence[Method], prior: np.ndarray, seeds: Sequence[int]
) -> list[Grounder]:
    """The rows of Tables 2 to 4, floors first, then those of Table 1; RC-TPL's fused row gives way
    to its concept branch, and stands for Grad-CAM as well.
    """
    rows = floors(prior, seeds)
    for method in methods:
        if method.name == "RC-TPL, concept branch":
            continue  # the paper's own way to ground: the row "RC-TPL"
        branch = "report" if method.branch == "report" else "concept"
        makers = tuple(dense_similarity(each, branch) for each in method.embedders)
        rows.append(Grounder(method.name, makers, native=method.name in ("RC-TPL", "RC-TPL+")))
    own = next(method for method in methods if method.name == "RC-TPL")
    return [*rows, Grounder("RC-TPL, Grad-CAM", tuple(map(gradcam, own.embedders)))]


@dataclass(frozen=True)
class Measured:
    """What one run did on n films: pointing game `hits` (n,); hit, false and missed pixels at every
    threshold, (n, 3, T); right and wrong regions, found and missed lesions, (n, 4).
    """

    hits: np.ndarray
    pixels: np.ndarray
    regions: np.ndarray

    @property
    def dice(self) -> np.ndarray:
        """Dice of every film at every threshold, (n, T)."""
        return dice(self.pixels)


@dataclass(frozen=True)
class Grounding:
    """The outcome on one data set: tidy rows, their draws, which films have a lesion drawn, (n,),
    and for each method what its runs did on them, and each run's validation threshold.
    """

    rows: pd.DataFrame
    draws: Draws
    films: np.ndarray
    measured: dict[str, list[Measured]]
    thresholds: dict[str, list[float]]


def ground(
    workspace: Workspace, encoders: Sequence[Encoder], name: str, methods: Sequence[Grounder]
) -> Grounding:
    """Ground a data set of `GROUNDING_DATASETS` with all methods, an encoder a seed."""
    concept, _ = GROUNDING_DATASETS[name]
    held_out, test = (open_split(workspace, name, split) for split in ("validation", "test"))
    validation = measure(workspace, encoders, held_out, concept, methods)
    best = {method: [best_threshold(run) for run in runs] for method, runs in validation.items()}
    thresholds = {method: [float(THRESHOLDS[at]) for at in each] for method, each in best.items()}
    measured = measure(workspace, encoders, test, concept, methods, thresholds)
    films = np.flatnonzero(test.annotated(concept))
    patients = test.records["patient_id"].iloc[films]
    weights = patient_weights(patients, workspace.profile.bootstrap)
    rows, draws = [], {}
    for method in methods:
        runs = zip(measured[method.name], best[method.name], strict=True)
        resampled = [resample(*run, weights) for run in runs]  # a dict of (1 + R,) a seed
        for metric in resampled[0]:
            key = (name, method.name, metric)
            draws[key] = np.stack([each[metric] for each in resampled])
            rows.append(tidy_row(key, draws[key], n=len(films), native=method.native))
    return Grounding(pd.DataFrame(rows), draws, films, measured, thresholds)


@torch.no_grad()
def measure(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    dataset: ChestXrayDataset,
    concept: str,
    methods: Sequence[Grounder],
    thresholds: dict[str, list[float]] | None = None,
) -> dict[str, list[Measured]]:
    """Measure the heat maps of all films with a lesion; regions at `thresholds` only, one a run."""
    files = {each: image_features(each, dataset, workspace.features) for each in encoders}
    films = np.flatnonzero(dataset.annotated(concept))
    runs = [
        (method.name, encoder, maker)
        for method in methods
        for encoder, maker in zip(encoders, method.makers, strict=False)  # one run: the first
    ]
    cuts = [cut for each in methods for cut in (thresholds or {}).get(each.name, [])]
    hits = np.zeros((len(runs), len(films)), bool)
    pixels = np.zeros((len(runs), len(films), 3, len(THRESHOLDS)), np.int64)
    regions = np.zeros((len(runs), len(films), 4), np.int64)
    with tqdm(total=len(films), desc=f"grounding {dataset.name}", unit="film") as bar:
        for start in range(0, len(films), BATCH):
            rows = films[start : start + BATCH]
            asked = {e: Films(e, dataset, file, rows, concept) for e, file in files.items()}
            maps = [maker(asked[encoder]).cpu() for _, encoder, maker in runs]
            for k, row in enumerate(rows):
                mask = dataset.mask(row, concept)
                lesions = Lesions(mask)
                for part, heats in film_heats([each[k] for each in maps], mask.shape):
                    hits[part, start + k] = pointing_hits(heats, mask)
                    pixels[part, start + k] = pixel_counts(heats, mask)
                    for r, heat in zip(part if cuts else (), heats, strict=False):
                        regions[r, start + k] = region_counts(heat >= cuts[r], lesions)
                bar.update()
    found: dict[str, list[Measured]] = {method.name: [] for method in methods}
    for r, (name, *_) in enumerate(runs):
        found[name].append(Measured(hits[r], pixels[r], regions[r]))
    return found


def film_heats(
    maps: Sequence[Tensor], size: tuple[int, int]
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Stretched heat maps on one film of `size`, `HELD` pixels at a time, cell maps of one grid
    together: which of the maps, and these (n, H, W) in [0, 1].
    """
    grids: dict[tuple[int, ...], list[int]] = {}
    for which, cells in enumerate(maps):
        grids.setdefault(tuple(cells.shape), []).append(which)
    step = max(1, HELD // max(size) ** 2)
    for same in grids.values():
        for start in range(0, len(same), step):
            part = same[start : start + step]
            cells = torch.stack([maps[which].float() for which in part])
            yield part, stretch(on_film(cells, size)).numpy()


def best_threshold(run: Measured) -> int:
    """The position in `THRESHOLDS` with the best mean Dice; one for the whole data set."""
    return int(run.dice.mean(axis=0).argmax())


def resample(run: Measured, threshold: int, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of one run in the sample and in every resample, (1 + R,) each; `threshold`: a
    place in `THRESHOLDS`. A method that marks no region at all has precision 0.
    """
    films = weights.sum(axis=1)
    hit, false, missed = (weights @ run.pixels[:, :, threshold]).T
    right, wrong, found, lost = (weights @ run.regions).T

    def share(part: np.ndarray, rest: np.ndarray) -> np.ndarray:
        total = part + rest
        return np.divide(part, total, out=np.zeros(len(total)), where=total > 0)

    return {
        "pointing_game": weights @ run.hits / films,
        "region_precision": share(right, wrong),
        "region_recall": share(found, lost),
        "pixel_precision": share(hit, false),
        "pixel_recall": share(hit, missed),
        "dice_oracle": weights @ run.dice[:, best_threshold(run)] / films,
        "dice_validation": weights @ run.dice[:, threshold] / films,
    }


def pointing_of_runs(
    encoders: Sequence[Encoder],
    dataset: ChestXrayDataset,
    films: Callable[[Encoder], ImageFeatureFile],
    concept: str,
    methods: Sequence[Method],
) -> list[np.ndarray]:
    """The pointing game of every run, each on its own encoder's maps: (seeds, n) a method."""
    found: dict[tuple[int, int], np.ndarray] = {}  # method, seed
    for encoder in dict.fromkeys(encoders):
        runs, embeddings = [], []
        for m, method in enumerate(methods):
            branch = "report" if method.branch == "report" else "concept"
            for k, embedder in enumerate(method.embedders):
                if encoders[k] is encoder:
                    runs.append((m, k))
                    embeddings.append(getattr(embedder([concept]), branch))
        hits = pointing_of(encoder, dataset, films(encoder), concept, torch.cat(embeddings))
        found |= dict(zip(runs, hits, strict=True))
    return [
        np.stack([found[m, k] for k in range(len(method.embedders))])
        for m, method in enumerate(methods)
    ]


@torch.no_grad()
def pointing_of(
    encoder: Encoder,
    dataset: ChestXrayDataset,
    file: ImageFeatureFile,
    concept: str,
    embeddings: Tensor,
) -> np.ndarray:
    """Whether the cosine maps of K class embeddings (K, d) point into the lesion of each drawn
    film: (K, n) of 0 and 1.
    """
    rows = np.flatnonzero(dataset.annotated(concept))
    hits = np.zeros((len(embeddings), len(rows)))
    with tqdm(total=len(rows), desc=f"pointing on {dataset.name}", unit="film") as bar:
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            dense = file.batch(part, encoder.device).dense_features
            for k, (row, maps) in enumerate(
                zip(part, cosine_maps(dense, embeddings).cpu(), strict=True), start
            ):
                hits[:, k] = points_into(maps, dataset.mask(row, concept), frame_of(encoder))
                bar.update()
    return hits
