"""Grad-CAM against its definition, written out with autograd (Selvaraju et al. 2017, Eq. 1, 2)."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rctpl_utils.encoders import gradcam
from rctpl_utils.encoders.base import ImageFeatures, freeze, state_hash
from rctpl_utils.encoders.gradcam import gradcam_maps
from rctpl_utils.encoders.standin import StandIn

TEMPERATURE = 0.2  # a large one, so that several cells speak


class TinyTower(nn.Module):
    """One convolution, one linear layer: (n, 1, 16, 16) to a map of 4 x 4 cells."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 5, 4, 4)
        self.projection = nn.Linear(5, 6, bias=False)

    def forward(self, x: Tensor) -> ImageFeatures:
        cells = self.projection(self.convolution(x).permute(0, 2, 3, 1))
        return ImageFeatures(cells.mean(dim=(1, 2)), functional.normalize(cells, dim=-1))


def stretched(maps: Tensor) -> Tensor:
    low, high = (end(dim=(-2, -1), keepdim=True) for end in (maps.amin, maps.amax))
    return (maps - low) / (high - low + 1e-7)


def by_hand(tower: TinyTower, image: Tensor, embedding: Tensor) -> Tensor:
    """One image (1, 16, 16) and one class (d,): Eq. 7, 8 and the map, (16, 16)."""
    activation = tower.convolution(image[None])[0].detach().requires_grad_()  # (5, 4, 4)
    cells = torch.einsum("khw,dk->hwd", activation, tower.projection.weight)
    cosines = (cells / cells.norm(dim=-1, keepdim=True)) @ embedding  # (4, 4)
    attention = torch.exp(cosines / TEMPERATURE) / torch.exp(cosines / TEMPERATURE).sum()
    (gradient,) = torch.autograd.grad((attention * cosines).sum(), activation)
    weights = gradient.sum(dim=(1, 2)) / 16
    cells = torch.relu((weights[:, None, None] * activation).sum(dim=0)).detach()
    large = functional.interpolate(stretched(cells)[None, None], (16, 16), mode="bilinear")
    return stretched(large)[0, 0]


@pytest.fixture
def tiny() -> SimpleNamespace:
    """As much of an encoder as Grad-CAM asks for."""
    torch.manual_seed(3)
    tower, device = freeze(TinyTower()), torch.device("cpu")
    return SimpleNamespace(device=device, image_module=tower, saliency_layer=tower.convolution)


CLASSES = functional.normalize(torch.randn(3, 6, generator=torch.Generator().manual_seed(5)), dim=1)
IMAGES = torch.randn(5, 1, 16, 16, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("pairs", [1, 7, 128])  # one image at a time, two, all
def test_maps_are_grad_cam_by_hand_and_empty_where_nothing_speaks(tiny, pairs, monkeypatch):
    monkeypatch.setattr(gradcam, "PAIRS", pairs)
    monkeypatch.setattr(gradcam, "IMAGE_TEMPERATURE", TEMPERATURE)
    maps = gradcam_maps(tiny, IMAGES, CLASSES)
    wanted = [[by_hand(tiny.image_module, image, c).numpy() for c in CLASSES] for image in IMAGES]
    wanted = np.array(wanted)
    assert maps.shape == (5, 3, 16, 16)
    assert wanted.max(axis=(2, 3)).min() > 0.9, "the example must have no empty map"
    np.testing.assert_allclose(maps, wanted, atol=1e-4)
    tiny.image_module.projection.weight.zero_()  # no channel speaks for a class: an empty map
    assert not gradcam_maps(tiny, IMAGES, CLASSES).any()


def hooks(encoder: StandIn) -> list[int]:
    """How many hooks every layer has; transformers leaves its own in a BERT once it was asked
    for hidden states, so not none."""
    return [len(m._forward_hooks) + len(m._backward_hooks) for m in encoder.modules()]


def test_the_encoder_is_left_as_it_was(encoder: StandIn):
    images = torch.randn(3, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    names = encoder.encode_text(["edema", "mass"])
    before, features = state_hash(encoder), encoder.encode_image(images)
    hooked = hooks(encoder)
    maps = gradcam_maps(encoder, images, names)
    assert maps.shape == (3, 2, 64, 64) and maps.min() >= 0 and maps.max() <= 1
    assert state_hash(encoder) == before
    assert all(p.grad is None and not p.requires_grad for p in encoder.parameters())
    assert hooks(encoder) == hooked
    again = encoder.encode_image(images)
    assert torch.equal(features.dense_features, again.dense_features)
    assert not again.dense_features.requires_grad
    with pytest.raises(RuntimeError):  # after a failure too
        gradcam_maps(encoder, torch.zeros(1, 3, 64, 64), torch.zeros(2, encoder.dimension))
    assert hooks(encoder) == hooked
