"""Every figure, drawn from its committed table or on made input: all its text can be read."""

import itertools
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from figure_checks import assert_readable, drawn_texts, made_workspace
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from test_prompt_maps import made

from rctpl_utils import plots
from rctpl_utils.baselines.report import save_curves
from rctpl_utils.datasets.chexpert import COMPETITION
from rctpl_utils.evaluation.bridges import figure_bridges, gap_figure
from rctpl_utils.evaluation.grounding_metrics import THRESHOLDS
from rctpl_utils.evaluation.prompt_maps import Sanity
from rctpl_utils.evaluation.results import save_draws
from rctpl_utils.evaluation.table1 import SUPERVISED
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.reporting import map_figures, method_figures, tables
from rctpl_utils.reporting.ablation_report import figure4, other_ablations
from rctpl_utils.reporting.claims import FLOORS
from rctpl_utils.reporting.method_map import save_method_map, valid_draws
from rctpl_utils.reporting.reproduction import LOOKS, METHOD, claims_figure, reproduction_figure
from rctpl_utils.workspace import PROJECT

RNG = np.random.default_rng(0)
PIXELS = RNG.random((64, 64)).astype(np.float32)
BOX = np.zeros((64, 64), bool)
BOX[10:30, 5:25] = True
VERDICT = "cosine map passes: points into 0.63 of the boxes for the own name. " * 3


def committed(name: str) -> pd.DataFrame:
    return pd.read_csv(PROJECT / "figures" / "embedded" / f"{name}.csv")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    yield made_workspace(tmp_path, monkeypatch)
    plt.close("all")


def fine(figure: plt.Figure) -> plt.Figure:
    assert_readable(figure)
    assert "imulated" in figure.get_supxlabel()
    return figure


def test_ablations_and_bridges(workspace):
    fine(figure_bridges(workspace, committed("bridges")))
    table = committed("ablations")
    fine(other_ablations(workspace, table))
    figure = fine(figure4(workspace, table))  # time has an axis of its own
    labels = [axes.get_ylabel() for axes in figure.axes[::4]]
    assert labels == ["CheXpert, macro AUC", "training,\ns a seed"]


def test_the_reported_stand_apart_from_ours(workspace):
    cells = committed("reproduction")
    figure = fine(reproduction_figure(workspace, cells))
    ours = cells[(cells["method"] == METHOD) & cells["value"].notna()]
    marks = [[len(line.get_xdata()) for line in axes.lines] for axes in figure.axes]
    assert all(len(found) == 1 for found in marks), "no axis has two series, nor a line between"
    assert sum(count for (count,) in marks) == 2 * len(ours)


def test_claims_stand_in_panels_of_one_unit_and_in_the_color_of_their_verdict(workspace):
    verdicts = committed("claims")
    figure = fine(claims_figure(workspace, verdicts))
    units = [axes.get_xlabel() for axes in figure.axes]
    assert len(set(units)) == len(units) > 1
    named = verdicts.set_index("in_words")
    for axes in figure.axes:
        titles = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
        kinds = {named["metric"][title].split("_at_")[0] for title in titles}
        assert len(kinds) == 1 or kinds <= {"region_recall", "region_precision", "dice_oracle"}
        verdict = named["verdict"][titles[0]]
        assert to_rgba(axes.lines[0].get_color()) == to_rgba(LOOKS[verdict][0])
    assert "Holm" in figure.get_supxlabel()


def test_the_map_leaves_out_what_cannot_tell(workspace):
    draws = {
        (dataset, method, "auc"): RNG.normal(value, 0.001, 50)
        for dataset, reference in (("rsna", 0.9), ("siim", 0.6))
        for method, value in ((SUPERVISED, reference), (FLOORS[0], 0.5), ("RC-TPL", 0.7))
    }
    save_draws(workspace.results, "table1", draws)
    save_draws(workspace.results, "grounding", {("rsna", "RC-TPL", "pointing_game"): RNG.random(9)})
    assert {key[0] for key in valid_draws(workspace)["auc"]} == {"rsna"}
    figure = save_method_map(workspace, committed("method_map"))
    assert_readable(figure)
    assert "AUC on RSNA; pointing game on RSNA" in figure.get_supxlabel()
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert "CoOp, 16 labels a class" in names and "CoOp, 1 label a class" not in names


