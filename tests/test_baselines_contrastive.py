"""ConVIRT, GLoRIA, MedCLIP-ViT, BioViL, CheXzero: losses against literal versions, a toy world."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from rctpl_utils.baselines import towers
from rctpl_utils.baselines.base import GROUND
from rctpl_utils.baselines.convirt import ConVIRT, convirt_loss
from rctpl_utils.baselines.towers import Setup
from rctpl_utils.baselines.training import train, validation_auc
from rctpl_utils.profiles import BaselineTraining
from tests.toy_baselines import ToyReader, grounding_share, toy_material, toy_validation

CPU = torch.device("cpu")
SETTINGS = BaselineTraining(views=9600, batch_size=32)


@pytest.fixture(scope="module")
def material():
    return toy_material()


@pytest.mark.parametrize("make", [ConVIRT])
def test_it_learns_two_concepts_and_where_they_are(make, material, monkeypatch):
    monkeypatch.setattr(towers, "PHRASES", ("{}",))  # the toy's words stand for nothing but names
    setup = Setup.of(material, ToyReader())
    model, history = train(make, material, setup, SETTINGS, 3e-3, 0, CPU)
    validation, blocks = toy_validation()
    assert validation_auc(model, validation, CPU) > 0.8
    share = np.mean([grounding_share(model, validation, blocks, k) for k in (0, 1)])
    assert share > (0.6 if GROUND in model.native else 0.35)  # a quarter by chance
    assert history[-1]["loss"] < history[0]["loss"]


def test_convirt_loss_is_the_papers_formula():
    generator = torch.Generator().manual_seed(0)
    image, text = (
        functional.normalize(torch.randn(5, 7, generator=generator), dim=1) for _ in range(2)
    )
    total = 0.0
    for i in range(5):
        forth = np.exp((image[i] @ text.T).numpy() / 0.1)
        back = np.exp((text[i] @ image.T).numpy() / 0.1)
        total -= 0.75 * np.log(forth[i] / forth.sum()) + 0.25 * np.log(back[i] / back.sum())
    assert convirt_loss(image, text).item() == pytest.approx(total / 5, rel=1e-5)
