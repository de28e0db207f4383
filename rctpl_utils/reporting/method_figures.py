"""Figures 1 and 2: what the method does, on one study and in the shapes of the run (paper 1, 3)."""

import re
from collections.abc import Mapping
from functools import partial
from textwrap import fill
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from scipy import ndimage

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.features import text_features
from rctpl_utils.encoders.frame import cosine_maps, frame_of, on_film, on_square
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.grounding_metrics import peak, stretch
from rctpl_utils.plots import COLUMN_WIDTH, TEXT, legend_above
from rctpl_utils.prompts.prompts import Prompts, classes_of
from rctpl_utils.reporting.common import OUTLINES, draw_film, draw_overlay, finished
from rctpl_utils.text.knowledge import describe, describe_triplets
from rctpl_utils.text.reports import MIMIC, quotable_sources, run_reports, with_enough_concepts
from rctpl_utils.text.triplets import report_labels
from rctpl_utils.workspace import Workspace

CONCEPTS = 3  # so many concepts with a place are enough
REGION = 0.8  # a concept's region: where its stretched map is at least this high, around the peak
FROZEN, TRAINED, DATA, MATH = "#BFD7EA", "#F7C59F", "#F2F2F2", "#D5E8D4"
TIMES = "$\\times$"
LEGEND = {"frozen": FROZEN, "learned": TRAINED, "data": DATA, "computed": MATH}


class Study(NamedTuple):
    """A report of the test split with its first film."""

    source: str | None  # its Open-I identifier, None where it must not be quoted
    findings: pd.DataFrame  # present triplets with a place, one a concept
    dataset: ChestXrayDataset
    row: int  # of the film
    texts: list[str]  # of the test split's reports, its own first


def choose_study(workspace: Workspace, triplets: pd.DataFrame) -> Study:
    """Of the test studies that place most concepts (three are enough), the first by identifier.

    Among them those that name both sides of the chest go first, then those whose report may be
    quoted: the embedded world's real ones. What the maps or the film show takes no part. An
    `InputError` where no study places a concept in the `triplets` of notebook 01.
    """
    reports = {each.report_id: each for each in run_reports(workspace) if each.split == "test"}
    sources = quotable_sources(workspace.data_root / MIMIC)
    dataset = open_split(workspace, MIMIC, "test")
    films = dataset.records.sort_values("image_id").groupby("study")["image_id"].head(1).index
    rows = dataset.records.loc[films].reset_index().set_index("study")["index"]
    found = triplets[(triplets["positive"] == "present") & triplets["location"].notna()]
    found = found[found["report_id"].isin(reports) & found["report_id"].isin(rows.index)]
    found = found.drop_duplicates(["report_id", "concept"])
    if found.empty:
        cure = "Use a larger test split, or extract the triplets again (notebook 01)."
        raise InputError("no test report says where a finding is", cure)
    ranks = []
    for name, part in found.groupby("report_id"):
        sides = set(part["location"].str.extract(r"\b(left|right)\b")[0].dropna())
        ranks.append((-min(len(part), CONCEPTS), len(sides) < 2, name not in sources.index, name))
    chosen = min(ranks)[-1]
    texts = [reports[chosen].text, *(r.text for name, r in reports.items() if name != chosen)]
    findings = found[found["report_id"] == chosen]
    texts = list(dict.fromkeys(texts))
    return Study(sources.get(chosen), findings, dataset, int(rows[chosen]), texts)


@torch.no_grad()
def save_alignment_figure(
    workspace: Workspace, encoder: Encoder, prompts: Prompts, study: Study
) -> Figure:
    """Draw `fig1`, by RC-TPL of one seed: a number for report and film, a region a concept."""
    pixels = study.dataset.pixels(study.row)
    features = encoder.encode_image(encoder.preprocess(pixels)[None])
    encoded = text_features(encoder, study.texts, workspace.features)  # (n, d)
    texts = torch.from_numpy(np.array(encoded)).to(encoder.device)
    cosines = (texts @ features.global_features[0]).cpu().numpy()
    embeddings = prompts.embed(encoder, study.findings["concept"].tolist()).concept
    maps = cosine_maps(features.dense_features, torch.cat([texts[:1], embeddings]))[0].cpu()
    maps = on_film(on_square(maps, pixels.shape, frame_of(encoder)), pixels.shape)
    figure = _draw(study, pixels, cosines, maps.numpy())
    source = f"Report: Open-I {study.source}, CC BY-NC-ND 4.0. " if study.source else ""
    note = (
        f"{source}Chosen by rule, whatever the maps show: of the test reports that place most "
        f"concepts ({CONCEPTS} are enough), both sides preferred, the first by identifier; its "
        f"first film. RC-TPL, first seed. Contours: where a concept's cosine map reaches {REGION} "
        "of its range around its peak (cross, filled where the side is a hit). No lesion or lung "
        "is drawn on these films, so only the side is judged: a peak on the correct side may "
        "still lie outside the lung. R, L: the patient's sides."
    )
    return finished(workspace, figure, "fig1", note)


