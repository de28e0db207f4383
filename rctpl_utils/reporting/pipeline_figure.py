"""Figure 2: the pipeline, drawn with the shapes and one triplet of the run (paper 3)."""

from collections.abc import Mapping
from functools import partial
from textwrap import fill
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

from rctpl_utils.encoders.base import Encoder
from rctpl_utils.plots import COLUMN_WIDTH, TEXT, legend_above
from rctpl_utils.prompts.prompts import Prompts, classes_of
from rctpl_utils.reporting.common import finished
from rctpl_utils.text.knowledge import describe, describe_triplets
from rctpl_utils.text.reports import MIMIC, quotable_sources, run_reports, with_enough_concepts
from rctpl_utils.text.triplets import report_labels
from rctpl_utils.workspace import Workspace

FROZEN, TRAINED, DATA, MATH = "#BFD7EA", "#F7C59F", "#F2F2F2", "#D5E8D4"
TIMES = "$\\times$"
LEGEND = {"frozen": FROZEN, "learned": TRAINED, "data": DATA, "computed": MATH}


class RunShapes(NamedTuple):
    """What Figure 2 says of a run."""

    context: int  # M
    width: int  # W
    dimension: int  # d
    classes: int  # L
    reports: int  # training reports that enter the loss
    descriptions: int  # their distinct texts
    cells: tuple[int, int]  # of the dense map
    triplet: Mapping[str, str]  # sentence, concept and location of the run's example
    source: str | None  # its Open-I identifier, None where it must not be quoted


def shapes_of_run(workspace: Workspace, encoder: Encoder, prompts: Prompts) -> RunShapes:
    """Read them from the run's triplets, reports, prompts and encoder.

    The example is the first present triplet with a place among the training reports, by report
    identifier; reports that may be quoted are preferred.
    """
    triplets = pd.read_parquet(workspace.triplets)
    reports = with_enough_concepts(run_reports(workspace), triplets)
    names = [report.report_id for report in reports if report.split == "train"]
    classes = classes_of(prompts)
    labels = report_labels(triplets, names, classes)
    used = labels.index[(labels == 1).any(axis=1)]  # the others have no pair in Eq. 9
    own = triplets[triplets["report_id"].isin(used) & triplets["concept"].isin(classes)]
    sources = quotable_sources(workspace.data_root / MIMIC)
    located = own[(own["positive"] == "present") & own["location"].notna()]
    located = located.assign(silent=~located["report_id"].isin(sources.index))
    example = located.sort_values(["silent", "report_id"], kind="stable").iloc[0]
    film = encoder.preprocess(np.zeros((64, 64), np.float32))  # any: its shapes are wanted
    return RunShapes(
        *prompts.concept.shape,
        dimension=encoder.dimension,
        classes=len(classes),
        reports=len(used),
        descriptions=len(describe_triplets(own)[0]),
        cells=tuple(encoder.encode_image(film[None]).dense_features.shape[1:3]),
        triplet=example[["sentence", "concept", "location"]].to_dict(),
        source=sources.get(example["report_id"]),
    )


def save_pipeline_figure(workspace: Workspace, shapes: RunShapes) -> Figure:
    """Draw `fig2`: training on text to the left, testing on images to the right."""
    figure, axis = plt.subplots(figsize=(COLUMN_WIDTH, 4.7), layout="constrained")
    axis.set(xlim=(0, 100), ylim=(0, 66))
    axis.set_axis_off()
    for left, right, title in ((0, 68.5, "Training: text only"), (70, 100, "Testing: an image")):
        axis.add_patch(
            FancyBboxPatch((left + 0.6, 0.6), right - left - 1.2, 63.6, boxstyle="round,pad=0.4",
                           fc="none", ec="0.7", ls="--", lw=0.8)
        )  # fmt: skip
        axis.text(left + 1.5, 62, title, fontsize=8.5, weight="bold", va="center")
    _draw_training(axis, shapes)
    _draw_testing(axis, shapes)
    handles = [Patch(fc=color, ec="0.4", label=label) for label, color in LEGEND.items()]
    legend_above(figure, handles, 4)
    quoted = f"Example: Open-I {shapes.source}, CC BY-NC-ND 4.0. " if shapes.source else ""
    note = (
        f"{quoted}M context vectors a branch, W wide; d: joint space; "
        "L: training classes; N: descriptions of a report. All shapes are this run's: "
        "follow an arrow to see what each is computed from."
    )
    return finished(workspace, figure, "fig2", note)


