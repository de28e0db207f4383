"""Every figure that needs a model's output, drawn on made input: all its text can be read."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from figure_checks import assert_readable, drawn_texts, made_workspace
from matplotlib.backends.backend_agg import FigureCanvasAgg
from test_prompt_maps import made

from rctpl_utils.baselines.report import save_curves
from rctpl_utils.datasets.chexpert import COMPETITION
from rctpl_utils.evaluation.grounding_metrics import THRESHOLDS
from rctpl_utils.evaluation.modality_gap import gap_figure
from rctpl_utils.evaluation.saliency_sanity import Sanity
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.reporting import map_figures, method_figures, retrieval_examples
from rctpl_utils.reporting.map_figures import KINDS, Look, save_saliency_figure
from rctpl_utils.reporting.method_figures import RunShapes, save_pipeline_figure
from rctpl_utils.workspace import PROJECT

RNG = np.random.default_rng(0)
PIXELS = RNG.random((64, 64)).astype(np.float32)
BOX = np.zeros((64, 64), bool)
BOX[10:30, 5:25] = True
VERDICT = "cosine map passes: points into 0.63 of the boxes for the own name. " * 3


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    yield made_workspace(tmp_path, monkeypatch)
    plt.close("all")


def assert_fine(figure: plt.Figure) -> None:
    assert_readable(figure)
    assert "Simulated" in figure.get_supxlabel()


def test_figure_1_says_hit_and_miss(workspace, encoder):
    findings = pd.DataFrame(
        [("There is edema at the right base.", "Edema", "right base"),
         ("A mass of the left upper lobe, unchanged.", "Mass", "left upper lobe"),
         ("Both bases are scarred.", "Fibrosis", "bilateral bases")],
        columns=["sentence", "concept", "location"],
    )  # fmt: skip
    study = method_figures.Study(
        "CXR1", findings, SimpleNamespace(pixels=lambda _row: PIXELS), 0, ["a.", "b.", "c."]
    )
    width = encoder.text.width if hasattr(encoder.text, "width") else 384
    prompts = Prompts(torch.randn(2, width), torch.randn(2, width), {"seed": "0"})
    figure = method_figures.save_alignment_figure(workspace, encoder, prompts, study)
    assert_fine(figure)
    said = " ".join(text.get_text() for text in figure.axes[3].texts)
    assert said.count("side: ") == 3 and "the report names no one side" in said
    assert "of 2 sides hit" in figure.axes[3].get_title(loc="left")


def test_a_side_is_hit_missed_or_not_judged():
    heat = np.zeros((4, 4))
    heat[1, 0] = 1  # the left half of a film is the patient's right
    hit, places = method_figures.side_hit, ("right base", "left apex", "bases")
    assert [hit(heat, place) for place in places] == [True, False, None]


def test_figure_2(workspace):
    triplet = {"sentence": "There is biapical pleural thickening, unchanged from prior.",
               "concept": "Pleural Thickening", "location": "bilateral apices"}  # fmt: skip
    shapes = RunShapes(12, 384, 128, 20, 1640, 565, (16, 16), triplet, "CXR5")
    assert_fine(save_pipeline_figure(workspace, shapes))


@pytest.fixture
def boxed(monkeypatch):
    """Six films with boxes of two concepts, and a made look at each of them."""
    names = [f"0009{k:04d}_000.png" for k in range(6)]
    found = made({"Mass": [True] * 6, "Nodule": [True] * 6}, names)
    monkeypatch.setattr(type(found.dataset), "pixels", lambda _self, _row: PIXELS)
    monkeypatch.setattr(type(found.dataset), "mask", lambda _self, _row, _concept: BOX)

    def look(*args: object) -> dict:
        heats = {kind: RNG.random((64, 64)) for kind in KINDS}
        return {case: Look(heats, 0.14, 0.93, (0.0, 0.2)) for case in args[-1]}

    monkeypatch.setattr(map_figures, "open_split", lambda *_args: found.dataset)
    monkeypatch.setattr(map_figures, "look", look)
    return found


@pytest.mark.parametrize("draw", [map_figures.save_figure5, map_figures.save_figure6])
def test_figures_5_and_6(workspace, boxed, draw):
    figure = draw(workspace, None, None, "RC-TPL", VERDICT)
    assert_fine(figure)
    assert "on one scale for all films" in figure.get_supxlabel()


def test_the_gallery_tints_what_is_marked_and_leaves_holes(workspace, monkeypatch):
    split = SimpleNamespace(
        annotated=lambda _concept: np.ones(3, bool), mask=lambda _row, _concept: BOX,
        pixels=lambda _row: PIXELS,
    )  # fmt: skip
    monkeypatch.setattr(map_figures, "open_split", lambda *_args: split)
    monkeypatch.setattr(map_figures, "image_features", lambda *_args: None)
    ring = torch.zeros(8, 8)
    ring[1:7, 1:7], ring[3:5, 3:5] = 1, 0
    method = SimpleNamespace(
        name="RC-TPL+", makers=[lambda films: ring.expand(len(films.rows), 8, 8)]
    )
    measured = SimpleNamespace(dice=RNG.random((3, len(THRESHOLDS))))
    outcome = SimpleNamespace(
        thresholds={"RC-TPL+": [THRESHOLDS[20]]}, measured={"RC-TPL+": [measured]},
        films=np.arange(3),
    )  # fmt: skip
    outcomes = dict.fromkeys(("rsna", "covid-rural"), outcome)
    figure = map_figures.save_gallery(workspace, None, outcomes, [method, method])
    assert_fine(figure)
    FigureCanvasAgg(figure).draw()
    image = np.asarray(figure.canvas.buffer_rgba()).astype(int)
    reds = {}
    for name, point in {"marked": (50, 31), "hole": (31, 31)}.items():
        across, up = figure.axes[0].transData.transform(point).astype(int)
        red, _, blue, _ = image[len(image) - up, across]
        reds[name] = red - blue
    assert reds["marked"] > 20 and reds["hole"] == 0  # yellow over gray, and gray


def test_the_sanity_check_counts_layers_and_names_none_from_the_code(workspace):
    rows = pd.read_csv(PROJECT / "figures" / "embedded" / "saliency_sanity.csv")
    changes = tuple(dict.fromkeys(rows["change"]))
    maps = {kind: RNG.random((len(changes), 8, 8)).astype(np.float32) for kind in set(rows["map"])}
    sanity = Sanity(rows, VERDICT, changes, maps, PIXELS, BOX, "Infiltration")
    figure = save_saliency_figure(workspace, sanity, "RC-TPL")
    assert_fine(figure)
    words = " ".join(text.get_text() for text, _ in drawn_texts(figure))
    layers = rows.loc[rows["kind"] == "weights", "change"].unique()
    assert not [name for name in layers if name in words.split()]


def test_found_films_are_hits_and_misses(workspace, monkeypatch):
    records = pd.DataFrame({"concept": COMPETITION * 2, "path": "x", "source": "CXR1"})
    records = records.assign(sentence="Interval improvement in the left base opacity.",
                             templated=False, report_id="r", item_id="i")  # fmt: skip
    side = SimpleNamespace(records=records, classes=np.arange(10) % 5)
    pair = SimpleNamespace(images=np.eye(10), sentences=np.eye(10))
    monkeypatch.setattr(retrieval_examples, "represent", lambda *_args: {"RC-TPL": [pair]})
    monkeypatch.setattr(retrieval_examples, "read_image", lambda _path: PIXELS)
    figure = retrieval_examples.found_images(workspace, side, side, "RC-TPL")
    assert_fine(figure)
    for line, axes in enumerate(np.reshape(figure.axes, (5, -1))):
        for axis in axes:
            word, shown = axis.get_title().split(": ")
            assert word == ("hit" if shown == COMPETITION[line] else "miss")


def test_curves_and_gap(workspace):
    history = [{"seed": s, "views": v, "loss": 2 - v / 9} for s in range(3) for v in range(5)]
    run = {"history": history, "unit": "views", "rate": 3e-4}
    runs = {f"method number {k}": run for k in range(6)}
    assert_fine(save_curves(workspace, runs, "baseline_curves"))
    kinds = {name: RNG.normal(size=(50, 8)) for name in ("cells (F)", "films (f)", "reports (h)")}
    vectors = {name: RNG.normal(size=(9, 8)) for name in ("class names", "RC-TPL", "RC-TPL+")}
    assert_fine(gap_figure(workspace, kinds, vectors))