def test_the_sanity_check_counts_layers_and_names_none_from_the_code(workspace):
    rows = committed("saliency_sanity")
    changes = tuple(dict.fromkeys(rows["change"]))
    maps = {kind: RNG.random((len(changes), 8, 8)).astype(np.float32) for kind in set(rows["map"])}
    sanity = Sanity(rows, VERDICT, changes, maps, PIXELS, BOX, "Infiltration")
    figure = fine(map_figures.save_saliency_figure(workspace, sanity, "RC-TPL"))
    words = " ".join(text.get_text() for text, _ in drawn_texts(figure))
    assert not {*rows.loc[rows["kind"] == "weights", "change"]} & {*words.split()}


def test_figure_1_says_hit_and_miss(workspace, encoder):
    findings = pd.DataFrame(
        [("There is edema at the right base.", "Edema", "right base"),
         ("A mass of the left upper lobe, unchanged.", "Mass", "left upper lobe"),
         ("Both bases are scarred.", "Fibrosis", "bilateral bases")],
        columns=["sentence", "concept", "location"],
    )  # fmt: skip
    split = SimpleNamespace(pixels=lambda _row: PIXELS)
    study = method_figures.Study("CXR1", findings, split, 0, ["a.", "b.", "c."])
    prompts = Prompts(torch.randn(2, 384), torch.randn(2, 384), {"seed": "0"})
    figure = fine(method_figures.save_alignment_figure(workspace, encoder, prompts, study))
    said = " ".join(text.get_text() for text in figure.axes[3].texts)
    assert said.count("side: ") == 3 and "the report names no one side" in said
    assert "of 2 sides hit" in figure.axes[3].get_title(loc="left")
    heat = np.zeros((4, 4))
    heat[1, 0] = 1  # the left half of a film is the patient's right
    hit, places = method_figures.side_hit, ("right base", "left apex", "bases")
    assert [hit(heat, place) for place in places] == [True, False, None]


def test_figure_2(workspace):
    shapes = {
        "context": 12, "width": 384, "dimension": 128, "classes": 20, "reports": 1640,
        "descriptions": 565, "cells": (16, 16), "source": "CXR5", "location": "bilateral apices",
        "sentence": "There is biapical pleural thickening, unchanged from prior.",
        "concept": "Pleural Thickening",
    }  # fmt: skip
    figure = fine(method_figures.save_pipeline_figure(workspace, shapes))
    said = [text.get_text() for text in figure.axes[0].texts]
    assert "$F$: 16 $\\times$ 16\n$\\times$ 128" in said


def test_the_baselines_of_figure_3_are_a_bar_with_ends():
    concepts, methods = ("Edema", "Enlarged Cardiomediastinum", "Mass"), ("RC-TPL", "class names")
    places = itertools.product(("chestxray14", "chexpert"), concepts, (*methods, *"ABC"))
    rows = pd.DataFrame(places, columns=["dataset", "concept", "method"])
    rows["value"] = RNG.uniform(0.4, 0.98, len(rows))
    rows = rows.assign(ci_low=rows["value"] - 0.02, ci_high=rows["value"] + 0.02)
    figure = plots.per_class_auc(rows, list(methods), {"chestxray14": {"Mass"}}, list("ABC"))
    plots.caption(figure, "A.")
    assert_readable(figure)
    part = rows[(rows["dataset"] == "chestxray14") & rows["method"].isin(list("ABC"))]
    ends = part.groupby("concept", sort=False)["value"].agg(["min", "max"]).to_numpy()
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in figure.axes[0].patches]
    assert np.allclose(bars, ends)
    plt.close(figure)