def _draw_training(axis: Axes, shapes: RunShapes) -> None:
    s, t = shapes, shapes.triplet
    sentence = f"“{t['sentence']}”" if s.source else "(not to be quoted)"
    knowledge = describe(t["concept"], t["location"])
    prompt = f"$M \\times W$ = {s.context} {TIMES} {s.width}"
    box, link = partial(_box, axis), partial(_link, axis)
    box(11.5, 53.5, 20, 10.5, f"{s.reports:,} reports\n{fill(sentence, 25)}", DATA)
    box(34.5, 53.5, 19, 10.5, f"triplet (Eq. 1)\n{t['concept']},\n{t['location']}, present", DATA)
    box(
        56.5, 53.5, 20.5, 10.5,
        f"{s.descriptions:,} descriptions\n{fill(knowledge[:52].rsplit(' ', 1)[0] + ' ...', 27)}",
        DATA,
    )  # fmt: skip
    box(11.5, 38.5, 14, 6, "$\\mathrm{Enc}_T$, frozen", FROZEN)
    box(56.5, 38.5, 14, 6, "$\\mathrm{Enc}_T$, frozen", FROZEN)
    box(11.5, 28.5, 14, 6, f"$h$: {s.dimension}", MATH)
    box(56.5, 28.5, 14, 6, f"$H$: N {TIMES} {s.dimension}", MATH)
    box(25.6, 10.5, 17.2, 7.5, f"report prompt (Eq. 2)\n{prompt}", TRAINED)
    box(43.8, 10.5, 17.2, 7.5, f"concept prompt (Eq. 4)\n{prompt}", TRAINED)
    box(34.7, 3.4, 24, 4, f"+ names of {s.classes} classes", DATA)
    box(34.7, 19.5, 31.5, 4.6, "$\\mathrm{Enc}_T$, frozen, once a class", FROZEN)
    box(26.5, 28.5, 13.5, 6, f"$E^R$: {s.classes} {TIMES} {s.dimension}", MATH)
    box(41.5, 28.5, 13.5, 6, f"$E^C$: {s.classes} {TIMES} {s.dimension}", MATH)
    box(26.5, 38.5, 13.5, 6.4, f"$p_i$: {s.classes}\n(Eq. 7)", MATH)
    box(41.5, 38.5, 13.5, 6.4, f"$p'_i$: {s.classes}\n(Eq. 7, 8)", MATH)
    box(34, 45.6, 28.5, 3.6, "ranking loss (Eq. 9): $c^+$ above $c^-$", MATH)
    link((21.5, 53.5), (25, 53.5))
    link((44, 53.5), (46.2, 53.5))
    for x in (11.5, 56.5):
        link((x, 48.2), (x, 41.5))
        link((x, 35.5), (x, 31.5))
    for x in (26.5, 41.5):
        link((x, 21.8), (x, 25.5))
        link((x, 31.5), (x, 35.3))
        link((x, 41.7), (x, 43.8))
    link((18.5, 29.5), (19.7, 36.8))
    link((49.5, 29.5), (48.3, 36.8))
    for x in (26.5, 43.4):
        link((x, 14.3), (x, 17.2))
    link((34.7, 5.4), (34.7, 17.2))
    link((34, 48.2), (34, 47.4))


def _draw_testing(axis: Axes, shapes: RunShapes) -> None:
    s = shapes
    height, width = s.cells
    box, link = partial(_box, axis), partial(_link, axis)
    box(85, 54.5, 22, 6, "a radiograph $X$", DATA)
    box(85, 45, 22, 6, "$\\mathrm{Enc}_I$, frozen (Eq. 10)", FROZEN)
    box(78, 34.5, 12, 6.4, f"$f$: {s.dimension}", MATH)
    box(92, 34.5, 13, 6.4, f"$F$: {height} {TIMES} {width}\n{TIMES} {s.dimension}", MATH)
    box(78, 23.5, 12, 7, "$\\langle f, E^R_i \\rangle$\n(Eq. 7)", MATH)
    box(92, 23.5, 13, 7, "$\\langle F_j, E^C_i \\rangle$\n(Eq. 7, 8)", MATH)
    box(78, 13.3, 12, 6, "mean of both:\nclass scores", MATH)
    box(92, 13.3, 13, 6, "heat map:\nwhere it is", MATH)
    axis.text(
        85, 5.2, "$E^R$, $E^C$ from the learned prompts;\nany class name, seen or not",
        ha="center", va="center", fontsize=TEXT,
    )  # fmt: skip
    link((85, 51.5), (85, 48))
    for x in (78, 92):
        link((x, 42), (x, 37.7))
        link((x, 31.3), (x, 27))
        link((x, 20), (x, 16.3))
    link((87.5, 20), (83, 16.3))


def _box(
    axis: Axes, x: float, y: float, width: float, height: float, text: str, color: str
) -> None:
    """A rounded box around its center, with text."""
    axis.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2), width, height, fc=color, ec="0.35", lw=0.7,
            boxstyle="round,pad=0,rounding_size=0.8",
        )
    )  # fmt: skip
    axis.text(x, y, text, ha="center", va="center", fontsize=TEXT, linespacing=1.15)


def _link(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow."""
    axis.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=7, lw=0.8, color="0.25",
                        shrinkA=0, shrinkB=0)
    )  # fmt: skip
