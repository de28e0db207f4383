"""What can point at a concept: class embeddings on the dense map, Grad-CAM, and the floors. A maker
turns a batch of films into cell maps (n, h, w) on the padded square that encoders see.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.images import image_size
from rctpl_utils.encoders.base import Encoder, ImageFeatures
from rctpl_utils.encoders.features import ImageFeatureFile
from rctpl_utils.encoders.frame import cosine_maps, frame_of, on_squares
from rctpl_utils.encoders.gradcam import gradcam_maps
from rctpl_utils.encoders.standin import pad_to_square
from rctpl_utils.prompts.zero_shot import Embedder, Method
from rctpl_utils.scoring import ClassEmbeddings

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
        frame = frame_of(self.encoder)
        if frame is None:
            return maps
        paths = self.dataset.records["path"].iloc[self.rows]
        return on_squares(maps, [image_size(path) for path in paths], frame)


MapMaker = Callable[[Films], Tensor]


@dataclass(frozen=True)
class Grounder:
    """A row of Tables 2 to 4: a maker a seed (the films of run k come with encoder k); `native`:
    whether the paper's method grounds so, false for controls and extensions.
    """

    name: str
    makers: tuple[MapMaker, ...]
    native: bool = False


def floors(prior: np.ndarray, seeds: Sequence[int]) -> list[Grounder]:
    """What any method must beat: maps that never look at the film, a random one a seed, and two
    priors, one of them the validation films' `mean_mask`, (h, w).
    """
    fixed = {"lung-center prior": lung_centers(), "mean-mask prior": prior}
    return [
        Grounder("random map", tuple(_random(seed) for seed in seeds)),
        *(Grounder(name, (_constant(cells),)) for name, cells in fixed.items()),
    ]


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
    """The cosine of every cell with a branch's class embedding (Eq. 7, right; the paper's:
    "concept").
    """

    embed = _remembered(embedder)

    def maker(films: Films) -> Tensor:
        embedding = getattr(embed(films.concept), branch)  # (1, d)
        dense = films.features.dense_features  # (n, h, w, d)
        maps = cosine_maps(dense, embedding)[:, 0]
        return films.on_square(maps)

    return maker


def gradcam(embedder: Embedder) -> MapMaker:
    """Grad-CAM of the concept branch's score (paper 4.3.3)."""

    embed = _remembered(embedder)

    def maker(films: Films) -> Tensor:
        embedding = embed(films.concept).concept
        maps = torch.from_numpy(gradcam_maps(films.encoder, films.images, embedding)[:, 0])
        return films.on_square(maps)

    return maker


def table_grounders(
    methods: Sequence[Method], prior: np.ndarray, seeds: Sequence[int]
) -> list[Grounder]:
    """The rows of Tables 2 to 4 that we can run, floors first, then those of Table 1; RC-TPL's
    fused row gives way to its concept branch, and stands for Grad-CAM as well.
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


def _remembered(embedder: Embedder) -> Callable[[str], ClassEmbeddings]:
    """One concept's embeddings, computed once for all batches of films: nothing learns here."""
    return lru_cache(maxsize=1)(lambda concept: embedder([concept]))


def _constant(cells: np.ndarray) -> MapMaker:
    return lambda films: torch.from_numpy(cells).expand(len(films.rows), *cells.shape)


def _random(seed: int) -> MapMaker:
    """A map of independent uniform cells, decided by the seed and the film's identifier."""

    def maker(films: Films) -> Tensor:
        side = films.features.dense_features.shape[1:3]
        names = films.dataset.records["image_id"].iloc[films.rows]
        digests = [hashlib.sha256(f"{seed} {name}".encode()).digest() for name in names]
        cells = [np.random.default_rng(list(digest)).random(side) for digest in digests]
        return torch.from_numpy(np.stack(cells))

    return maker
