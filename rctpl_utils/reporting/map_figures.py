"""Heat maps on films chosen by rule (paper 4.2.2, 4.3.3): the gallery, Figures 5 and 6, the check.

Figures 5 and 6 have two maps a film and concept: the cosine map P of Eq. 7 on one scale for all
films, and Grad-CAM of its aggregate p' (Eq. 8), which its library stretches to its own range.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from rctpl_utils import plots
from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.features import IMAGE_BATCH, image_features
from rctpl_utils.encoders.frame import cosine_maps, frame_of, on_film, on_square
from rctpl_utils.encoders.gradcam import gradcam_maps
from rctpl_utils.evaluation import prompt_maps as checks
from rctpl_utils.evaluation.grounding import GROUNDING_DATASETS, Films, Grounder, Grounding
from rctpl_utils.evaluation.grounding_metrics import THRESHOLDS, on_scale, peak, scale_of, stretch
from rctpl_utils.evaluation.prompt_maps import (
    DATASET,
    SAMPLE,
    SEEDS,
    Boxed,
    Sanity,
)
from rctpl_utils.plots import COLUMN_WIDTH, TEXT
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.reporting.common import (
    OUTLINES,
    color_bar,
    draw_film,
    draw_map,
    finished,
    outline,
)
from rctpl_utils.scoring import IMAGE_TEMPERATURE, aggregate, similarity_maps
from rctpl_utils.workspace import Workspace

CASES = {"best": 1.0, "median": 0.5, "worst": 0.0}  # quantiles of the films' Dice
KINDS = ("cosines", "Grad-CAM,\nown range")  # on one scale for all films; as its library leaves it
PAPER_CONCEPT = "Mass"  # the one of the paper's Figure 6
FIGURE5, FIGURE6 = 2, 5  # films a figure
LEGEND = (
    "Look for filled crosses: the map's maximum lies in the blue box. Cosines are drawn on one "
    "scale for all films, from the median to the 99.9th percentile of the cells of validation "
    "films, so that a weak map looks weak. Grad-CAM is drawn by its own range: there noise looks "
    "as sure as a find. The left of a film is the patient's right."
)
Case = tuple[int, int]  # a film and a concept: positions among the boxed


@torch.no_grad()
def save_gallery(
    workspace: Workspace,
    encoder: Encoder,
    outcomes: Mapping[str, Grounding],
    methods: Sequence[Grounder],
) -> Figure:
    """Draw `grounding_gallery`: best, median and worst film of each data set, not only the best, by
    Dice at the validation threshold, first seed: the region as it is measured, and the map below.
    """
    titles = [f"{method.name}\n{case}" for method in methods for case in CASES]
    figure, axes = plots.panels(2 * len(outcomes), len(titles), 2.4 * len(outcomes) + 0.6)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=TEXT)
    pairs = axes.reshape(-1, 2, len(methods), len(CASES))
    for pair, (name, outcome) in zip(pairs, outcomes.items(), strict=True):
        for m, method in enumerate(methods):
            _draw_cases(pair[:, m], workspace, encoder, name, outcome, method)
        pair[0, 0, 0].set_ylabel(f"{plots.NAMES[name]}\n{GROUNDING_DATASETS[name][0]}")
        pair[1, 0, 0].set_ylabel("heat map")
    note = (
        "Look how much of the yellow lies inside the blue. Above: yellow is what the method "
        "marks (its map, stretched to its own range, at or above the validation threshold); blue: "
        "the drawn lesion. "
        "Below: the heat map on one scale for all films of the set, from the median to the 99.9th "
        "percentile of the cells of validation films, so that a weak map looks weak; cross: its "
        "maximum. Best, median and worst film by Dice."
    )
    return finished(workspace, figure, "grounding_gallery", note)


def _draw_cases(
    axes: np.ndarray,
    workspace: Workspace,
    encoder: Encoder,
    name: str,
    outcome: Grounding,
    method: Grounder,
) -> None:
    """The cases of one method on one data set, two panels each."""
    concept, maker = GROUNDING_DATASETS[name][0], method.makers[0]
    dataset, held_out = (open_split(workspace, name, split) for split in ("test", "validation"))
    file, other = (image_features(encoder, d, workspace.features) for d in (dataset, held_out))
    drawn = np.flatnonzero(held_out.annotated(concept))
    scale = scale_of(maker(Films(encoder, held_out, other, drawn, concept)).cpu().numpy())
    cut = outcome.thresholds[method.name][0]
    dices = outcome.measured[method.name][0].dice[:, int(np.flatnonzero(cut == THRESHOLDS)[0])]
    order = np.argsort(dices, kind="stable")
    for (above, below), quantile in zip(axes.T, CASES.values(), strict=True):
        place = order[round(quantile * (len(dices) - 1))]
        row = int(outcome.films[place])
        mask, pixels = dataset.mask(row, concept), dataset.pixels(row)
        cells = maker(Films(encoder, dataset, file, np.array([row]), concept)).cpu()
        film = on_film(cells, mask.shape)
        heat = stretch(film)[0].numpy()
        draw_film(above, pixels)
        marked = (heat >= cut).astype(float)  # holes in it stay as they are
        above.contourf(marked, [0.5, 1.5], colors=plots.REGION_COLOR, alpha=0.45)
        draw_film(below, pixels, on_scale(film, scale)[0].numpy())
        for axis in (above, below):
            outline(axis, mask, plots.MASK_COLOR)
        down, across = peak(heat)
        below.plot(across, down, "x", color="white", ms=4, mew=1)
        above.set_xlabel(f"Dice {dices[place]:.2f}", labelpad=2)


@torch.no_grad()
def look(
    workspace: Workspace, encoder: Encoder, prompts: Prompts, boxed: Boxed, cases: Sequence[Case]
) -> tuple[dict[Case, tuple[list[np.ndarray], str]], tuple[float, float]]:
    """Of each film and concept, by prompts of one seed, the maps, drawn from 0 to 1, of `KINDS`
    and what the branch's score p' is; then the cosines at 0 and 1 of the first kind.
    """
    embeddings = prompts.embed(encoder, boxed.concepts).concept
    films = sorted({film for film, _ in cases})
    pixels = [boxed.dataset.pixels(int(boxed.rows[film])) for film in films]
    images = torch.stack([encoder.preprocess(each) for each in pixels])
    cams = torch.from_numpy(gradcam_maps(encoder, images, embeddings))  # (n, L, S, S)
    cosines = cosine_maps(encoder.encode_image(images).dense_features, embeddings).cpu()
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
        score = scores[boxed.rows[film], concept]
        above = float((scores[:, concept] < score).mean())
        maps = [each[0].numpy() for each in (on_scale(cells, scale), stretch(cam))]
        looks[film, concept] = maps, f"$p'$ = {score:.2f}, above {above:.0%}"
    return looks, scale


def _cosines(
    workspace: Workspace, encoder: Encoder, dataset: ChestXrayDataset, embeddings: Tensor
) -> Tensor:
    """P of all films of a data set, (N, h * w, L)."""
    file, parts = image_features(encoder, dataset, workspace.features), []
    for start in range(0, len(file), IMAGE_BATCH):
        batch = file.batch(slice(start, start + IMAGE_BATCH), encoder.device)
        parts.append(similarity_maps(batch.dense_features.flatten(1, 2), embeddings).cpu())
    return torch.cat(parts)


def most_boxed_films(boxed: Boxed, count: int) -> list[int]:
    """The films with the most concepts boxed; of equals, those first by image identifier."""
    return np.argsort(-boxed.drawn.sum(axis=1), kind="stable")[:count].tolist()


def first_films(boxed: Boxed, concept: int, count: int) -> list[int]:
    """The first films by image identifier with a box of the concept, one a patient."""
    films = np.flatnonzero(boxed.drawn[:, concept])
    new = ~boxed.patients.iloc[films].duplicated().to_numpy()
    return films[new][:count].tolist()


def second_concept(boxed: Boxed) -> str:
    """The concept with the most boxed films besides the paper's own."""
    counts = dict(zip(boxed.concepts, boxed.drawn.sum(axis=0), strict=True))
    return max((name for name in counts if name != PAPER_CONCEPT), key=counts.get)


