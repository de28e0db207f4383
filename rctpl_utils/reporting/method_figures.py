"""Figures 1 and 2: what the method does, on one study and in the shapes of the run (paper 1, 3)."""

import re
from collections.abc import Mapping
from textwrap import fill
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
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
from rctpl_utils.files import read_json
from rctpl_utils.plots import COLUMN_WIDTH, TEXT, legend_above, panels
from rctpl_utils.prompts.prompts import Prompts, classes_of
from rctpl_utils.reporting.common import OUTLINES, color_bar, draw_film, finished
from rctpl_utils.text.knowledge import describe, describe_triplets
from rctpl_utils.text.reports import MIMIC, quotable_sources, run_reports, with_enough_concepts
from rctpl_utils.text.triplets import report_labels
from rctpl_utils.workspace import PACKAGE_DATA, Workspace

CONCEPTS = 3  # so many concepts with a place are enough
REGION = 0.8  # a concept's region: where its stretched map is at least this high, around the peak
COLORS = {"frozen": "#BFD7EA", "learned": "#F7C59F", "data": "#F2F2F2", "computed": "#D5E8D4"}


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
    heats = stretch(maps).numpy()
    figure, ((about, film, bar), (concepts, regions, nothing)) = panels(
        2, 3, 5.9, width_ratios=(1.2, 1, 0.03)
    )
    nothing.set_axis_off()
    _draw_report(about, study, cosines)
    _draw_sides(film, pixels, heats[0])
    ends = float(maps[0].min()), float(maps[0].max())
    color_bar(figure, ends, "cosine of cell and report", cax=bar)
    hits = [side_hit(*pair) for pair in zip(heats[1:], study.findings["location"], strict=True)]
    _draw_concepts(concepts, study, heats[1:], hits)
    _draw_sides(regions, pixels)
    for heat, hit, color in zip(heats[1:], hits, OUTLINES, strict=False):
        down, across = peak(heat)
        regions.contour(region(heat), [0.5], colors=color, linewidths=1.4)
        inside = color if hit else "none"
        regions.plot(across, down, "X", mfc=inside, mec=color, mew=1.2, ms=7)
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


def _draw_sides(axis: Axes, pixels: np.ndarray, heat: np.ndarray | None = None) -> None:
    draw_film(axis, pixels, heat)
    box = {"facecolor": "black", "alpha": 0.5, "pad": 1, "lw": 0}
    for place, letter in ((0.03, "R"), (0.94, "L")):
        style = {"transform": axis.transAxes, "fontsize": 8, "color": "white", "bbox": box}
        axis.text(place, 0.05, letter, **style)


def _draw_report(axis: Axes, study: Study, cosines: np.ndarray) -> None:
    sentences = list(dict.fromkeys(study.findings["sentence"]))
    quoted = " [...] ".join(sentences) if study.source else "(this report must not be quoted)"
    closer, others = int((cosines > cosines[0]).sum()), len(cosines) - 1
    count = (
        f"one number; {closer} of the {others} other reports of the test split are closer to this "
        "film"
    )
    words = [
        (fill(f"[...] {quoted} [...]", 52), {"style": "italic", "color": "0.25"}),
        (f"$\\langle f, h \\rangle$ = {cosines[0]:.2f}", {"fontsize": 11}),
        (fill(count, 52), {}),
        (fill("color: cosine of each cell of the film with the whole report", 52), {}),
    ]
    _write(axis, "(a) whole report, whole film", words)


def _draw_concepts(axis: Axes, study: Study, heats: np.ndarray, hits: list[bool | None]) -> None:
    words, verdicts = [], {True: "hit", False: "miss", None: "the report names no one side"}
    rows = zip(study.findings.itertuples(), heats, hits, OUTLINES, strict=False)
    for one, heat, hit, color in rows:
        box = {"facecolor": color, "alpha": 0.35, "pad": 2, "lw": 0}
        stated = f"{one.concept}: {one.location}"
        said = f"map's peak: patient's {side_of(heat)}; side: {verdicts[hit]}"
        words += [
            (stated, {"fontsize": 8.5, "weight": "bold", "bbox": box}),
            (said, {"color": "0.25"}),
        ]
    judged = sum(hit is not None for hit in hits)
    _write(axis, f"(b) each concept, its region: {hits.count(True)} of {judged} sides hit", words)