@pytest.mark.parametrize("draw", [map_figures.save_figure5, map_figures.save_figure6])
def test_figures_5_and_6(workspace, monkeypatch, draw):
    """Six films with boxes of two concepts, and a made look at each of them."""
    names = [f"0009{k:04d}_000.png" for k in range(6)]
    boxed = made({"Mass": [True] * 6, "Nodule": [True] * 6}, names)
    monkeypatch.setattr(type(boxed.dataset), "pixels", lambda _self, _row: PIXELS)
    monkeypatch.setattr(type(boxed.dataset), "mask", lambda _self, _row, _concept: BOX)

    def look(*args: object) -> tuple:
        heats = [RNG.random((64, 64)) for _ in map_figures.KINDS]
        return dict.fromkeys(args[-1], (heats, "$p'$ = 0.14, above 93%")), (0.0, 0.2)

    monkeypatch.setattr(map_figures, "open_split", lambda *_args: boxed.dataset)
    monkeypatch.setattr(map_figures, "look", look)
    figure = fine(draw(workspace, None, None, "RC-TPL", VERDICT))
    assert "on one scale for all films" in figure.get_supxlabel()


def test_the_gallery_tints_what_is_marked_and_leaves_holes(workspace, monkeypatch):
    split = SimpleNamespace(mask=lambda *_args: BOX, pixels=lambda _row: PIXELS)
    split.annotated = lambda _concept: np.ones(3, bool)
    monkeypatch.setattr(map_figures, "open_split", lambda *_args: split)
    monkeypatch.setattr(map_figures, "image_features", lambda *_args: None)
    ring = torch.zeros(8, 8)
    ring[1:7, 1:7], ring[3:5, 3:5] = 1, 0
    makers = [lambda films: ring.expand(len(films.rows), 8, 8)]
    method = SimpleNamespace(name="RC-TPL+", makers=makers)
    measured = {"RC-TPL+": [SimpleNamespace(dice=RNG.random((3, len(THRESHOLDS))))]}
    cut = {"RC-TPL+": [THRESHOLDS[20]]}
    outcome = SimpleNamespace(thresholds=cut, measured=measured, films=np.arange(3))
    outcomes = dict.fromkeys(("rsna", "covid-rural"), outcome)
    figure = fine(map_figures.save_gallery(workspace, None, outcomes, [method, method]))
    FigureCanvasAgg(figure).draw()
    image = np.asarray(figure.canvas.buffer_rgba()).astype(int)
    points = figure.axes[0].transData.transform([(50, 31), (31, 31)]).astype(int)
    marked, hole = (image[len(image) - up, across] for across, up in points)
    assert marked[0] - marked[2] > 20 and hole[0] == hole[2]  # yellow over gray, and gray


def test_found_films_are_hits_and_misses(workspace, monkeypatch):
    records = pd.DataFrame({"concept": COMPETITION * 2, "path": "x", "source": "CXR1"})
    records = records.assign(sentence="Interval improvement in the left base opacity.",
                             templated=False, report_id="r", item_id="i")  # fmt: skip
    side = SimpleNamespace(records=records, classes=np.arange(10) % 5)
    pair = SimpleNamespace(images=np.eye(10), sentences=np.eye(10))
    monkeypatch.setattr(tables, "represent", lambda *_args: {"RC-TPL": [pair]})
    monkeypatch.setattr(tables, "read_image", lambda _path: PIXELS)
    figure = fine(tables.found_images(workspace, side, side, "RC-TPL"))
    for line, axes in enumerate(np.reshape(figure.axes, (5, -1))):
        for axis in axes:
            word, shown = axis.get_title().split(": ")
            assert word == ("hit" if shown == COMPETITION[line] else "miss")


def test_curves_and_gap(workspace):
    history = [{"seed": s, "views": v, "loss": 2 - v / 9} for s in range(3) for v in range(5)]
    run = {"history": history, "unit": "views", "rate": 3e-4}
    fine(save_curves(workspace, {f"method number {k}": run for k in range(6)}, "baseline_curves"))
    kinds = {name: RNG.normal(size=(50, 8)) for name in ("cells (F)", "films (f)", "reports (h)")}
    vectors = {name: RNG.normal(size=(9, 8)) for name in ("class names", "RC-TPL", "RC-TPL+")}
    fine(gap_figure(workspace, kinds, vectors))
