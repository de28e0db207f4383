"""What holds for every encoder; the stand-in's files; number formats."""

import numpy as np
import pytest
import torch
from released import CASES, loaded
from weights import save_stand_in

from rctpl_utils.encoders import base
from rctpl_utils.encoders.base import autocast, evaluation, known_hash, state_hash
from rctpl_utils.encoders.standin import StandIn, pad_to_square
from rctpl_utils.prompts.prompts import nearest_words

KINDS = ("stand-in", "medclip-resnet50", "medclip-vit", "biovil")
NO_FILMS = (
    np.full((4, 4), 255.0), np.zeros((4, 4, 3)), -np.ones((4, 4)), np.full((4, 4), np.nan),
    np.zeros((0, 4)),
)  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def each(request, tmp_path_factory):
    if request.param == "stand-in":
        return request.getfixturevalue("encoder")
    return loaded(CASES[request.param], tmp_path_factory).model


def test_prompt_vectors_that_equal_words_act_as_these_words(each):
    """And the gradient reaches them alone."""
    ids = each.text.tokenizer("a photo of", add_special_tokens=False)["input_ids"]
    context = each.text.bert.get_input_embeddings().weight[ids].clone().requires_grad_()
    names = ["mass", "pleural effusion", "edema"]
    prompted = each.encode_prompts(context, names)
    spelled = each.encode_text([f"a photo of {name}" for name in names])
    assert torch.allclose(prompted, spelled, atol=1e-5)
    prompted[:, 0].sum().backward()
    assert context.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in each.parameters())
    assert nearest_words(context.detach(), each, 1) == [["a"], ["photo"], ["of"]]


def test_other_than_films_are_refused(each):
    for pixels in NO_FILMS:
        with pytest.raises(base.InputError, match=r"\[0, 1\]"):
            each.preprocess(pixels)


def test_features_are_unit_vectors_and_a_text_does_not_depend_on_its_batch(encoder):
    pixels = np.random.default_rng(0).random((80, 64))
    features = encoder.encode_image(torch.stack([encoder.preprocess(pixels)] * 2))
    assert features.global_features.shape == (2, encoder.dimension)
    assert features.dense_features.shape == (2, 8, 8, encoder.dimension)
    alone = encoder.encode_text(["edema"])
    for array in (*features, alone):
        assert torch.allclose(array.norm(dim=-1), torch.ones(()), atol=1e-4)
    long = "a much longer text about the lungs, the heart and the pleura"
    assert torch.allclose(alone[0], encoder.encode_text(["edema", long])[0], atol=1e-5)


def test_save_and_load(encoder, tmp_path):
    path = tmp_path / "encoder.safetensors"
    save_stand_in(encoder, path)
    loaded, other = StandIn.load(path), StandIn(64)  # other weights, other keys
    assert state_hash(loaded) == state_hash(encoder)
    for key in ("text_key", "image_key"):
        assert getattr(loaded, key) == getattr(encoder, key) != getattr(other, key)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_known_hash_is_read_once_and_anew_after_a_write(monkeypatch):
    read, layer = [], torch.nn.Linear(3, 2)

    def hashed(module):
        read.append(module)
        return state_hash(module)

    monkeypatch.setattr(base, "state_hash", hashed)
    assert known_hash(layer) == known_hash(layer) == state_hash(layer) and len(read) == 1
    writes = (
        lambda: torch.nn.init.constant_(layer.weight, 2),
        lambda: setattr(layer, "bias", torch.nn.Parameter(torch.ones(2))),
        lambda: layer.load_state_dict(torch.nn.Linear(3, 2).state_dict()),
    )
    for count, write in enumerate(writes, 2):
        write()
        assert known_hash(layer) == state_hash(layer) and len(read) == count


def test_pad_to_square_centers():
    square = pad_to_square(np.ones((2, 4)))
    assert square.shape == (4, 4) and square.sum(axis=1).tolist() == [0, 4, 4, 0]


# evaluation is float32, whatever surrounds it; training may be faster

CPU = torch.device("cpu")


def product() -> torch.Tensor:
    left, right = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    return left @ right


def test_evaluation_inside_training_stays_exact_and_puts_the_flags_back():
    exact, cudnn = product(), torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.deterministic, cudnn.enabled
    with torch.autocast("cpu", torch.bfloat16):
        assert product().dtype is torch.bfloat16
        with evaluation(CPU):
            assert torch.equal(product(), exact)
            flags = cudnn.allow_tf32, cudnn.deterministic, cudnn.enabled
            assert flags == (False, True, before[2])
        assert product().dtype is torch.bfloat16
    assert (cudnn.allow_tf32, cudnn.deterministic, cudnn.enabled) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_training_takes_what_the_processor_is_fast_in(monkeypatch, dtype):
    monkeypatch.setattr(base, "fast_dtype", lambda device: dtype)
    with autocast(CPU):
        assert product().dtype is dtype


def test_features_of_films_are_float32_on_every_processor(monkeypatch, encoder):
    films = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    exact = encoder.encode_image(films)
    monkeypatch.setattr(base, "fast_dtype", lambda device: torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder.encode_image(films)
    assert all(torch.equal(one, other) for one, other in zip(found, exact, strict=True))