def _write(axis: Axes, title: str, words: list[tuple[str, dict]]) -> None:
    """A title, and paragraphs below each other, evenly, from the top of an empty axis."""
    axis.set_axis_off()
    axis.set_title(title, fontsize=9, loc="left")
    heights = [1.2 * (1 + text.count("\n")) + 0.8 for text, _ in words]
    tops = 1 - 0.05 - np.r_[0, np.cumsum(heights)[:-1]] * 0.9 / max(sum(heights), 14)
    for (text, style), top in zip(words, tops, strict=True):
        axis.text(0.02, top, text, va="top", transform=axis.transAxes, **{"fontsize": 8, **style})


def shapes_of_run(workspace: Workspace, encoder: Encoder, prompts: Prompts) -> dict[str, Any]:
    """What Figure 2 says of a run, read from its triplets, reports, prompts and encoder.

    `context` (M) and `width` (W) of the prompts, `dimension` (d), `classes` (L), training `reports`
    that enter the loss, their distinct `descriptions`, `cells` (h, w) of the dense map; `sentence`,
    `concept` and `location` of an example: the first present triplet with a place among those
    reports, by identifier, reports that may be quoted preferred; its Open-I `source`, or None.
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
    context, width = prompts.concept.shape
    return {
        "context": context,
        "width": width,
        "dimension": encoder.dimension,
        "classes": len(classes),
        "reports": len(used),
        "descriptions": len(describe_triplets(own)[0]),
        "cells": tuple(encoder.encode_image(film[None]).dense_features.shape[1:3]),
        **example[["sentence", "concept", "location"]],
        "source": sources.get(example["report_id"]),
    }


def save_pipeline_figure(workspace: Workspace, shapes: Mapping[str, Any]) -> Figure:
    """Draw `fig2` of `shapes_of_run`: training on text, testing on images."""
    figure, axis = plt.subplots(figsize=(COLUMN_WIDTH, 4.7), layout="constrained")
    axis.set(xlim=(0, 100), ylim=(0, 66))
    axis.set_axis_off()
    source, knowledge = shapes["source"], describe(shapes["concept"], shapes["location"])
    said = {
        "sentence": fill(f"“{shapes['sentence']}”" if source else "(not to be quoted)", 25),
        "knowledge": fill(knowledge[:52].rsplit(" ", 1)[0] + " ...", 27),
    }
    for part in read_json(PACKAGE_DATA / "pipeline.json")["parts"]:
        left, width = part["left"] + 0.6, part["right"] - part["left"] - 1.2
        frame = {"boxstyle": "round,pad=0.4", "fc": "none", "ec": "0.7", "ls": "--", "lw": 0.8}
        axis.add_patch(FancyBboxPatch((left, 0.6), width, 63.6, **frame))
        axis.text(part["left"] + 1.5, 62, part["title"], fontsize=8.5, weight="bold", va="center")
        for x, y, width, height, kind, text in part["boxes"]:
            look = {"boxstyle": "round,pad=0,rounding_size=0.8", "ec": "0.35", "lw": 0.7}
            corner = (x - width / 2, y - height / 2)
            axis.add_patch(FancyBboxPatch(corner, width, height, fc=COLORS[kind], **look))
            words = text.format(**{**shapes, **said})
            axis.text(x, y, words, ha="center", va="center", fontsize=TEXT, linespacing=1.15)
        for *start, x, y in part["arrows"]:
            look = {"arrowstyle": "-|>", "mutation_scale": 7, "lw": 0.8, "color": "0.25"}
            axis.add_patch(FancyArrowPatch(start, (x, y), shrinkA=0, shrinkB=0, **look))
    words = "$E^R$, $E^C$ from the learned prompts;\nany class name, seen or not"
    axis.text(85, 5.2, words, ha="center", va="center", fontsize=TEXT)
    handles = [Patch(fc=color, ec="0.4", label=label) for label, color in COLORS.items()]
    legend_above(figure, handles, 4)
    quoted = f"Example: Open-I {source}, CC BY-NC-ND 4.0. " if source else ""
    note = (
        f"{quoted}M context vectors a branch, W wide; d: joint space; "
        "L: training classes; N: descriptions of a report. All shapes are this run's: "
        "follow an arrow to see what each is computed from."
    )
    return finished(workspace, figure, "fig2", note)
