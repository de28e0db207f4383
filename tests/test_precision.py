"""Evaluation is float32, whatever surrounds it; training may be faster."""

import pytest
import torch

from rctpl_utils.encoders import precision
from rctpl_utils.encoders.precision import autocast, evaluation

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
