"""Explanations and their calibration against counts, ratios and places found by hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from figure_checks import drawn_texts
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score

from rctpl_utils.datasets.base import ChestXrayDataset, TableMasks
from rctpl_utils.datasets.masks import box_mask
from rctpl_utils.encoders.features import ImageFeatureFile
from rctpl_utils.encoders.frame import on_film
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation import film_places
from rctpl_utils.evaluation.calibration import (
    CANNOT_TELL,
    NO_EVIDENCE,
    NOT_CALIBRATED,
    Calibration,
    ConceptCalibration,
    count_films,
    likelihood_ratio,
    stratified_auc,
)
from rctpl_utils.evaluation.explain import check_places, explain, place, place_on_film, warning
from rctpl_utils.evaluation.film_places import Place, region
from rctpl_utils.plots import TEXT
from rctpl_utils.prompts.model import RCTPL
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.reporting.explain_figure import draw_explanation, film_map, shown_findings
from rctpl_utils.text.knowledge import describe
from rctpl_utils.workspace import Workspace

SWAPPED = {"left": "right", "right": "left", "both": "both"}


def calibrated(**changes: object) -> ConceptCalibration:
    """100 films with, 400 without; at 0.5 or more 40 and 20 of them, at 0.8 or more 2 and 0."""
    values = {
        "sources": ("chexpert",), "cuts": (0.1, 0.5, 0.8), "present": (100, 40, 2),
        "absent": (400, 20, 0), "threshold": 0.5, "auc": 0.8, "auc_low": 0.7, "auc_high": 0.9,
    }  # fmt: skip
    return ConceptCalibration(**{**values, **changes})


@pytest.fixture(scope="module")
def model(encoder: StandIn) -> RCTPL:
    generator = torch.Generator().manual_seed(3)
    shape = (4, encoder.context_width)
    report, concept = (torch.randn(shape, generator=generator) * 0.02 for _ in range(2))
    metadata = {"key": "k1", "profile": "embedded", "seed": "0", "variant": "rc-tpl-plus"}
    return RCTPL(encoder, Prompts(report, concept, metadata))


def calibration_for(model: RCTPL, **concepts: ConceptCalibration) -> Calibration:
    return Calibration("k1", model.encoder.image_key, "Hand-made.", concepts)


def test_ratio_and_interval_by_hand():
    # 40.5 / 101 over 20.5 / 401; error sqrt(1/40.5 - 1/101 + 1/20.5 - 1/401) = 0.24717
    ratio, low, high = likelihood_ratio(40, 100, 20, 400)
    assert ratio == pytest.approx(7.8437, abs=1e-3)
    assert (low, high) == pytest.approx((4.832, 12.732), abs=5e-3)


def test_judge_counts_percentile_and_ppv_by_hand():
    evidence = calibrated().judge(0.6)
    assert (evidence.as_high, evidence.as_high_present) == (60, 40)
    assert evidence.ppv == pytest.approx(2 / 3)
    # Wilson (1927) with z = 1.959964 for 40 of 60
    assert (evidence.ppv_low, evidence.ppv_high) == pytest.approx((0.5407, 0.7727), abs=1e-3)
    assert evidence.percentile == pytest.approx(0.95)  # 380 of 400 score lower
    assert evidence.prevalence == pytest.approx(0.2)
    assert evidence.found
    assert evidence.grade == "weak"  # the ratio's lower end is 4.8


def test_a_handful_of_films_above_does_not_weaken_the_evidence():
    evidence = calibrated().judge(0.9)
    assert (evidence.cut, evidence.as_high) == (0.5, 60)  # 2 of 2 films would tell less
    assert evidence.percentile == 1.0


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_evidence_never_falls_when_the_score_rises(one: float, other: float):
    low, high = (calibrated().judge(score) for score in sorted((one, other)))
    assert low.ratio_low <= high.ratio_low
    assert low.percentile <= high.percentile
    assert low.found <= high.found


def test_grades():
    assert calibrated(auc_low=0.5).judge(0.9).grade == CANNOT_TELL
    assert calibrated().judge(0.49).grade == NO_EVIDENCE
    assert calibrated(absent=(400, 2, 0)).judge(0.5).grade == "strong"
    assert calibrated(absent=(400, 12, 0)).judge(0.5).grade == "moderate"
    assert not calibrated().judge(0.4999).found
    assert calibrated().judge(-1).percentile == 0


@given(
    arrays(float, 40, elements=st.floats(-1, 1, width=16)),
    st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=40, max_size=40),
)
def test_counts_equal_a_plain_count(scores: np.ndarray, marks: list[float]):
    labels = np.array([0.0, 1.0, *marks[2:]])
    found = count_films(labels, scores, ("any",), (0.5, 0.5, 0.5))
    for k, cut in enumerate(found.cuts):
        assert found.present[k] == sum(scores[labels == 1] >= cut)
        assert found.absent[k] == sum(scores[labels == 0] >= cut)
    assert found.present[0] == (labels == 1).sum()
    assert found.threshold in found.cuts


def test_auc_compares_films_of_one_set_only():
    rng = np.random.default_rng(0)
    parts = []
    for shift, count in ((0.0, 30), (5.0, 50)):  # the second set scores higher as a whole
        labels = (rng.random(count) < 0.4).astype(float)
        parts.append((labels, rng.random(count) + shift, np.ones((1, count), np.float32)))
    pairs = [(part[0] == 1).sum() * (part[0] == 0).sum() for part in parts]
    expected = np.average([roc_auc_score(*part[:2]) for part in parts], weights=pairs)
    assert stratified_auc(parts)[0] == pytest.approx(expected)


def test_calibration_survives_its_file(model: RCTPL, tmp_path):
    calibration = calibration_for(model, Edema=calibrated())
    path = calibration.save(tmp_path / "c.json")
    assert Calibration.load(path) == calibration
    assert calibration.table().loc["Edema", "films"] == 500
    path.write_text('{"concepts": {"Edema": {}}}')
    with pytest.raises(InputError, match="not a calibration"):
        Calibration.load(path)
    with pytest.raises(InputError, match="notebook 09"):
        Calibration.load(tmp_path / "none.json")


def test_a_foreign_calibration_is_refused(model: RCTPL):
    for foreign in (
        Calibration("k2", model.encoder.image_key, "", {}), Calibration("k1", "other", "", {}),
    ):  # fmt: skip
        with pytest.raises(InputError, match="belongs to other prompts"):
            explain(model, np.zeros((8, 8), np.float32), foreign)


def test_the_left_half_of_the_film_is_the_patients_right():
    mask = np.zeros((100, 80))
    mask[10:20, 5:15] = 1
    assert place(mask) == Place("right", "upper")
    assert str(place(mask)) == "right, upper zone"
    mask[70:80, 65:75] = 1  # center of both: 45 of 100
    assert place(mask) == Place("both", "middle")
    assert place(np.zeros((4, 4))) is None


@given(arrays(float, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(0, 1)))
def test_a_flipped_film_flips_the_side_and_keeps_the_zone(weights: np.ndarray):
    assume(weights.sum() > 0.01)
    across = (np.arange(weights.shape[1]) + 0.5) / weights.shape[1]
    half = (across < 0.5) + 0.5 * (across == 0.5)
    share = (weights.sum(axis=0) * half).sum() / weights.sum()
    assume(min(abs(share - bound) for bound in (0.25, 0.75)) > 1e-6)
    one, other = place(weights), place(weights[:, ::-1])
    assert other == Place(SWAPPED[one.side], one.zone)


@given(arrays(np.float32, (6, 6), elements=st.integers(0, 9)))
def test_a_flipped_map_flips_the_side(cells: np.ndarray):
    size = (64, 48)
    weights = region(on_film(torch.from_numpy(cells)[None], size)[0].numpy())[0]
    assume(weights.sum() > 1e-3)  # not a plateau of ones whose rounding alone stands out
    share = weights[:, :24].sum() / weights.sum()
    center = (weights.sum(axis=1) @ (np.arange(64) + 0.5)) / weights.sum() / 64
    assume(min(abs(share - bound) for bound in (0.25, 0.75)) > 0.02)
    assume(min(abs(center - bound) for bound in (0.42, 0.60)) > 0.02)
    one, other = (
        place_on_film(torch.from_numpy(each.copy()), size) for each in (cells, cells[:, ::-1])
    )
    assert other == Place(SWAPPED[one.side], one.zone)


def test_padding_is_no_place_on_the_film():
    cells = torch.zeros(8, 8)
    cells[4, 0] = 9.0  # on the black beside a narrow film
    cells[1, 5] = 1.0  # on it, at 5.5 of 8 across: its left half ends at 4
    assert place_on_film(cells, (80, 40)) == Place("left", "upper")


def test_region_lies_above_three_quarters_of_the_way_to_the_maximum():
    heat = np.array([[0.0, 0.0, 0.0], [0.0, 0.74, 0.76], [0.0, 0.0, 1.0]])
    weights, level = region(heat)
    assert level == pytest.approx(0.75)
    assert weights[1, 2] == pytest.approx(0.01)
    assert np.count_nonzero(weights) == 2


def test_scores_and_maps_are_the_models_own(model: RCTPL):
    image = np.random.default_rng(1).random((64, 48)).astype(np.float32)
    names = ["Edema", "COVID-19"]
    explanation = explain(model, image, None, names)
    by_name = {each.concept: each for each in explanation.findings}
    for name, score in zip(names, model.classify([image], names)[0], strict=True):
        finding = by_name[name]
        assert finding.score == pytest.approx(float(score), abs=1e-5)
        assert finding.score == pytest.approx((finding.report_score + finding.concept_score) / 2)
        assert np.allclose(finding.heat_map, model.ground([image], name)[0], atol=1e-5)
        assert finding.sentence == describe(name)
        assert finding.record["source"]
        assert (finding.grade, finding.found) == (NOT_CALIBRATED, False)
        assert film_map(finding, image.shape).shape == image.shape
    assert explanation.size == (64, 48)
    assert "simulated" in explanation.warning


def test_findings_are_ordered_by_evidence_and_drawn(model: RCTPL):
    image = np.random.default_rng(2).random((64, 64)).astype(np.float32)
    score = {n: float(model.classify([image], [n])[0, 0]) for n in ("Edema", "Mass", "Hernia")}
    sure = {"cuts": (-1.0, -0.9), "present": (100, 90), "absent": (400, 2), "threshold": -0.9}
    known = {
        "Mass": calibrated(**sure, auc_low=0.4),
        "Edema": calibrated(**sure),
        "Hernia": calibrated(cuts=(-1.0, 1.0), present=(9, 1), absent=(9, 0), threshold=1.0),
    }
    explanation = explain(model, image, calibration_for(model, **known), ["Fracture", *score])
    assert [(each.concept, each.grade, each.found) for each in explanation.findings] == [
        ("Edema", "strong", True), ("Hernia", NO_EVIDENCE, False), ("Mass", CANNOT_TELL, True),
        ("Fracture", NOT_CALIBRATED, False),
    ]  # fmt: skip
    assert [each.concept for each in shown_findings(explanation)] == ["Edema"]
    record = json.loads(json.dumps(explanation.as_record(), allow_nan=False))
    assert record["findings"][0]["evidence"]["as_high"] == 92
    assert list(explanation.table().index) == ["Edema", "Hernia", "Mass", "Fracture"]
    figure = draw_explanation(image, explanation, "a film")
    words = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert explanation.warning in words
    assert "strong" in words and "90 of 92 (98%); 20% of all" in words
    assert figure.get_size_inches()[0] == 7.0
    small = [text.get_text() for text, _ in drawn_texts(figure) if text.get_fontsize() < TEXT]
    assert not small


def test_warning_says_what_the_model_was_trained_on():
    assert "simulated" in warning({"profile": "smoke"})
    assert "real" in warning({"profile": "paper"})
    assert "unknown" in warning({})


def test_bad_requests(model: RCTPL):
    with pytest.raises(InputError, match="no concept"):
        explain(model, np.zeros((8, 8), np.float32), concepts=["Happiness"])
    with pytest.raises(InputError, match="gray image"):
        explain(model, np.full((8, 8), 2.0, np.float32))


def films(split: str, corners: list[tuple[int, int]], masks: bool = True) -> ChestXrayDataset:
    """Films of 64 pixels with an Edema of 8 x 8 pixels each, at the given (row, column)."""
    records = pd.DataFrame(
        {
            "image_id": [f"i{k}" for k in range(len(corners))],
            "patient_id": [f"p{k}" for k in range(len(corners))],
            "path": ["unread"] * len(corners),
            "Edema": 1.0,
        }
    )

    boxes = pd.DataFrame([(column, row, 8, 8) for row, column in corners])
    drawn = TableMasks(Path("boxes.csv"), records["image_id"], boxes, box_mask)
    masks = {"Edema": drawn} if masks else {}
    return ChestXrayDataset("some", split, ("Edema",), records, masks=masks)


def test_places_against_drawn_lesions(model: RCTPL, tmp_path, monkeypatch):
    """Six lesions on the film's left half, four on its right; the map always points left, up."""
    monkeypatch.setattr("rctpl_utils.datasets.base.image_size", lambda path: (64, 64))
    test = films("test", [(2, 2)] * 6 + [(50, 50)] * 4)
    held_out = films("validation", [(50, 50)] * 2 + [(2, 2)])
    splits = {"test": test, "validation": held_out}
    monkeypatch.setattr(film_places, "open_split", lambda w, name, split: splits[split])
    target = model.prompts.embed(model.encoder, ["Edema"]).concept[0].numpy()
    dense = np.zeros((10, 8, 8, len(target)), np.float16)
    dense[:, 0:2, 0:2] = target
    features = ImageFeatureFile(np.tile(target, (10, 1)).astype(np.float32), dense)
    monkeypatch.setattr(film_places, "image_features", lambda *_: features)
    workspace = Workspace.open("smoke", output=tmp_path, device="cpu")
    everything = calibration_for(model, Edema=calibrated(threshold=-1.0))
    table = check_places(workspace, model, everything, "some").set_index("aspect")
    for aspect in ("side", "zone"):
        row = table.loc[aspect]
        assert (row["value"], row["guess"], row["n"]) == (
            pytest.approx(0.6),
            pytest.approx(0.4),
            10,
        )
        assert row["gain"] == pytest.approx(0.2)
        assert row["ci_low"] < 0.6 < row["ci_high"]
    nothing = calibration_for(model, Edema=calibrated(threshold=2.0))
    assert check_places(workspace, model, nothing, "some").empty
    splits["test"] = films("test", [(2, 2)], masks=False)
    with pytest.raises(InputError, match="no drawn lesions"):
        check_places(workspace, model, everything, "some")
