"""Which released models there are, and MedCLIP and BioViL among them by their own inference."""

import pytest
import torch
from released import write_base_model
from scipy.ndimage import gaussian_filter
from torch.nn import functional

from rctpl_utils.baselines.base import CLASSIFY, GROUND, RETRIEVE
from rctpl_utils.baselines.released import (
    NO_PUBLIC_WEIGHTS,
    PUBLIC,
    is_provided,
    load_released,
    weights_folder,
)
from rctpl_utils.baselines.released.adapters import ReleasedBioViL, ReleasedMedCLIP
from rctpl_utils.baselines.released.chexzero import CheXzero
from rctpl_utils.baselines.released.gloria import GLoRIA
from rctpl_utils.baselines.released.medklip import MedKLIP, MeDSLIP
from rctpl_utils.encoders.base import freeze
from rctpl_utils.encoders.biovil import BioViL
from rctpl_utils.encoders.medclip import MedCLIP
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.results import reported_table1
from rctpl_utils.text.knowledge import ensemble

CONCEPTS = ["Edema", "Pleural Effusion"]
MODELS = (CheXzero, GLoRIA, MedKLIP, MeDSLIP, ReleasedBioViL, ReleasedMedCLIP)


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    return write_base_model(tmp_path_factory.mktemp("vit") / "bioclinicalbert", 3)


def released(kind, encoder):
    """An adapter around an encoder with random weights: the files are `test_medclip`'s matter."""
    torch.manual_seed(3)
    return kind(freeze(encoder()))


@torch.no_grad()
def test_medclip_scores_by_the_mean_of_cosines(base_model):
    model = released(ReleasedMedCLIP, lambda: MedCLIP(base_model.parent, "vit"))
    films = torch.randn(2, 1, 224, 224)
    images = functional.normalize(model.encoder.image.project(films).global_features, dim=1)
    found = model.classify(films, CONCEPTS)
    for column, concept in enumerate(CONCEPTS):
        cosines = [images @ model.encoder.text([prompt])[0] for prompt in ensemble(concept)]
        assert torch.allclose(found[:, column], torch.stack(cosines).mean(dim=0), atol=1e-5)
    dense = model.encoder.encode_image(films).dense_features
    maps = sum(dense @ model.encoder.text([prompt])[0] for prompt in ensemble("Edema"))
    assert torch.allclose(model.ground(films, "Edema"), maps / len(ensemble("Edema")), atol=1e-5)
    assert torch.equal(model.embed_images(films), model.encoder.encode_image(films)[0])
    assert torch.equal(model.embed_texts(["mass"]), model.encoder.encode_text(["mass"]))


@torch.no_grad()
def test_biovil_scores_by_the_mean_vector_and_blurs_its_map(base_model):
    model = released(ReleasedBioViL, lambda: BioViL(base_model))
    films = torch.rand(1, 1, 480, 480)
    text = model.encoder.text
    vectors = []
    for concept in CONCEPTS:
        raw = [text.projection(text.pooled([prompt]))[0] for prompt in ensemble(concept)]
        vectors.append(functional.normalize(torch.stack(raw).mean(dim=0), dim=0))
    features = model.encoder.encode_image(films)
    wanted = features.global_features @ torch.stack(vectors).T
    assert torch.allclose(model.classify(films, CONCEPTS), wanted, atol=1e-5)
    cosines = (features.dense_features @ vectors[0]).numpy()
    found = model.ground(films, "Edema")
    assert found.shape == (1, 15, 15)
    blurred = torch.from_numpy(gaussian_filter(cosines[0], sigma=(1.5, 1.5)))
    assert torch.allclose(found[0], blurred, atol=1e-5)


def test_every_row_of_the_reported_table_has_weights_or_a_reason():
    names = set(PUBLIC) | set(NO_PUBLIC_WEIGHTS)
    assert not set(PUBLIC) & set(NO_PUBLIC_WEIGHTS)
    reported = set(reported_table1()["method"])
    assert {name for name in reported if not name.startswith("RC-TPL")} == names
    assert {kind.name for kind in MODELS} == set(PUBLIC)


@pytest.mark.parametrize("kind", MODELS)
def test_every_model_offers_the_protocol(kind):
    assert kind.published <= {CLASSIFY, GROUND, RETRIEVE} and CLASSIFY in kind.published
    assert kind.frame.shape in ("square", "short", "film") and 0 < kind.frame.share <= 1
    for part in (
        "load", "classify", "ground", "embed_images", "device",
    ):  # fmt: skip
        assert hasattr(kind, part)


def test_what_is_absent_is_told_with_its_files_and_source(tmp_path):
    for name, public in PUBLIC.items():
        assert not is_provided(name, tmp_path)
        with pytest.raises(InputError) as caught:
            load_released(name, tmp_path)
        for part in (*public.files, public.source, str(tmp_path / "weights" / public.folder)):
            assert part in str(caught.value)
        weights_folder(name, tmp_path).mkdir(parents=True)
        assert is_provided(name, tmp_path)
        with pytest.raises(InputError):  # of an empty folder each loader says what it misses
            load_released(name, tmp_path)


def test_models_without_weights_give_their_reason(tmp_path):
    for name in NO_PUBLIC_WEIGHTS:
        with pytest.raises(InputError, match="no public weights"):
            load_released(name, tmp_path)
    with pytest.raises(InputError, match="there is no released model 'CLIP'"):
        is_provided("CLIP", tmp_path)