def save_figure5(
    workspace: Workspace, encoder: Encoder, prompts: Prompts, name: str, verdict: str
) -> Figure:
    """Figure 5: one film, several concepts; two films, two maps each, by prompts of one seed. The
    caption has the method's `name` and the `verdict` on both kinds of map (`prompt_maps`).
    """
    boxed = Boxed.of(open_split(workspace, DATASET, "test"))
    films = most_boxed_films(boxed, FIGURE5)
    blocks = [[(film, k) for k in np.flatnonzero(boxed.drawn[film]).tolist()] for film in films]
    rule = (
        f"{name}, first seed. Rule: the {len(films)} test films of ChestX-ray14 with the most "
        "concepts boxed, first by image identifier; every boxed concept is shown."
    )
    return _draw_blocks(
        workspace, encoder, prompts, boxed, blocks, f"{rule} {verdict}", by_film=True
    )


def save_figure6(
    workspace: Workspace, encoder: Encoder, prompts: Prompts, name: str, verdict: str
) -> Figure:
    """Figure 6: one concept, several films; the paper's mass and the most boxed other concept."""
    boxed = Boxed.of(open_split(workspace, DATASET, "test"))
    names = [each for each in (PAPER_CONCEPT, second_concept(boxed)) if each in boxed.concepts]
    concepts = [boxed.concepts.index(each) for each in names]
    blocks = [[(film, k) for film in first_films(boxed, k, FIGURE6)] for k in concepts]
    rule = (
        f"{name}, first seed. Rule: {PAPER_CONCEPT.lower()} as in the paper, and the other concept "
        "with the most boxed films; the first films by image identifier, one a patient."
    )
    return _draw_blocks(
        workspace, encoder, prompts, boxed, blocks, f"{rule} {verdict}", by_film=False
    )


