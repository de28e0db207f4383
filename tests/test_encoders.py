"""The stand-in encoder: shapes, batches, prompts as words, freezing, files, number formats."""

import numpy as np
import pytest
import torch
from encoder_checks import assert_other_than_films_are_refused, assert_prompts_act_as_their_words
from weights import save_stand_in

from rctpl_utils.encoders import base, precision
from rctpl_utils.encoders.base import known_hash, state_hash
from rctpl_utils.encoders.precision import autocast, evaluation
from rctpl_utils.encoders.standin import StandIn, pad_to_square


def test_features_are_unit_vectors(encoder):
    pixels = np.random.default_rng(0).random((80, 64))
    features = encoder.encode_image(torch.stack([encoder.preprocess(pixels)] * 2))
    assert features.global_features.shape == (2, encoder.dimension)
    assert features.dense_features.shape == (2, 8, 8, encoder.dimension)
    for array in (*features, encoder.encode_text(["edema"])):
        assert torch.allclose(array.norm(dim=-1), torch.ones(()), atol=1e-4)


def test_a_text_does_not_depend_on_its_batch(encoder):
    alone = encoder.encode_text(["edema"])[0]
    long = "a much longer text about the lungs, the heart and the pleura"
    assert torch.allclose(alone, encoder.encode_text(["edema", long])[0], atol=1e-5)


def test_prompt_vectors_that_equal_words_act_as_these_words(encoder):
    assert_prompts_act_as_their_words(encoder)


def test_save_and_load(encoder, tmp_path):
    path = tmp_path / "encoder.safetensors"
    save_stand_in(encoder, path)
    loaded = StandIn.load(path)
    assert state_hash(loaded) == state_hash(encoder)
    assert (loaded.text_key, loaded.image_key) == (encoder.text_key, encoder.image_key)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_known_hash_is_read_once_and_anew_after_a_write(monkeypatch):
    read = []
    monkeypatch.setattr(
        base, "state_hash", lambda module: read.append(module) or state_hash(module)
    )
    layer = torch.nn.Linear(3, 2)
    assert known_hash(layer) == known_hash(layer) == state_hash(layer) and len(read) == 1
    with torch.no_grad():
        layer.weight[0, 0] += 1
    assert known_hash(layer) == state_hash(layer) and len(read) == 2
    layer.bias = torch.nn.Parameter(torch.ones(2))
    assert known_hash(layer) == state_hash(layer) and len(read) == 3
    layer.load_state_dict(torch.nn.Linear(3, 2).state_dict())
    assert known_hash(layer) == state_hash(layer) and len(read) == 4


def test_keys_change_with_weights():
    keys = [(each.text_key, each.image_key) for each in (StandIn(64), StandIn(64))]
    assert all(one != other for one, other in zip(*keys, strict=True))


def test_other_than_films_are_refused(encoder):
    assert_other_than_films_are_refused(encoder)


def test_pad_to_square_centers():
    square = pad_to_square(np.ones((2, 4)))
    assert square.shape == (4, 4)
    assert square.sum(axis=1).tolist() == [0, 4, 4, 0]


# evaluation is float32, whatever surrounds it; training may be faster

CPU = torch.device("cpu")


def product() -> torch.Tensor:
    left, right = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    return left @ right


def test_evaluation_inside_training_stays_exact():
    exact = product()
    with torch.autocast("cpu", torch.bfloat16):
        assert product().dtype is torch.bfloat16
        with evaluation(CPU):
            assert torch.equal(product(), exact)
        assert product().dtype is torch.bfloat16


def test_evaluation_takes_no_tensor_float_and_puts_the_flags_back():
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.deterministic, cudnn.enabled
    with evaluation(CPU):
        assert (cudnn.allow_tf32, cudnn.deterministic, cudnn.enabled) == (False, True, before[2])
    assert (cudnn.allow_tf32, cudnn.deterministic, cudnn.enabled) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_training_takes_what_the_processor_is_fast_in(monkeypatch, dtype):
    monkeypatch.setattr(precision, "fast_dtype", lambda device: dtype)
    with autocast(CPU):
        assert product().dtype is dtype


def test_features_of_films_are_float32_on_every_processor(monkeypatch, encoder):
    films = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    exact = encoder.encode_image(films)
    monkeypatch.setattr(precision, "fast_dtype", lambda device: torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder.encode_image(films)
    assert torch.equal(found.global_features, exact.global_features)
    assert torch.equal(found.dense_features, exact.dense_features)
