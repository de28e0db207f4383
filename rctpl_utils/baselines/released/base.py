"""What released models offer beyond the protocol, and what their loaders share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from rctpl_utils.baselines.base import ZeroShotModel
from rctpl_utils.encoders.base import freeze
from rctpl_utils.encoders.checkpoint import Layout, match_state, read_state, renamed
from rctpl_utils.encoders.frame import Frame
from rctpl_utils.encoders.text_tower import position_ids, untrained_bert
from rctpl_utils.encoders.two_towers import check_pixels


class ReleasedModel(ZeroShotModel, Protocol):
    """A released checkpoint behind the protocol; `films` are preprocessed images (n, C, S, S).

    Scores are those of the method's published inference; `frame` is what its maps cover
    (`encoders.frame.on_square`).
    """

    frame: Frame
    device: torch.device

    def preprocess(self, pixels: np.ndarray) -> Tensor:
        """One radiograph, float (H, W) in [0, 1], to the model's input (C, S, S)."""
        ...


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """A film (H, W) in [0, 1], else `InputError`, as the grays that published code reads: uint8."""
    check_pixels(pixels)
    return np.rint(pixels * 255).astype(np.uint8)


def released_names(name: str) -> tuple[str, str]:
    """A released file's name in its folder, and with the suffix of safetensors."""
    return name, str(Path(name).with_suffix(".safetensors"))


class FromCheckpoint(nn.Module):
    """A released model that one checkpoint fills (`ReleasedModel`).

    A subclass takes a folder, sets `weights`, the checkpoint's name, and gives its `layout`.
    """

    weights: str

    def layout(self, state: Mapping[str, Tensor]) -> Layout:
        """How a file that holds `state` names what the model holds."""
        raise NotImplementedError

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> Self:
        """Read the checkpoint and what `cls` needs from a folder: frozen, on the device.

        An `InputError` lists absent or damaged files, missing or unexpected names.
        """
        model = cls(folder)
        state = read_state(folder, released_names(cls.weights))
        model.load_state_dict(match_state(model, state, model.layout(state), folder))
        return freeze(model).to(device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device


def pretrained_bert(folder: str | Path) -> tuple[nn.Module, Any]:
    """A published BERT and its tokenizer, frozen, from the hub's files in a folder.

    It holds `config.json`, `vocab.txt` and `pytorch_model.bin` (or safetensors), whose names begin
    with "bert."; the heads of pre-training and the pooler are left out. An `InputError` lists
    absent or damaged files, missing or unexpected names.
    """
    bert, tokenizer = untrained_bert(folder)
    # files converted from TensorFlow's call a normalization's weight gamma and its bias beta
    old = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
    state = read_state(folder)
    for before, after in old.items():
        state = {name.replace(before, after): value for name, value in state.items()}
    layout = renamed(
        {"": "bert."},
        unused=(r"cls\..+", r"bert\.pooler\.dense\.(weight|bias)"),
        constants={r"bert\.embeddings\.position_ids": position_ids(bert)},
    )
    bert.load_state_dict(match_state(bert, state, layout, folder))
    return freeze(bert), tokenizer
