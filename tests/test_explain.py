"""Explanations, calibration and domain against counts, ratios and places found by hand."""

import json

import numpy as np
import pytest
import torch
from figure_checks import drawn_texts
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.text import Text
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from toy_films import feature_file, masks_of, radiographs

from rctpl_utils.encoders.base import ImageFeatures
from rctpl_utils.encoders.frame import on_film
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation import calibration
from rctpl_utils.evaluation import explain as explaining
from rctpl_utils.evaluation.calibration import CANNOT_TELL, NO_EVIDENCE, NOT_CALIBRATED, Domain
from rctpl_utils.evaluation.explain import Place, explain, place, place_on_film, region, warning
from rctpl_utils.evaluation.grounding_metrics import on_scale, scale_of, stretch
from rctpl_utils.plots import TEXT
from rctpl_utils.prompts.model import RCTPL
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.reporting import explain_figure
from rctpl_utils.reporting.explain_figure import draw_explanation, shown_findings
from rctpl_utils.text.knowledge import describe
from rctpl_utils.workspace import Workspace

SWAPPED = {"left": "right", "right": "left", "both": "both"}


def calibrated(**changes: object) -> calibration.ConceptCalibration:
    """100 films with, 400 without; at 0.5 or more 40 and 20 of them, at 0.8 or more 2 and 0."""
    values = {
        "sources": ("chexpert",), "cuts": (0.1, 0.5, 0.8), "present": (100, 40, 2),
        "absent": (400, 20, 0), "threshold": 0.5, "auc": 0.8, "auc_low": 0.7, "auc_high": 0.9,
    }  # fmt: skip
    return calibration.ConceptCalibration(**{**values, **changes})


@pytest.fixture(scope="module")
def model(encoder: StandIn) -> RCTPL:
    generator = torch.Generator().manual_seed(3)
    shape = (4, encoder.context_width)
    report, concept = (torch.randn(shape, generator=generator) * 0.02 for _ in range(2))
    metadata = {"key": "k1", "profile": "embedded", "seed": "0", "variant": "rc-tpl-plus"}
    return RCTPL(encoder, Prompts(report, concept, metadata))


def calibration_for(model: RCTPL, **concepts) -> calibration.Calibration:
    return calibration.Calibration("k1", model.encoder.image_key, "Hand-made.", concepts)


def names(films: np.ndarray) -> list[str]:
    return [str(k) for k in range(len(films))]


def test_evidence_by_hand():
    # 40.5 / 101 over 20.5 / 401; error sqrt(1/40.5 - 1/101 + 1/20.5 - 1/401) = 0.24717
    found = calibration.likelihood_ratio(40, 100, 20, 400)
    assert found == pytest.approx((7.8437, 4.832, 12.732), abs=5e-3)
    evidence = calibrated().judge(0.6)
    assert (evidence.as_high, evidence.as_high_present) == (60, 40)
    assert evidence.ppv == pytest.approx(2 / 3)
    # Wilson (1927) with z = 1.959964 for 40 of 60
    assert (evidence.ppv_low, evidence.ppv_high) == pytest.approx((0.5407, 0.7727), abs=1e-3)
    assert evidence.percentile == pytest.approx(0.95)  # 380 of 400 score lower
    assert evidence.prevalence == pytest.approx(0.2)
    assert evidence.found and evidence.grade == "weak"  # the ratio's lower end is 4.8
    higher = calibrated().judge(0.9)
    assert (higher.cut, higher.as_high) == (0.5, 60)  # 2 of 2 films would tell less
    assert higher.percentile == 1.0
    assert not calibrated().judge(0.4999).found and calibrated().judge(-1).percentile == 0


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_evidence_never_falls_when_the_score_rises(one: float, other: float):
    low, high = (calibrated().judge(score) for score in sorted((one, other)))
    for name in ("ratio_low", "percentile", "found"):
        assert getattr(low, name) <= getattr(high, name)


GRADES = [({"absent": (400, 2, 0)}, 0.5, "strong"), ({"absent": (400, 12, 0)}, 0.5, "moderate")]
GRADES += [({}, 0.49, NO_EVIDENCE), ({"auc_low": 0.5}, 0.9, CANNOT_TELL)]