def _draw_blocks(
    workspace: Workspace,
    encoder: Encoder,
    prompts: Prompts,
    boxed: Boxed,
    blocks: Sequence[Sequence[Case]],
    note: str,
    by_film: bool,
) -> Figure:
    """Draw a block of rows, one a kind of map, for each film, its outlines first, or concept."""
    looks, scale = look(workspace, encoder, prompts, boxed, [*chain(*blocks)])
    start = int(by_film)
    rows, columns = len(KINDS) * len(blocks), start + max(map(len, blocks))
    figure, axes = plots.panels(rows, columns, rows * (COLUMN_WIDTH / columns + 0.16) + 1.05)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.03, wspace=0.01, hspace=0.01)
    for axis in axes.flat:
        axis.set_axis_off()
    for lines, cases in zip(axes.reshape(-1, len(KINDS), columns), blocks, strict=True):
        for column, (film, concept) in enumerate(cases, start):
            pixels = boxed.dataset.pixels(int(boxed.rows[film]))
            image = str(boxed.dataset.records["image_id"].iloc[boxed.rows[film]])
            image = image.removesuffix(".png")
            if by_film and column == start:
                _draw_outlines(*lines[:2, 0], boxed, film, pixels, image)
            heats, score = looks[film, concept]
            for axis, heat in zip(lines[:, column], heats, strict=True):
                axis.set_axis_on()
                draw_map(axis, pixels, heat, boxed.mask(film, concept))
            title = boxed.concepts[concept] if by_film else image
            lines[0, column].set_title(title, fontsize=TEXT, pad=3)
            lines[-1, column].set_xlabel(score, labelpad=2)
        named = "" if by_film else f"{boxed.concepts[cases[0][1]]}\n"
        for axis, kind in zip(lines[:, start], KINDS, strict=True):
            axis.set_ylabel(f"{named}{kind}", labelpad=2)
    color_bar(
        figure, scale, "cosine of cell and prompt (rows cosines)", ax=figure.axes,
        location="bottom", shrink=0.35, aspect=45, pad=0.01, extend="both",
    )  # fmt: skip
    above = "$p'$: concept score, and the share of all test films that it is above."
    stem = "fig5" if by_film else "fig6"
    return finished(workspace, figure, stem, f"{note} {LEGEND} {above}")


