"""The heat maps of a concept on a film, and how a film is drawn with map, box and outlines."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.features import IMAGE_BATCH, ImageFeatureFile, image_features
from rctpl_utils.encoders.frame import cosine_maps, frame_of, on_film, on_square
from rctpl_utils.encoders.gradcam import gradcam_maps
from rctpl_utils.evaluation.box_pairs import Boxed
from rctpl_utils.evaluation.grounding_metrics import pointing_hit
from rctpl_utils.evaluation.heat_maps import on_scale, peak, scale_of, stretch
from rctpl_utils.plots import REGION_COLOR
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.scoring import IMAGE_TEMPERATURE, aggregate, similarity_maps
from rctpl_utils.workspace import Workspace

KINDS = ("cosines", "Grad-CAM,\nown range")  # on one scale for all films; as its library leaves it
# Okabe and Ito's palette, for the outlines on one film
OUTLINES = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2", "#FFFFFF")
BOX_COLOR = OUTLINES[0]


@dataclass(frozen=True)
class Look:
    """One concept on one film.

    Attributes:
        film, concept: positions in `Boxed`.
        heats: kind of map -> (H, W), drawn from 0 to 1.
        score: p' of the concept branch.
        above: the share of the split's films that score lower.
        scale: the cosines at 0 and 1 of the first kind.
    """

    film: int
    concept: int
    heats: dict[str, np.ndarray]
    score: float
    above: float
    scale: tuple[float, float]

    def caption(self) -> str:
        """The score in words."""
        return f"$p'$ = {self.score:.2f}, above {self.above:.0%}"


@torch.no_grad()
def look(
    workspace: Workspace,
    encoder: Encoder,
    prompts: Prompts,
    boxed: Boxed,
    cases: Sequence[tuple[int, int]],
) -> dict[tuple[int, int], Look]:
    """Make the maps and the score of each (film, concept): P of Eq. 7, and Grad-CAM of p' (Eq. 8).

    Args:
        prompts: of one seed.
        cases: positions in `boxed`.
    """
    embeddings = prompts.embed(encoder, boxed.concepts).concept
    films = sorted({film for film, _ in cases})
    pixels = [boxed.dataset.pixels(int(boxed.rows[film])) for film in films]
    images = torch.stack([encoder.preprocess(each) for each in pixels])
    cams = torch.from_numpy(gradcam_maps(encoder, images, embeddings))  # (n, L, S, S)
    dense = encoder.encode_image(images).dense_features
    cosines = cosine_maps(dense, embeddings).cpu()  # (n, L, h, w)
    held_out = open_split(workspace, boxed.dataset.name, "validation")
    scale = scale_of(_cosines(workspace, encoder, held_out, embeddings).numpy())
    every = _cosines(workspace, encoder, boxed.dataset, embeddings)  # (N, h * w, L)
    scores = aggregate(every, IMAGE_TEMPERATURE).numpy()  # (N, L)
    looks = {}
    for film, concept in cases:
        k, size = films.index(film), pixels[films.index(film)].shape
        cells, cam = (
            on_film(on_square(each[k, concept][None], size, frame_of(encoder)), size)
            for each in (cosines, cams)
        )
        maps = (on_scale(cells, scale), stretch(cam))
        heats = {kind: each[0].numpy() for kind, each in zip(KINDS, maps, strict=True)}
        score = scores[boxed.rows[film], concept]
        above = float((scores[:, concept] < score).mean())
        looks[film, concept] = Look(film, concept, heats, float(score), above, scale)
    return looks


def _cosines(
    workspace: Workspace, encoder: Encoder, dataset: ChestXrayDataset, embeddings: Tensor
) -> Tensor:
    """P of all films of a data set, (N, h * w, L)."""
    file: ImageFeatureFile = image_features(encoder, dataset, workspace.features)
    parts = []
    for start in range(0, len(file), IMAGE_BATCH):
        batch = file.batch(slice(start, start + IMAGE_BATCH), encoder.device)
        parts.append(similarity_maps(batch.dense_features.flatten(1, 2), embeddings).cpu())
    return torch.cat(parts)


def draw_film(axis: Axes, pixels: np.ndarray) -> None:
    """A film in gray, its values from 0 to 1."""
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])


def draw_overlay(axis: Axes, heat: np.ndarray) -> None:
    """A heat map over what is there, clear at 0."""
    axis.imshow(heat, cmap="inferno", alpha=0.65 * heat.clip(0, 1), vmin=0, vmax=1)


def draw_heat(axis: Axes, pixels: np.ndarray, heat: np.ndarray) -> None:
    """A film under its heat map, shown from 0 (the film alone) to 1."""
    draw_film(axis, pixels)
    draw_overlay(axis, heat)


def draw_map(axis: Axes, pixels: np.ndarray, heat: np.ndarray, mask: np.ndarray) -> None:
    """A film under its heat map, shown from 0 to 1, with the box and the map's maximum; (H, W)."""
    draw_heat(axis, pixels, heat)
    outline(axis, mask, BOX_COLOR)
    down, across = peak(heat)
    axis.plot(
        across, down, "X", ms=5, mew=0.7, mec="white",
        mfc="white" if pointing_hit(heat, mask) else "none",
    )  # fmt: skip


def fill_region(axis: Axes, region: np.ndarray) -> None:
    """A bool region (H, W) in yellow; holes in it stay as they are."""
    axis.contourf(region.astype(float), [0.5, 1.5], colors=REGION_COLOR, alpha=0.45)


def outline(axis: Axes, mask: np.ndarray, color: str) -> None:
    """The border of a bool mask (H, W); padded, so that it closes at the film's edge."""
    height, width = mask.shape
    around = np.pad(mask.astype(float), 1)
    axis.contour(
        np.arange(-1, width + 1), np.arange(-1, height + 1), around, [0.5],
        colors=color, linewidths=1.1,
    )  # fmt: skip
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