@pytest.mark.parametrize(("changes", "score", "grade"), GRADES)
def test_grades(changes, score, grade):
    assert calibrated(**changes).judge(score).grade == grade


MARKS = arrays(float, 38, elements=st.sampled_from([0.0, 1.0, np.nan]))


@given(arrays(float, 40, elements=st.floats(-1, 1, width=16)), MARKS)
def test_counts_equal_a_plain_count(scores: np.ndarray, marks: np.ndarray):
    labels = np.array([0.0, 1.0, *marks])
    found = calibration.count_films(labels, scores, ("any",), (0.5, 0.5, 0.5))
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
    assert calibration.stratified_auc(parts)[0] == pytest.approx(expected)


def normal_films(count: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, 3))
    return drawn * [1.0, 2.0, 0.5] + [5.0, 0.0, -1.0]


FILMS = normal_films(2000, 0)
DOMAIN = Domain.fit(FILMS, names(FILMS))


def test_a_films_distance_is_scipys_and_one_in_a_hundred_is_beyond_the_limit():
    """A film is described by mean and deviation over its cells; a domain survives its text."""
    cells = torch.tensor([[[[1.0, 0.0], [3.0, 0.0]], [[5.0, 4.0], [7.0, 0.0]]]])  # (1, 2, 2, 2)
    found = calibration.descriptors(ImageFeatures(torch.zeros(1, 2), cells))
    assert found[0] == pytest.approx([4.0, 1.0, (20 / 3) ** 0.5, 2.0])
    inverse = LedoitWolf().fit(FILMS).precision_
    expected = [mahalanobis(film, FILMS.mean(axis=0), inverse) for film in FILMS[:20]]
    assert DOMAIN.distance(FILMS[:20]) * DOMAIN.limit == pytest.approx(expected)
    beyond = (DOMAIN.distance(normal_films(20000, 1)) > 1).mean()
    assert beyond == pytest.approx(1 - calibration.KEPT, abs=0.01)
    assert DOMAIN.distance(np.array([[5.0, 20.0, -1.0]]))[0] > 2
    again = Domain.from_text(DOMAIN.as_text())
    assert again.distance(FILMS) == pytest.approx(DOMAIN.distance(FILMS), rel=1e-4)
    for damaged in ("", "AAAA", DOMAIN.as_text()[:40], "no base64!"):
        with pytest.raises(ValueError, match="damaged"):
            Domain.from_text(damaged)


def test_a_film_is_measured_from_those_of_other_patients():
    """Two films a patient, nearly the same: among its own kind each would lie too near."""
    generator = np.random.default_rng(0)
    films = np.repeat(generator.normal(size=(60, 40)), 2, axis=0)
    films += 1e-3 * generator.normal(size=(120, 40))
    patients = np.repeat(np.arange(60), 2).astype(str)
    assert Domain.fit(films, patients).limit > 1.02 * Domain.fit(films, names(films)).limit


def seen(model: RCTPL, noise: np.ndarray) -> calibration.Calibration:
    """Of a model that has seen noise of one kind, and finds edema in everything."""
    counts = {"cuts": (-1.0, -0.9), "present": (50, 45), "absent": (90, 1), "threshold": -0.9}
    edema = calibrated(**counts, auc=0.9, auc_low=0.8, auc_high=0.95)
    domain = Domain.fit(calibration.described(model.encoder, list(noise)), names(noise))
    key = model.encoder.image_key
    return calibration.Calibration("k1", key, "Noise.", {"Edema": edema}, (-0.25, 0.75), domain)


def test_a_calibration_survives_its_file(model, tmp_path):
    noise = np.random.default_rng(0).random((10, 16, 16))
    of, plain = seen(model, noise), calibration_for(model, Edema=calibrated())
    path = plain.save(tmp_path / "c.json")
    assert calibration.Calibration.load(path) == plain
    assert plain.table().loc["Edema", "films"] == 500
    again = calibration.Calibration.load(of.save(path))
    assert (again.scale, again.concepts) == (of.scale, of.concepts)
    films = calibration.described(model.encoder, list(noise))
    assert again.domain.distance(films) == pytest.approx(of.domain.distance(films), rel=1e-3)
    changed = path.read_text().replace(of.domain.as_text(), "AAAA")
    other = '{"concepts": {"Edema": {}}}'
    for damaged, said in ((changed, "domain is damaged"), (other, "not a calibration")):
        path.write_text(damaged)
        with pytest.raises(InputError, match=said):
            calibration.Calibration.load(path)
    with pytest.raises(InputError, match="notebook 09"):
        calibration.Calibration.load(tmp_path / "none.json")