def _draw_outlines(
    axis: Axes, below: Axes, boxed: Boxed, film: int, pixels: np.ndarray, title: str
) -> None:
    """A film with its boxes, below it what they are of."""
    draw_film(axis, pixels)
    for concept, color in zip(np.flatnonzero(boxed.drawn[film]), OUTLINES, strict=False):
        outline(axis, boxed.mask(film, concept), color)
        axis.plot([], [], color=color, lw=1.5, label=boxed.concepts[concept])
    handles, labels = axis.get_legend_handles_labels()
    axis.set_title(title, fontsize=TEXT, pad=3)
    below.legend(handles, labels, loc="upper center", fontsize=TEXT, frameon=False)


def save_saliency_figure(workspace: Workspace, sanity: Sanity, name: str) -> Figure:
    """Write `saliency_sanity`: the first film's maps under every change, and the curves."""
    figure = plt.figure(figsize=(COLUMN_WIDTH, 4.9), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.55))
    axes = top.subplots(len(sanity.maps), len(sanity.changes))
    words = {checks.UNCHANGED: "0", checks.SHUFFLED: "other", checks.NO_WORD: "none"}
    layers = [each for each in sanity.changes if each not in words]  # from the output
    words |= {layer: str(k) for k, layer in enumerate(layers, start=1)}
    labels = [words[each] for each in sanity.changes]
    for line, (kind, maps) in zip(axes, sanity.maps.items(), strict=True):
        heats = stretch(on_film(torch.from_numpy(maps), sanity.mask.shape)).numpy()
        for axis, heat in zip(line, heats, strict=True):
            draw_map(axis, sanity.pixels, heat, sanity.mask)
        line[0].set_ylabel(kind, fontsize=TEXT)
    for axis, label in zip(axes[0], labels, strict=True):
        axis.set_title(label, fontsize=TEXT, pad=2)
    left, right = bottom.subplots(1, 2)
    _draw_curve(left, sanity, labels, "similarity", "rank correlation with the unchanged map")
    _draw_curve(right, sanity, labels, "pointing_game", "pointing game (share of boxes hit)")
    plots.legend_above(bottom, left.get_legend_handles_labels()[0], 2)
    note = (
        f"Both maps should fall as layers become random, and differ for other words. {name}, "
        f"first seed; {SAMPLE} test films with boxes, spread evenly by image identifier; the first "
        f"of them above ({sanity.concept.lower()}). 1 to {len(layers)}: that many of the image "
        f"tower's {len(layers)} layers are random, counted from the output, {len(SEEDS)} draws; "
        "other, none: the weights as they are, but another class's name, or a nonsense word. "
        "Bars: 95 % intervals. Maps are stretched to their own range, since ranks are compared; "
        "blue: box; cross: the map's maximum, filled in the box. "
        f"Of the words: {sanity.verdict}"
    )
    return finished(workspace, figure, "saliency_sanity", note)


def _draw_curve(axis: Axes, sanity: Sanity, ticks: list[str], metric: str, label: str) -> None:
    rows = sanity.rows[sanity.rows["metric"] == metric]
    colors = sns.color_palette("colorblind", len(sanity.maps))
    for shift, (kind, color) in enumerate(zip(sanity.maps, colors, strict=True)):
        one = rows[rows["map"] == kind].set_index("change").loc[list(sanity.changes)]
        places = np.arange(len(one)) + 0.16 * (shift - 0.5)
        axis.errorbar(
            places,
            one["value"],
            yerr=plots.spread(one),
            fmt="o",
            ms=3,
            lw=0.8,
            color=color,
            label=kind,
        )
        weights = (one["kind"] == "weights") | (one.index == checks.UNCHANGED)
        axis.plot(places[weights], one["value"][weights], color=color, lw=0.6)
    axis.axvline(len(ticks) - 2.5, color="0.7", lw=0.8, ls=":")  # then the words
    axis.axhline(0, color="0.85", lw=0.6, zorder=0)
    axis.set_xticks(range(len(ticks)), ticks)
    axis.set(xlabel="random layers, from the output | other words", ylabel=label)
    plots.small(axis)
