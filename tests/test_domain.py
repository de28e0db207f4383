"""Out of domain: distances by hand and by SciPy, what an explanation withholds, fixed scales."""

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf

from rctpl_utils.encoders.base import ImageFeatures
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.calibration import (
    KEPT,
    NOT_CALIBRATED,
    Calibration,
    ConceptCalibration,
    Domain,
    described,
    descriptors,
)
from rctpl_utils.evaluation.explain import explain
from rctpl_utils.evaluation.grounding_metrics import on_scale, scale_of, stretch
from rctpl_utils.evaluation.prompt_maps import NO_WORD, SHUFFLED, UNCHANGED, _verdict
from rctpl_utils.prompts.model import RCTPL
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.reporting.explain_figure import draw_explanation, nothing_shown, shown_findings


@pytest.fixture(scope="module")
def films() -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.normal(size=(2000, 3)) @ np.diag([1.0, 2.0, 0.5]) + [5.0, 0.0, -1.0]


def patients(films: np.ndarray) -> list[str]:
    return [str(k) for k in range(len(films))]


@pytest.fixture(scope="module")
def domain(films: np.ndarray) -> Domain:
    return Domain.fit(films, patients(films))


def test_a_film_is_described_by_mean_and_deviation_over_its_cells():
    cells = torch.tensor([[[[1.0, 0.0], [3.0, 0.0]], [[5.0, 4.0], [7.0, 0.0]]]])  # (1, 2, 2, 2)
    found = descriptors(ImageFeatures(torch.zeros(1, 2), cells))
    assert found[0] == pytest.approx([4.0, 1.0, (20 / 3) ** 0.5, 2.0])


def test_distances_are_scipys_and_one_film_in_a_hundred_is_beyond_the_limit(films, domain):
    inverse = LedoitWolf().fit(films).precision_
    expected = [mahalanobis(film, films.mean(axis=0), inverse) for film in films[:20]]
    assert domain.distance(films[:20]) * domain.limit == pytest.approx(expected)
    others = np.random.default_rng(1).normal(size=(20000, 3)) * [1.0, 2.0, 0.5] + [5.0, 0.0, -1.0]
    assert (domain.distance(others) > 1).mean() == pytest.approx(1 - KEPT, abs=0.01)
    assert domain.distance(np.array([[5.0, 20.0, -1.0]]))[0] > 2


def test_a_film_is_measured_from_those_of_other_patients():
    """Two films a patient, nearly the same: among its own kind each would lie too near."""
    generator = np.random.default_rng(0)
    one = generator.normal(size=(60, 40))
    films = np.repeat(one, 2, axis=0) + 1e-3 * generator.normal(size=(120, 40))
    pairs = np.repeat(patients(one), 2)
    together, apart = (Domain.fit(films, each).limit for each in (pairs, patients(films)))
    assert together > 1.02 * apart


def test_a_domain_survives_its_text(films, domain):
    again = Domain.from_text(domain.as_text())
    assert again.distance(films) == pytest.approx(domain.distance(films), rel=1e-4)
    for damaged in ("", "AAAA", domain.as_text()[:40], "no base64!"):
        with pytest.raises(ValueError, match="damaged"):
            Domain.from_text(damaged)


@pytest.fixture(scope="module")
def model(encoder) -> RCTPL:
    shape = (2, encoder.context_width)
    generator = torch.Generator().manual_seed(1)
    contexts = (0.02 * torch.randn(shape, generator=generator) for _ in range(2))
    return RCTPL(encoder, Prompts(*contexts, {"key": "k1", "profile": "smoke"}))


def calibrated(model: RCTPL, noise: np.ndarray) -> Calibration:
    """Of a model that has seen noise of one kind, and finds edema in everything."""
    edema = ConceptCalibration(("x",), (-1.0, -0.9), (50, 45), (90, 1), -0.9, 0.9, 0.8, 0.95)
    films = described(model.encoder, list(noise))
    return Calibration(
        "k1", model.encoder.image_key, "Noise.", {"Edema": edema}, (-0.25, 0.75),
        Domain.fit(films, patients(films)),
    )  # fmt: skip


def test_a_picture_out_of_domain_gets_no_evidence(model):
    noise = np.random.default_rng(0).random((61, 32, 32))
    knows = calibrated(model, noise[:60])
    inside, outside = (
        explain(model, film, knows, ("Edema",)) for film in (noise[60], noise[60] * 0.0)
    )
    assert inside.distance < 1 < outside.distance and not inside.outside and outside.outside
    assert shown_findings(inside) and not shown_findings(outside)
    assert outside.findings[0].grade == NOT_CALIBRATED and not outside.findings[0].found
    assert outside.domain_note.startswith("OUT OF DOMAIN") == outside.outside
    assert nothing_shown(outside) == outside.domain_note
    assert outside.as_record()["outside"] and not inside.as_record()["outside"]
    assert inside.scale == (-0.25, 0.75)
    texts = [text.get_text() for text in draw_explanation(noise[60], inside).findobj(Text)]
    assert any("cosines -0.25 to 0.75" in text for text in texts) and "own range" in texts


def test_without_a_calibration_nothing_is_said_of_the_domain(model):
    explanation = explain(model, np.zeros((8, 8)), concepts=("Edema",))
    assert explanation.distance is None and not explanation.outside
    assert "not measured" in explanation.domain_note


def test_a_calibration_keeps_scale_and_domain_in_its_file(model, tmp_path):
    noise = np.random.default_rng(0).random((10, 16, 16))
    of = calibrated(model, noise)
    path = of.save(tmp_path / "c.json")
    again = Calibration.load(path)
    assert (again.scale, again.concepts) == (of.scale, of.concepts)
    films = described(model.encoder, list(noise))
    assert again.domain.distance(films) == pytest.approx(of.domain.distance(films), rel=1e-3)
    path.write_text(path.read_text().replace(of.domain.as_text(), "AAAA"))
    with pytest.raises(InputError, match="domain is damaged"):
        Calibration.load(path)


def test_on_a_fixed_scale_a_weak_map_looks_weak():
    low, high = scale_of(np.linspace(0, 1, 1001))
    assert (low, high) == pytest.approx((0.5, 0.999))
    weak, strong = torch.full((1, 2, 2), 0.5), torch.full((1, 2, 2), 0.5)
    weak[0, 0, 0], strong[0, 0, 0] = 0.52, 1.4
    assert stretch(weak).equal(stretch(strong))
    assert on_scale(weak, (0.4, 0.9))[0, 0, 0].item() == pytest.approx(0.24)
    assert on_scale(strong, (0.4, 0.9))[0, 0, 0].item() == pytest.approx(2.0), "not cut"


@pytest.mark.parametrize(("own", "said"), [(0.6, "passes"), (0.3, "FAILS")])
def test_a_map_passes_where_its_own_name_points_better_than_other_words(own, said):
    noise = np.random.default_rng(0).normal(0, 0.02, 200)
    values = {UNCHANGED: own, SHUFFLED: 0.25, NO_WORD: 0.3}
    draws = {
        ("Grad-CAM", "prompt", change, "pointing_game"): np.r_[value, value + noise[::sign]]
        for sign, (change, value) in zip((1, -1, -1), values.items(), strict=True)
    }
    verdict = _verdict("Grad-CAM", draws)
    assert verdict.startswith(f"Grad-CAM {said}:") and f"{own:.2f} of the boxes" in verdict
