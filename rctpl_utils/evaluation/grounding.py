"""Zero-shot grounding of one data set by several methods (paper 4.2.2: Tables 2, 3 and 4).

Only films with a drawn lesion. Precision, recall and the honest Dice use one threshold a method,
that with the best mean validation Dice; the maximal Dice takes an oracle's, from the test films.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.features import image_features
from rctpl_utils.encoders.frame import on_film
from rctpl_utils.evaluation.bootstrap_samples import Draws
from rctpl_utils.evaluation.grounding_methods import Films, Grounder
from rctpl_utils.evaluation.grounding_metrics import (
    THRESHOLDS,
    Lesions,
    PixelCounts,
    dice,
    pixel_counts,
    pointing_hits,
    region_counts,
)
from rctpl_utils.evaluation.heat_maps import stretch
from rctpl_utils.evaluation.metrics import named_interval, patient_weights
from rctpl_utils.workspace import Workspace

# data set -> the concept that is grounded, and whether training reports name it
GROUNDING_DATASETS = {
    "rsna": ("Pneumonia", "seen"),
    "siim": ("Pneumothorax", "seen"),
    "covid-rural": ("COVID-19", "unseen"),
}
BATCH = 32  # films whose maps of cells are held at once
HELD = 2**18  # pixels whose heat maps are held at once: a megabyte, which stays in the cache


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
        return np.stack([dice(PixelCounts(*film)) for film in self.pixels])


@dataclass(frozen=True)
class Grounding:
    """The outcome on one data set: tidy rows, draws of every metric in the sample and in every
    resample, which films have a lesion drawn, (n,), and for each method what its runs did on them,
    and each run's validation threshold.
    """

    rows: pd.DataFrame
    draws: Draws
    films: np.ndarray
    measured: dict[str, list[Measured]]
    thresholds: dict[str, list[float]]


def ground(
    workspace: Workspace, encoders: Sequence[Encoder], name: str, methods: Sequence[Grounder]
) -> Grounding:
    """Ground a data set of `GROUNDING_DATASETS` with all methods, an encoder a seed, and evaluate
    them.
    """
    concept, _ = GROUNDING_DATASETS[name]
    held_out = open_split(workspace, name, "validation")
    validation = measure(workspace, encoders, held_out, concept, methods)
    best = {method: [best_threshold(run) for run in runs] for method, runs in validation.items()}
    thresholds = {method: [float(THRESHOLDS[at]) for at in each] for method, each in best.items()}
    test = open_split(workspace, name, "test")
    measured = measure(workspace, encoders, test, concept, methods, thresholds)
    films = np.flatnonzero(test.annotated(concept))
    patients = test.records["patient_id"].iloc[films]
    weights = patient_weights(patients, workspace.profile.bootstrap)
    rows, draws = [], {}
    for method in methods:
        runs = measured[method.name]
        resampled = [  # a dict of (1 + R,) a seed
            resample(run, at, weights) for run, at in zip(runs, best[method.name], strict=True)
        ]
        for metric in resampled[0]:
            series = np.stack([each[metric] for each in resampled])
            draws[name, method.name, metric] = series
            about = {"dataset": name, "method": method.name, "metric": metric}
            count = {"seeds": len(runs), "n": len(films), "native": method.native}
            rows.append({**about, **named_interval(series), **count})
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
    """Make and measure the heat maps of all films with a lesion, a batch at a time; regions are
    counted at `thresholds` only, one a run.
    """
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
                lesions = Lesions.of(mask)
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
    """Stretched heat maps on one film of `size` (H, W), `HELD` pixels at a time, maps (h, w) of one
    grid together: which of the maps, and these (n, H, W) in [0, 1].
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
    """Every metric of one run in the sample and in every resample, (1 + R,) each; `threshold` is a
    position in `THRESHOLDS`. A method that marks no region at all has precision 0.
    """
    films = weights.sum(axis=1)
    dices = run.dice
    hit, false, missed = (weights @ run.pixels[:, :, threshold]).T
    right, wrong, found, lost = (weights @ run.regions).T
    return {
        "pointing_game": weights @ run.hits / films,
        "region_precision": _share(right, wrong),
        "region_recall": _share(found, lost),
        "pixel_precision": _share(hit, false),
        "pixel_recall": _share(hit, missed),
        "dice_oracle": weights @ dices[:, best_threshold(run)] / films,
        "dice_validation": weights @ dices[:, threshold] / films,
    }


def _share(part: np.ndarray, rest: np.ndarray) -> np.ndarray:
    total = part + rest
    return np.divide(part, total, out=np.zeros(len(total)), where=total > 0)
