"""Do prompts look where their own concept is? (paper 4.3.3; the numbers behind Figures 5 and 6)

A map that always points at the same place would look convincing too. So the concept branch's maps
are held against two others, in the same box of the same film: the "map of another concept" whose
box the film has too ("for the same X-ray image, concept prompts with different disease category do
reflect different regions"; boxes may overlap, so such a map may be right in both), and the "map of
another film", the next by image identifier that shows the concept in another patient ("our method
can focus on different anatomical locations of the same disease category on different images").

Of `prompt_maps_draws` (chestxray14, pointing_game) these belong together, for M "RC-TPL" and
"RC-TPL+": "M, own map (films with two concepts)" and "M, map of another concept"; "M, own map
(films of one concept)" and "M, map of another film".

Do the maps depend on the weights and on the prompt at all? (Adebayo et al. 2018, section 3) A map
that survives random weights shows edges of the film and not what the model knows. The image tower's
layers are drawn anew from the last to the first, each step on top of those before ("cascading
randomization"); then the weights stay and the words change.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.splits import can_run, open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.features import IMAGE_BATCH, image_features
from rctpl_utils.encoders.frame import Frame, cosine_maps, frame_of, on_square
from rctpl_utils.encoders.gradcam import gradcam_maps
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation import metrics
from rctpl_utils.evaluation.grounding_metrics import points_into
from rctpl_utils.evaluation.results import COLUMNS, Draws, save_draws, write_csv
from rctpl_utils.prompts.handwritten import NONSENSE
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.workspace import Workspace

DATASET = "chestxray14"  # the test set in which films have boxes of several concepts
NAMES = {"rc-tpl": "RC-TPL", "rc-tpl-plus": "RC-TPL+"}
COMPARISONS = {  # the other map -> the own map in the same boxes
    "map of another concept": "own map (films with two concepts)",
    "map of another film": "own map (films of one concept)",
}
SAMPLE = 60  # films
SEEDS = (0, 1)  # of the random weights
UNCHANGED = "unchanged"
SHUFFLED, NO_WORD = "another class's name", "a nonsense word"


class Case(NamedTuple):
    """A box, and another map to look for it in: positions of films and of concepts."""

    film: int
    concept: int
    other_film: int
    other_concept: int


@dataclass(frozen=True)
class Boxed:
    """The films of a split that have boxes: `rows` in it by image identifier, (n,); the L
    `concepts` with boxes; `drawn`, which film has boxes of which concept, (n, L).
    """

    dataset: ChestXrayDataset
    rows: np.ndarray
    concepts: tuple[str, ...]
    drawn: np.ndarray

    @classmethod
    def of(cls, dataset: ChestXrayDataset) -> "Boxed":
        """Collect them; InputError: no film has a box."""
        if not dataset.has_masks:
            raise InputError(f"no film of {dataset.name!r} has a box", "Add its table of boxes.")
        drawn = np.stack([dataset.annotated(concept) for concept in dataset.concepts], axis=1)
        order = np.argsort(dataset.records["image_id"].to_numpy(str), kind="stable")
        rows = order[drawn[order].any(axis=1)]
        kept = np.flatnonzero(drawn.any(axis=0))
        concepts = tuple(dataset.concepts[k] for k in kept)
        return cls(dataset, rows, concepts, drawn[np.ix_(rows, kept)])

    @property
    def patients(self) -> pd.Series:
        """The films' patients."""
        return self.dataset.records["patient_id"].iloc[self.rows].reset_index(drop=True)

    def mask(self, film: int, concept: int) -> np.ndarray:
        """The boxes of one film and concept, by position: bool (H, W)."""
        return self.dataset.mask(int(self.rows[film]), self.concepts[concept])


def concept_pairs(drawn: np.ndarray) -> list[Case]:
    """Every ordered pair of concepts with boxes on one film; `drawn` is bool (n, L)."""
    return [
        Case(film, concept, film, other)
        for film, line in enumerate(drawn)
        for concept, other in permutations(np.flatnonzero(line), 2)
    ]


