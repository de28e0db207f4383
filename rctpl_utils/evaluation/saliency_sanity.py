"""Do the maps depend on the weights and on the prompt? (Adebayo et al. 2018, section 3)

A map that survives random weights shows edges of the film and not what the model knows. The image
tower's layers are drawn anew from the last to the first, each step on top of those before
("cascading randomization"); then the weights stay and the words change.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.frame import cosine_maps, frame_of, on_square
from rctpl_utils.encoders.gradcam import gradcam_maps
from rctpl_utils.evaluation.grounding_metrics import points_into
from rctpl_utils.evaluation.metrics import (
    interval,
    named_interval,
    patient_weights,
    resampled_means,
)
from rctpl_utils.evaluation.prompt_maps import DATASET, Boxed
from rctpl_utils.prompts.handwritten import NONSENSE
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.workspace import Workspace

SAMPLE = 60  # films
SEEDS = (0, 1)  # of the random weights
UNCHANGED = "unchanged"
SHUFFLED, NO_WORD = "another class's name", "a nonsense word"


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
    """The layers that are randomized together, by name, from input to output, as registered.

    Each child with parameters is a block; a list of layers (children that have children themselves,
    as a ResNet's or a Swin's stages) counts child by child, wherever in the module it stands.
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
    Without such a rule (a Swin's table of position biases): N(0, 0.02^2), cut at two units, its
    authors' initialization (Liu et al. 2021).
    """
    for layer in module.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
        else:
            for parameter in layer.parameters(recurse=False):
                nn.init.trunc_normal_(parameter, std=0.02)


def cascade(encoder: Encoder, seed: int) -> Iterator[tuple[str, Encoder]]:
    """Names of blocks, last first, with a copy in which all down to that one are random. The
    encoder given is not changed, nor is PyTorch's global generator.
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
    """Compare the maps of a fixed sample of films with those under every change, prompts of one
    seed.

    Similarity is Spearman's correlation with the unchanged map over cells. Intervals are bootstraps
    over patients; a film's value is its mean over the draws of random weights.
    """
    boxed = Boxed.of(open_split(workspace, DATASET, "test"))
    films, concepts = sample_boxes(boxed)
    pixels = [boxed.dataset.pixels(int(boxed.rows[film])) for film in films]
    masks = [boxed.mask(film, k) for film, k in zip(films, concepts, strict=True)]
    images = torch.stack([encoder.preprocess(each) for each in pixels])
    weights = patient_weights(boxed.patients.iloc[films], workspace.profile.bootstrap)
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
            draws[kind, of, change, "similarity"] = resampled_means(similarity, weights)
            draws[kind, of, change, "pointing_game"] = resampled_means(pointing, weights)
        cells = torch.from_numpy(np.stack([drawn[0][0] for drawn in changed.values()]))
        first[kind] = on_square(cells, masks[0].shape, frame).numpy()
    names = ("map", "kind", "change", "metric")
    rows = [
        {**dict(zip(names, key, strict=True)), **named_interval(series), "n": len(masks)}
        for key, series in draws.items()
    ]
    return Sanity(
        rows=pd.DataFrame(rows),
        verdict=" ".join(_verdict(kind, draws) for kind in MAKERS),
        changes=tuple(change for _, change in changed),
        maps=first,
        pixels=pixels[0],
        mask=masks[0],
        concept=boxed.concepts[concepts[0]],
    )


def _verdict(kind: str, draws: dict[tuple[str, str, str, str], np.ndarray]) -> str:
    """Passes where the own name points better than either other word, intervals above zero."""
    own, *others = (
        draws[kind, "prompt", change, "pointing_game"] for change in (UNCHANGED, SHUFFLED, NO_WORD)
    )
    passes = all(interval(own - other)[1] > 0 for other in others)
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