def _draw(study: Study, pixels: np.ndarray, cosines: np.ndarray, maps: np.ndarray) -> Figure:
    """The figure without its caption; maps: the report's, then each concept's, (1 + L, H, W)."""
    figure, axes = plt.subplots(
        2, 3, figsize=(COLUMN_WIDTH, 5.9), width_ratios=(1.2, 1, 0.03), layout="constrained"
    )
    axes[1, 2].set_axis_off()
    heats = stretch(torch.from_numpy(maps)).numpy()
    _draw_report(axes[0, 0], study, cosines)
    _draw_sides(axes[0, 1], pixels)
    draw_overlay(axes[0, 1], heats[0])
    scale = ScalarMappable(Normalize(maps[0].min(), maps[0].max()), "inferno")
    bar = figure.colorbar(scale, cax=axes[0, 2])
    bar.set_label("cosine of cell and report", fontsize=TEXT)
    bar.ax.tick_params(labelsize=TEXT)
    _draw_concepts(axes[1, 0], study, heats[1:])
    _draw_sides(axes[1, 1], pixels)
    for heat, location, color in zip(heats[1:], study.findings["location"], OUTLINES, strict=False):
        down, across = peak(heat)
        axes[1, 1].contour(region(heat), [0.5], colors=color, linewidths=1.4)
        fill_color = color if side_hit(heat, location) else "none"
        axes[1, 1].plot(across, down, "X", mfc=fill_color, mec=color, mew=1.2, ms=7)
    return figure


def region(heat: np.ndarray) -> np.ndarray:
    """Where a map in [0, 1] reaches `REGION`, around its peak, holes filled: bool (H, W)."""
    labels, _ = ndimage.label(heat >= REGION)
    return ndimage.binary_fill_holes(labels == labels[peak(heat)])


def side_of(heat: np.ndarray) -> str:
    """The patient's side that the peak is on; the left half of a film is the patient's right."""
    return "right" if peak(heat)[1] < heat.shape[1] / 2 else "left"


def side_hit(heat: np.ndarray, location: str) -> bool | None:
    """Whether the peak lies on the side that a location names; None where it names not just one."""
    sides = set(re.findall(r"\b(left|right)\b", location))
    return side_of(heat) in sides if len(sides) == 1 else None


def _draw_sides(axis: Axes, pixels: np.ndarray) -> None:
    draw_film(axis, pixels)
    for place, letter in ((0.03, "R"), (0.94, "L")):
        axis.text(
            place, 0.05, letter, transform=axis.transAxes, fontsize=8, color="white",
            bbox={"facecolor": "black", "alpha": 0.5, "pad": 1, "lw": 0},
        )  # fmt: skip


def _draw_report(axis: Axes, study: Study, cosines: np.ndarray) -> None:
    axis.set_axis_off()
    axis.set_title("(a) whole report, whole film", fontsize=9, loc="left")
    sentences = list(dict.fromkeys(study.findings["sentence"]))
    quoted = " [...] ".join(sentences) if study.source else "(this report must not be quoted)"
    rank = int((cosines > cosines[0]).sum()) + 1
    words = [
        (fill(f"[...] {quoted} [...]", 52), {"style": "italic", "color": "0.25"}),
        (f"$\\langle f, h \\rangle$ = {cosines[0]:.2f}", {"fontsize": 11}),
        (fill(f"one number; {rank - 1} of the {len(cosines) - 1} other reports of the test split "
              "are closer to this film", 52), {}),
        (fill("color: cosine of each cell of the film with the whole report", 52), {}),
    ]  # fmt: skip
    _write(axis, words)


def _draw_concepts(axis: Axes, study: Study, heats: np.ndarray) -> None:
    axis.set_axis_off()
    words, verdicts = [], {True: "hit", False: "miss", None: "the report names no one side"}
    hits = [side_hit(*pair) for pair in zip(heats, study.findings["location"], strict=True)]
    judged = sum(hit is not None for hit in hits)
    title = f"(b) each concept, its region: {hits.count(True)} of {judged} sides hit"
    axis.set_title(title, fontsize=9, loc="left")
    rows = zip(study.findings.itertuples(), heats, hits, OUTLINES, strict=False)
    for one, heat, hit, color in rows:
        box = {"facecolor": color, "alpha": 0.35, "pad": 2, "lw": 0}
        stated = f"{one.concept}: {one.location}"
        words.append((stated, {"fontsize": 8.5, "weight": "bold", "bbox": box}))
        said = f"map's peak: patient's {side_of(heat)}; side: {verdicts[hit]}"
        words.append((said, {"color": "0.25"}))
    _write(axis, words)


def _write(axis: Axes, words: list[tuple[str, dict]]) -> None:
    """Paragraphs below each other, evenly, from the top of an empty axis."""
    heights = [1.2 * (1 + text.count("\n")) + 0.8 for text, _ in words]
    tops = 1 - 0.05 - np.r_[0, np.cumsum(heights)[:-1]] * 0.9 / max(sum(heights), 14)
    for (text, style), top in zip(words, tops, strict=True):
        axis.text(0.02, top, text, va="top", transform=axis.transAxes, **{"fontsize": 8, **style})


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
