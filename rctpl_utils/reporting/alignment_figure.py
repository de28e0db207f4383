"""Figure 1: a report and its film, aligned as a whole and concept by concept (paper 1)."""

import re
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
from scipy import ndimage

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.features import text_features
from rctpl_utils.encoders.frame import frame_of, on_film, on_square
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.heat_maps import peak, stretch
from rctpl_utils.plots import COLUMN_WIDTH, TEXT
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.reporting.common import finished
from rctpl_utils.reporting.film_drawing import OUTLINES, draw_film, draw_overlay
from rctpl_utils.scoring import similarity_maps
from rctpl_utils.text.reports import MIMIC, quotable_sources, run_reports
from rctpl_utils.workspace import Workspace

CONCEPTS = 3  # so many concepts with a place are enough
REGION = 0.8  # a concept's region: where its stretched map is at least this high, around the peak


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
    ranks = {
        name: (-min(len(part), CONCEPTS), not _both_sides(part), name not in sources.index, name)
        for name, part in found.groupby("report_id")
    }
    chosen = min(ranks, key=ranks.get)
    texts = [reports[chosen].text, *(r.text for name, r in reports.items() if name != chosen)]
    findings = found[found["report_id"] == chosen]
    texts = list(dict.fromkeys(texts))
    return Study(sources.get(chosen), findings, dataset, int(rows[chosen]), texts)


def _both_sides(findings: pd.DataFrame) -> bool:
    sides = findings["location"].str.extract(r"\b(left|right)\b")[0]
    return {"left", "right"} <= set(sides.dropna())


@torch.no_grad()
def save_alignment_figure(
    workspace: Workspace, encoder: Encoder, prompts: Prompts, study: Study
) -> Figure:
    """Draw `fig1`, by RC-TPL's `prompts` of one seed.

    (a) one number for report and film, (b) a region for each concept.
    """
    pixels = study.dataset.pixels(study.row)
    features = encoder.encode_image(encoder.preprocess(pixels)[None])
    encoded = text_features(encoder, study.texts, workspace.features)  # (n, d)
    texts = torch.from_numpy(np.array(encoded)).to(encoder.device)
    cosines = (texts @ features.global_features[0]).cpu().numpy()
    concepts = study.findings["concept"].tolist()
    embeddings = prompts.embed(encoder, concepts).concept
    cells = features.dense_features.flatten(1, 2)
    maps = similarity_maps(cells, torch.cat([texts[:1], embeddings]))[0].T  # (1 + L, h * w)
    maps = maps.reshape(-1, *features.dense_features.shape[1:3]).cpu()
    maps = on_square(maps, pixels.shape, frame_of(encoder))
    maps = on_film(maps, pixels.shape)
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