def test_on_a_fixed_scale_a_weak_map_looks_weak():
    assert scale_of(np.linspace(0, 1, 1001)) == pytest.approx((0.5, 0.999))
    weak, strong = torch.full((2, 1, 2, 2), 0.5)
    weak[0, 0, 0], strong[0, 0, 0] = 0.52, 1.4
    assert stretch(weak).equal(stretch(strong))
    assert on_scale(weak, (0.4, 0.9))[0, 0, 0].item() == pytest.approx(0.24)
    assert on_scale(strong, (0.4, 0.9))[0, 0, 0].item() == pytest.approx(2.0), "not cut"


def test_the_left_half_of_the_film_is_the_patients_right_and_padding_no_place():
    mask = np.zeros((100, 80))
    mask[10:20, 5:15] = 1
    assert place(mask) == Place("right", "upper")
    assert str(place(mask)) == "right, upper zone"
    mask[70:80, 65:75] = 1  # center of both: 45 of 100
    assert place(mask) == Place("both", "middle")
    assert place(np.zeros((4, 4))) is None
    cells = torch.zeros(8, 8)
    cells[4, 0] = 9.0  # on the black beside a narrow film
    cells[1, 5] = 1.0  # on it, at 5.5 of 8 across: its left half ends at 4
    assert place_on_film(cells, (80, 40))[0] == Place("left", "upper")


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
    pair = torch.from_numpy(cells), torch.from_numpy(cells[:, ::-1].copy())
    one, other = (place_on_film(each, size)[0] for each in pair)
    assert other == Place(SWAPPED[one.side], one.zone)


def test_region_lies_above_three_quarters_of_the_way_to_the_maximum():
    weights, level = region(np.array([[0.0, 0.0, 0.0], [0.0, 0.74, 0.76], [0.0, 0.0, 1.0]]))
    assert level == pytest.approx(0.75) and weights[1, 2] == pytest.approx(0.01)
    assert np.count_nonzero(weights) == 2


def lesions(split: str, corners: list[tuple[int, int]], masks: bool = True):
    """Films of 64 pixels with an Edema of 8 x 8 pixels each, at the given (row, column)."""

    def draw(image, size):
        mask = np.zeros(size, bool)
        row, column = corners[int(image[1:])]
        mask[row : row + 8, column : column + 8] = True
        return mask

    drawn = {"Edema": masks_of([f"f{k}" for k in range(len(corners))], draw)} if masks else None
    return radiographs({"Edema": [1.0] * len(corners)}, "some", split=split, masks=drawn)


def test_places_against_drawn_lesions(model: RCTPL, tmp_path, monkeypatch):
    """Six lesions on the film's left half, four on its right; the map always points left, up."""
    splits = {"test": lesions("test", [(2, 2)] * 6 + [(50, 50)] * 4)}
    splits["validation"] = lesions("validation", [(50, 50)] * 2 + [(2, 2)])
    target = model.prompts.embed(model.encoder, ["Edema"]).concept[0].numpy()
    dense = np.zeros((10, 8, 8, len(target)))
    dense[:, 0:2, 0:2] = target
    features = feature_file(np.tile(target, (10, 1)), dense)
    monkeypatch.setattr("rctpl_utils.datasets.base.image_size", lambda path: (64, 64))
    monkeypatch.setattr(explaining, "open_split", lambda w, name, split: splits[split])
    monkeypatch.setattr(explaining, "image_features", lambda *_: features)
    workspace = Workspace.open("smoke", output=tmp_path, device="cpu")
    everything = calibration_for(model, Edema=calibrated(threshold=-1.0))
    table = explaining.check_places(workspace, model, everything, "some").set_index("aspect")
    for aspect in ("side", "zone"):
        row = table.loc[aspect]
        assert row[["value", "guess", "gain", "n"]].tolist() == pytest.approx([0.6, 0.4, 0.2, 10])
        assert row["ci_low"] < 0.6 < row["ci_high"]
    nothing = calibration_for(model, Edema=calibrated(threshold=2.0))
    assert explaining.check_places(workspace, model, nothing, "some").empty
    splits["test"] = lesions("test", [(2, 2)], masks=False)
    with pytest.raises(InputError, match="no drawn lesions"):
        explaining.check_places(workspace, model, everything, "some")


