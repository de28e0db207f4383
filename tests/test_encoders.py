"""The stand-in encoder: shapes, batch independence, prompts as words, freezing, files."""

import numpy as np
import pytest
import torch
from weights import save_stand_in

from rctpl_utils.encoders import base
from rctpl_utils.encoders.base import known_hash, state_hash
from rctpl_utils.encoders.standin import StandIn, pad_to_square
from rctpl_utils.errors import InputError


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
    tower = encoder.text
    ids = tower.tokenizer("a photo of", add_special_tokens=False)["input_ids"]
    context = tower.bert.get_input_embeddings()(torch.tensor(ids))
    names = ["mass", "pleural effusion"]
    prompted = encoder.encode_prompts(context, names)
    spelled = encoder.encode_text([f"a photo of {name}" for name in names])
    assert torch.allclose(prompted, spelled, atol=1e-5)


def test_gradient_reaches_the_context_only(encoder):
    context = torch.zeros(4, encoder.context_width, requires_grad=True)
    encoder.encode_prompts(context, ["mass"])[0, 0].backward()
    assert context.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in encoder.parameters())


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
    torch.manual_seed(0)
    one, other = StandIn(64), StandIn(64)
    assert one.text_key != other.text_key
    assert one.image_key != other.image_key


@pytest.mark.parametrize("pixels", [np.full((4, 4), 255.0), np.zeros((4, 4, 3)), -np.ones((4, 4))])
def test_wrong_ranges_are_refused(encoder, pixels):
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        encoder.preprocess(pixels)


def test_pad_to_square_centers():
    square = pad_to_square(np.ones((2, 4)))
    assert square.shape == (4, 4)
    assert square.sum(axis=1).tolist() == [0, 4, 4, 0]
