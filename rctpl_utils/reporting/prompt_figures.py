"""Figures 5 and 6: what the concept prompts look at, on films chosen by rule (paper 4.3.3).

Two maps a film and concept: the cosine map P of Eq. 7 on one scale for all films, and Grad-CAM of
its aggregate p' (Eq. 8), which its library stretches to its own range.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.evaluation.box_pairs import Boxed
from rctpl_utils.evaluation.prompt_maps import DATASET
from rctpl_utils.plots import COLUMN_WIDTH, TEXT
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.reporting.common import finished
from rctpl_utils.reporting.film_drawing import KINDS, OUTLINES, Look, draw_map, look, outline
from rctpl_utils.workspace import Workspace

PAPER_CONCEPT = "Mass"  # the one of the paper's Figure 6
FIGURE5, FIGURE6 = 2, 5  # films a figure
LEGEND = (
    "Look for filled crosses: the map's maximum lies in the blue box. Cosines are drawn on one "
    "scale for all films, from the median to the 99.9th percentile of the cells of validation "
    "films, so that a weak map looks weak. Grad-CAM is drawn by its own range: there noise looks "
    "as sure as a find. The left of a film is the patient's right."
)


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
    counts = {name: boxed.drawn[:, k].sum() for k, name in enumerate(boxed.concepts)}
    counts.pop(PAPER_CONCEPT, None)
    return max(counts, key=counts.get)


def save_figure5(
    workspace: Workspace, encoder: Encoder, prompts: Prompts, name: str, verdict: str
) -> Figure:
    """Figure 5: one film, several concepts; two films, two maps each.

    Args:
        prompts: of one seed.
        name: of the method, for the caption.
        verdict: of the check of both kinds of map (`saliency_sanity`), for the caption.
    """
    boxed = Boxed.of(open_split(workspace, DATASET, "test"))
    films = most_boxed_films(boxed, FIGURE5)
    cases = [(film, k) for film in films for k in np.flatnonzero(boxed.drawn[film]).tolist()]
    looks = look(workspace, encoder, prompts, boxed, cases)
    columns = 1 + max(boxed.drawn[film].sum() for film in films)
    figure, axes = _grid(len(KINDS) * len(films), columns)
    for place, film in enumerate(films):
        lines = axes[len(KINDS) * place :][: len(KINDS)]
        _draw_outlines(*lines[:2, 0], boxed, film)
        for column, (_, concept) in enumerate([c for c in cases if c[0] == film], start=1):
            one = looks[film, concept]
            lines[0, column].set_title(boxed.concepts[concept], fontsize=TEXT, pad=3)
            _draw_kinds(lines[:, column], boxed, one)
        _name_rows(lines[:, 1])
    rule = (
        f"{name}, first seed. Rule: the {len(films)} test films of ChestX-ray14 with the most "
        "concepts boxed, first by image identifier; every boxed concept is shown."
    )
    return _finish(workspace, figure, looks, f"{rule} {verdict}", "fig5")


def save_figure6(
    workspace: Workspace, encoder: Encoder, prompts: Prompts, name: str, verdict: str
) -> Figure:
    """Figure 6: one concept, several films; the paper's mass and the most boxed other concept.

    Args:
        prompts, name, verdict: as for `save_figure5`.
    """
    boxed = Boxed.of(open_split(workspace, DATASET, "test"))
    names = [each for each in (PAPER_CONCEPT, second_concept(boxed)) if each in boxed.concepts]
    concepts = [boxed.concepts.index(each) for each in names]
    films = {k: first_films(boxed, k, FIGURE6) for k in concepts}
    looks = look(workspace, encoder, prompts, boxed, [(f, k) for k in films for f in films[k]])
    figure, axes = _grid(len(KINDS) * len(concepts), max(map(len, films.values())))
    for place, concept in enumerate(concepts):
        lines = axes[len(KINDS) * place :][: len(KINDS)]
        for column, film in enumerate(films[concept]):
            lines[0, column].set_title(_image_name(boxed, film), fontsize=TEXT, pad=3)
            _draw_kinds(lines[:, column], boxed, looks[film, concept])
        _name_rows(lines[:, 0], boxed.concepts[concept])
    rule = (
        f"{name}, first seed. Rule: {PAPER_CONCEPT.lower()} as in the paper, and the other concept "
        "with the most boxed films; the first films by image identifier, one a patient."
    )
    return _finish(workspace, figure, looks, f"{rule} {verdict}", "fig6")


def _grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    height = rows * (COLUMN_WIDTH / columns + 0.16) + 1.05
    figure, axes = plt.subplots(
        rows, columns, figsize=(COLUMN_WIDTH, height), layout="constrained", squeeze=False
    )
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.03, wspace=0.01, hspace=0.01)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def _draw_kinds(axes: Sequence[Axes], boxed: Boxed, one: Look) -> None:
    pixels = boxed.dataset.pixels(int(boxed.rows[one.film]))
    mask = boxed.mask(one.film, one.concept)
    for axis, heat in zip(axes, one.heats.values(), strict=True):
        axis.set_axis_on()
        draw_map(axis, pixels, heat, mask)
    axes[-1].set_xlabel(one.caption(), fontsize=TEXT, labelpad=2)


def _draw_outlines(axis: Axes, below: Axes, boxed: Boxed, film: int) -> None:
    axis.imshow(boxed.dataset.pixels(int(boxed.rows[film])), cmap="gray", vmin=0, vmax=1)
    for concept, color in zip(np.flatnonzero(boxed.drawn[film]), OUTLINES, strict=False):
        outline(axis, boxed.mask(film, concept), color)
        axis.plot([], [], color=color, lw=1.5, label=boxed.concepts[concept])
    handles, labels = axis.get_legend_handles_labels()
    axis.set_title(_image_name(boxed, film), fontsize=TEXT, pad=3)
    below.legend(handles, labels, loc="upper center", fontsize=TEXT, frameon=False)


def _image_name(boxed: Boxed, film: int) -> str:
    return str(boxed.dataset.records["image_id"].iloc[boxed.rows[film]]).removesuffix(".png")


def _name_rows(axes: Sequence[Axes], concept: str | None = None) -> None:
    for axis, kind in zip(axes, KINDS, strict=True):
        axis.set_ylabel(f"{concept}\n{kind}" if concept else kind, fontsize=TEXT, labelpad=2)


def _finish(
    workspace: Workspace,
    figure: Figure,
    looks: Mapping[tuple[int, int], Look],
    caption: str,
    stem: str,
) -> Figure:
    scale = next(iter(looks.values())).scale
    bar = figure.colorbar(
        ScalarMappable(Normalize(*scale), "inferno"), ax=figure.axes, location="bottom",
        shrink=0.35, aspect=45, pad=0.01, extend="both",
    )  # fmt: skip
    bar.set_label("cosine of cell and prompt (rows cosines)", fontsize=TEXT)
    bar.ax.tick_params(labelsize=TEXT)
    above = "$p'$: concept score, and the share of all test films that it is above."
    return finished(workspace, figure, stem, f"{caption} {LEGEND} {above}")