def test_scores_and_maps_are_the_models_own(model: RCTPL):
    image = np.random.default_rng(1).random((64, 48)).astype(np.float32)
    asked = ["Edema", "COVID-19"]
    explanation = explain(model, image, None, asked)
    by_name = {each.concept: each for each in explanation.findings}
    for name, score in zip(asked, model.classify([image], asked)[0], strict=True):
        finding = by_name[name]
        assert finding.score == pytest.approx(float(score), abs=1e-5)
        assert finding.score == pytest.approx((finding.report_score + finding.concept_score) / 2)
        assert np.allclose(finding.heat_map, model.ground([image], name)[0], atol=1e-5)
        assert finding.sentence == describe(name)
        assert finding.record["source"]
        assert (finding.grade, finding.found) == (NOT_CALIBRATED, False)
        assert explain_figure.film_map(finding, image.shape).shape == image.shape
    assert explanation.size == (64, 48) and "simulated" in explanation.warning
    assert explanation.distance is None and not explanation.outside
    assert "not measured" in explanation.domain_note


def test_findings_are_ordered_by_evidence_and_drawn(model: RCTPL):
    image = np.random.default_rng(2).random((64, 64)).astype(np.float32)
    sure = {"cuts": (-1.0, -0.9), "present": (100, 90), "absent": (400, 2), "threshold": -0.9}
    known = {"Mass": calibrated(**sure, auc_low=0.4), "Edema": calibrated(**sure)}
    rare = {"cuts": (-1.0, 1.0), "present": (9, 1), "absent": (9, 0), "threshold": 1.0}
    known["Hernia"] = calibrated(**rare)
    explanation = explain(model, image, calibration_for(model, **known), ["Fracture", *known])
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
    assert {explanation.warning, "strong", "90 of 92 (98%); 20% of all"} <= set(words)
    assert figure.get_size_inches()[0] == 7.0
    assert all(text.get_fontsize() >= TEXT for text, _ in drawn_texts(figure))


def test_a_picture_out_of_domain_gets_no_evidence(model):
    noise = np.random.default_rng(0).random((61, 32, 32))
    knows = seen(model, noise[:60])
    films = noise[60], noise[60] * 0.0
    inside, outside = (explain(model, film, knows, ("Edema",)) for film in films)
    assert inside.distance < 1 < outside.distance and not inside.outside and outside.outside
    assert shown_findings(inside) and not shown_findings(outside)
    assert outside.findings[0].grade == NOT_CALIBRATED and not outside.findings[0].found
    assert outside.domain_note.startswith("OUT OF DOMAIN")
    assert explain_figure.nothing_shown(outside) == outside.domain_note
    assert outside.as_record()["outside"] and not inside.as_record()["outside"]
    assert inside.scale == (-0.25, 0.75)
    texts = [text.get_text() for text in draw_explanation(noise[60], inside).findobj(Text)]
    assert any("cosines -0.25 to 0.75" in text for text in texts) and "own range" in texts


def test_bad_requests_are_refused_and_the_warning_says_what_the_model_was_trained_on(model: RCTPL):
    assert "unknown" in warning({})
    for profile, said in (("smoke", "simulated"), ("paper", "real")):
        assert said in warning({"profile": profile})
    image = np.zeros((8, 8), np.float32)
    own = model.encoder.image_key
    requests = [("no concept", image, None, ["Happiness"]), ("gray image", image + 2)]
    for keys in (("k2", own), ("k1", "other")):
        of_others = calibration.Calibration(*keys, "", {})
        requests.append(("belongs to other prompts", image, of_others))
    for match, *asked in requests:
        with pytest.raises(InputError, match=match):
            explain(model, *asked)
