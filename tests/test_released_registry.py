"""Which released models there are, and MedCLIP and BioViL among them by their own inference."""

import pytest
import torch
from released import CASES, loaded
from scipy.ndimage import gaussian_filter
from torch.nn import functional

from rctpl_utils.baselines import released as models
from rctpl_utils.baselines.base import CLASSIFY, GROUND, RETRIEVE
from rctpl_utils.baselines.released import NO_PUBLIC_WEIGHTS, PUBLIC, is_provided, load_released
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.results import reported_table1
from rctpl_utils.text.knowledge import ensemble

CONCEPTS = ["Edema", "Pleural Effusion"]


@torch.no_grad()
def test_medclip_scores_by_the_mean_of_cosines(tmp_path_factory):
    model = models.ReleasedMedCLIP.load(loaded(CASES["medclip-vit"], tmp_path_factory).folder)
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
def test_biovil_scores_by_the_mean_vector_and_blurs_its_map(tmp_path_factory):
    model = models.ReleasedBioViL.load(loaded(CASES["biovil"], tmp_path_factory).folder)
    films = torch.rand(1, 1, 480, 480)
    text, features, vectors = model.encoder.text, model.encoder.encode_image(films), []
    for concept in CONCEPTS:
        raw = [text.projection(text.pooled([prompt]))[0] for prompt in ensemble(concept)]
        vectors.append(functional.normalize(torch.stack(raw).mean(dim=0), dim=0))
    wanted = features.global_features @ torch.stack(vectors).T
    assert torch.allclose(model.classify(films, CONCEPTS), wanted, atol=1e-5)
    cosines = (features.dense_features @ vectors[0]).numpy()
    found = model.ground(films, "Edema")
    assert found.shape == (1, 15, 15)
    blurred = torch.from_numpy(gaussian_filter(cosines[0], sigma=(1.5, 1.5)))
    assert torch.allclose(found[0], blurred, atol=1e-5)


def test_every_row_of_the_reported_table_has_weights_or_a_reason(tmp_path):
    assert not set(PUBLIC) & set(NO_PUBLIC_WEIGHTS)
    reported = {name for name in reported_table1()["method"] if not name.startswith("RC-TPL")}
    assert reported == set(PUBLIC) | set(NO_PUBLIC_WEIGHTS)
    for name in NO_PUBLIC_WEIGHTS:
        with pytest.raises(InputError, match="no public weights"):
            load_released(name, tmp_path)
    with pytest.raises(InputError, match="there is no released model 'CLIP'"):
        is_provided("CLIP", tmp_path)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_model_offers_the_protocol_and_what_is_absent_is_told(name, tmp_path):
    kind = PUBLIC[name].model
    assert kind.name == name and CLASSIFY in kind.published
    assert kind.published <= {CLASSIFY, GROUND, RETRIEVE}
    assert kind.frame.shape in ("square", "short", "film") and 0 < kind.frame.share <= 1
    assert {"load", "classify", "ground", "embed_images"} <= set(dir(kind))
    assert not is_provided(name, tmp_path)
    with pytest.raises(InputError) as caught:
        load_released(name, tmp_path)
    folder = tmp_path / "weights" / name.lower()
    for part in (*PUBLIC[name].files, PUBLIC[name].source, str(folder)):
        assert part in str(caught.value)
    assert models.weights_folder(name, tmp_path) == folder
    folder.mkdir(parents=True)
    assert is_provided(name, tmp_path)
    with pytest.raises(InputError):  # of an empty folder each loader says what it misses
        load_released(name, tmp_path)