def film_pairs(drawn: np.ndarray, patients: pd.Series) -> list[Case]:
    """Every box with the next film, in order and cyclic, that shows it in another patient."""
    codes, cases = pd.factorize(patients)[0], []
    for concept, column in enumerate(drawn.T):
        films = np.flatnonzero(column)
        for place, film in enumerate(films):
            following = np.roll(films, -place - 1)
            others = following[codes[following] != codes[film]]
            cases += [Case(film, concept, other, concept) for other in others[:1]]
    return cases


@torch.no_grad()
def cell_maps(workspace: Workspace, encoder: Encoder, boxed: Boxed, embeddings: Tensor) -> Tensor:
    """The cosine map of every boxed film for every embedding (L, d): (n, L, h, w) on the CPU."""
    file, parts = image_features(encoder, boxed.dataset, workspace.features), []
    for start in range(0, len(boxed.rows), IMAGE_BATCH):
        batch = file.batch(boxed.rows[start : start + IMAGE_BATCH], encoder.device).dense_features
        parts.append(cosine_maps(batch, embeddings).cpu())
    return torch.cat(parts)


def hits(
    boxed: Boxed, cases: list[Case], runs: Tensor, frame: Frame | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Whether own map and other map of C cases point into the box: bool (K, C) each, from (K, n, L,
    h, w).
    """
    found = np.zeros((2, len(runs), len(cases)), bool)
    for k, case in enumerate(tqdm(cases, desc="pointing game", unit="box")):
        mask = boxed.mask(case.film, case.concept)
        pair = (runs[:, case.film, case.concept], runs[:, case.other_film, case.other_concept])
        for which, cells in enumerate(pair):
            found[which, :, k] = points_into(cells, mask, frame)
    return found[0], found[1]


def compare_maps(
    workspace: Workspace, encoders: Sequence[Encoder], prompts: Mapping[str, Mapping[int, Prompts]]
) -> pd.DataFrame:
    """Measure both comparisons, seed by seed; write `prompt_maps.csv` and the draws. InputError: no
    film has boxes of two concepts, or no concept boxes in two patients.
    """
    rows, draws = [], {}
    there = can_run(workspace, "Maps of other concepts and films", DATASET)
    if there:
        boxed = Boxed.of(open_split(workspace, DATASET, "test"))
        weights = metrics.patient_weights(boxed.patients, workspace.profile.bootstrap)
        pairs = (concept_pairs(boxed.drawn), film_pairs(boxed.drawn, boxed.patients))
        if not all(pairs):
            raise InputError("too few boxes for a comparison", "Use a larger test split.")
    for variant, name in NAMES.items() if there else ():
        runs = zip(encoders, prompts[variant].values(), strict=True)
        maps = torch.stack([
            cell_maps(workspace, encoder, boxed, each.embed(encoder, boxed.concepts).concept)
            for encoder, each in runs
        ])  # fmt: skip
        for (other, own), cases in zip(COMPARISONS.items(), pairs, strict=True):
            drawn = weights[:, [case.film for case in cases]]  # (1 + R, C)
            measured = hits(boxed, cases, maps, frame_of(encoders[0]))
            for kind, found in zip((own, other), measured, strict=True):
                key = (DATASET, f"{name}, {kind}", "pointing_game")
                draws[key] = metrics.resampled_means(found, drawn)  # (K, 1 + R)
                rows.append(metrics.tidy_row(key, draws[key], n=len(cases), native=kind == own))
    save_draws(workspace.results, "prompt_maps", draws)
    table = pd.DataFrame(rows, columns=list(COLUMNS[:-1]))
    write_csv(workspace.figures / "prompt_maps.csv", table)
    return table


def map_differences(draws: Draws) -> pd.DataFrame:
    """Own map minus other map, paired: difference with interval and p-value, one row a pair."""
    rows = []
    for name in NAMES.values() if draws else ():
        for other, own in COMPARISONS.items():
            pair = (draws[DATASET, f"{name}, {kind}", "pointing_game"] for kind in (own, other))
            rows.append({"method": name, "own map against": other, **metrics.paired_test(*pair)})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Sanity:
    """What `check_saliency` found."""

    rows: pd.DataFrame  # map, kind ("weights", "prompt"), change, metric, value, ci_low, ci_high, n
    verdict: str  # whether each kind of map points better for the own name than for others
    changes: tuple[str, ...]  # their names, in order, "unchanged" first
    maps: dict[str, np.ndarray]  # by kind: cell maps of the first film, (changes, h, w)
    pixels: np.ndarray  # the first film, (H, W)
    mask: np.ndarray  # its box
    concept: str  # what is looked for


def blocks(module: nn.Module) -> dict[str, nn.Module]:
    """The layers that are randomized together, by name, from input to output: each child with
    parameters, but a list of layers (a ResNet's or a Swin's stages) child by child.
    """

    def is_list(child: nn.Module) -> bool:
        parts = list(child.children())
        ordered = isinstance(child, nn.Sequential | nn.ModuleList)
        return ordered and bool(parts) and all(list(part.children()) for part in parts)

    found = {}
    for name, child in module.named_children():
        if is_list(child):
            found |= {f"{name}.{k}": part for k, part in child.named_children()}
        elif any(is_list(part) for part in child.modules()):
            found |= {f"{name}.{k}": part for k, part in blocks(child).items()}
        elif any(True for _ in child.parameters()):
            found[name] = child
    return found


def randomize(module: nn.Module) -> None:
    """Draw every layer's parameters anew, as PyTorch initializes them; statistics are reset.
    Without such a rule (a Swin's position biases): N(0, 0.02^2), cut at two units (Liu et al.
    2021).
    """
    for layer in module.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
        else:
            for parameter in layer.parameters(recurse=False):
                nn.init.trunc_normal_(parameter, std=0.02)


def cascade(encoder: Encoder, seed: int) -> Iterator[tuple[str, Encoder]]:
    """Names of blocks, last first, with a copy in which all down to that one are random; PyTorch's
    global generator is not touched.
    """
    changed = copy.deepcopy(encoder)
    for k, (name, block) in enumerate(reversed(blocks(changed.image_module).items())):
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(1000 * seed + k)
            randomize(block)
        yield name, changed


def rank_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's correlation of maps (n, ...), pair by pair: (n,); 0 where one is constant."""
    ranks = [rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (first, second)]
    a, b = (each - each.mean(axis=1, keepdims=True) for each in ranks)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.divide((a * b).sum(axis=1), scale, out=np.zeros(len(a)), where=scale > 0)


@torch.no_grad()
def cosine_cells(encoder: Encoder, images: Tensor, embeddings: Tensor) -> np.ndarray:
    """P of Eq. 7 in float32: (n, L, h, w)."""
    dense = encoder.image_module(images.to(encoder.device)).dense_features
    return cosine_maps(dense, embeddings).cpu().numpy()


def gradcam_cells(encoder: Encoder, images: Tensor, embeddings: Tensor) -> np.ndarray:
    """Grad-CAM, averaged over the pixels of each cell: (n, L, h, w)."""
    with torch.no_grad():
        size = encoder.image_module(images[:1].to(encoder.device)).dense_features.shape[1:3]
    maps = torch.from_numpy(gradcam_maps(encoder, images, embeddings))
    return functional.adaptive_avg_pool2d(maps, tuple(size)).numpy()


MAKERS: dict[str, Callable[[Encoder, Tensor, Tensor], np.ndarray]] = {
    "cosine map": cosine_cells,
    "Grad-CAM": gradcam_cells,
}


def sample_boxes(boxed: Boxed, count: int = SAMPLE) -> tuple[np.ndarray, np.ndarray]:
    """Films spread evenly over the boxed ones, and of each the first concept with a box."""
    films = np.unique(np.linspace(0, len(boxed.rows) - 1, count).round().astype(int))
    return films, boxed.drawn[films].argmax(axis=1)


def check_saliency(workspace: Workspace, encoder: Encoder, prompts: Prompts) -> Sanity:
    """Compare the maps of a fixed sample of films with those under every change, one seed's
    prompts.

    Similarity is Spearman's correlation with the unchanged map over cells. Intervals are bootstraps
    over patients; a film's value is its mean over the draws of random weights.
    """
    boxed = Boxed.of(open_split(workspace, DATASET, "test"))
    films, concepts = sample_boxes(boxed)
    pixels = [boxed.dataset.pixels(int(boxed.rows[film])) for film in films]
    masks = [boxed.mask(film, k) for film, k in zip(films, concepts, strict=True)]
    images = torch.stack([encoder.preprocess(each) for each in pixels])
    weights = metrics.patient_weights(boxed.patients.iloc[films], workspace.profile.bootstrap)
    frame, draws, first = frame_of(encoder), {}, {}

    def points(drawn: np.ndarray) -> np.ndarray:
        cells = torch.from_numpy(drawn)[:, None]
        hits = [points_into(*each, frame)[0] for each in zip(cells, masks, strict=True)]
        return np.array(hits, float)

    for kind, make in MAKERS.items():
        changed = maps_under_changes(make, encoder, prompts, images, boxed.concepts, concepts)
        original = changed["prompt", UNCHANGED][0]
        for (of, change), drawn in changed.items():
            similarity = np.mean([rank_correlation(original, each) for each in drawn], axis=0)
            pointing = np.mean([points(each) for each in drawn], axis=0)
            draws[kind, of, change, "similarity"] = metrics.resampled_means(similarity, weights)
            draws[kind, of, change, "pointing_game"] = metrics.resampled_means(pointing, weights)
        cells = torch.from_numpy(np.stack([drawn[0][0] for drawn in changed.values()]))
        first[kind] = on_square(cells, masks[0].shape, frame).numpy()
    names = ("map", "kind", "change", "metric")
    rows = [
        {**dict(zip(names, key, strict=True)), **metrics.named_interval(series), "n": len(masks)}
        for key, series in draws.items()
    ]
    return Sanity(
        rows=pd.DataFrame(rows),
        verdict=" ".join(verdict(kind, draws) for kind in MAKERS),
        changes=tuple(change for _, change in changed),
        maps=first,
        pixels=pixels[0],
        mask=masks[0],
        concept=boxed.concepts[concepts[0]],
    )


def verdict(kind: str, draws: dict[tuple[str, str, str, str], np.ndarray]) -> str:
    """Passes where the own name points better than either other word, intervals above zero."""
    own, *others = (
        draws[kind, "prompt", change, "pointing_game"] for change in (UNCHANGED, SHUFFLED, NO_WORD)
    )
    passes = all(metrics.interval(own - other)[1] > 0 for other in others)
    said = "passes" if passes else "FAILS"
    return (
        f"{kind} {said}: points into {own[0]:.2f} of the boxes for the own name, "
        f"{others[0][0]:.2f} for {SHUFFLED}, {others[1][0]:.2f} for {NO_WORD}."
    )


def maps_under_changes(
    make: Callable[[Encoder, Tensor, Tensor], np.ndarray],
    encoder: Encoder,
    prompts: Prompts,
    images: Tensor,
    names: tuple[str, ...],
    concepts: np.ndarray,
) -> dict[tuple[str, str], list[np.ndarray]]:
    """Each film's map of its own concept under every change: (n, h, w), one a draw."""
    films = np.arange(len(images))
    own = prompts.embed(encoder, names).concept
    maps = make(encoder, images, own)
    found = {("prompt", UNCHANGED): [maps[films, concepts]]}
    for seed in tqdm(SEEDS, desc="random weights", unit="draw"):
        for block, changed in cascade(encoder, seed):
            drawn = make(changed, images, own)[films, concepts]
            found.setdefault(("weights", block), []).append(drawn)
    other = (concepts + 1) % len(names)  # everybody gets the next class's name
    found["prompt", SHUFFLED] = [maps[films, other]]
    with torch.no_grad():
        nonsense = encoder.encode_prompts(prompts.concept, NONSENSE[: len(names)])
    found["prompt", NO_WORD] = [make(encoder, images, nonsense)[films, concepts]]
    return found
