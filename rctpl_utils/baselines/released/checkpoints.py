"""What the loaders of released baselines share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rctpl_utils.encoders.base import freeze
from rctpl_utils.encoders.checkpoint import Layout, match_state
from rctpl_utils.encoders.text_tower import untrained_bert
from rctpl_utils.encoders.weight_files import read_state


def released_names(name: str) -> tuple[str, str]:
    """A released file's name in its folder, and with the suffix of safetensors."""
    return name, str(Path(name).with_suffix(".safetensors"))


def load_matched(
    module: nn.Module, state: Mapping[str, Tensor], layout: Layout, file: str | Path
) -> None:
    """Fill a module from a released state; names and shapes must agree (`match_state`)."""
    module.load_state_dict(match_state(module, state, layout, file))


def position_ids(bert: nn.Module) -> Tensor:
    """What older versions of transformers store with a BERT: 0, 1, ... (1, positions)."""
    return torch.arange(bert.config.max_position_embeddings)[None]


def pretrained_bert(folder: str | Path) -> tuple[nn.Module, Any]:
    """A published BERT and its tokenizer, frozen, from the hub's files in a folder.

    Args:
        folder: with `config.json`, `vocab.txt` and `pytorch_model.bin` (or safetensors), whose
            names begin with "bert."; the heads of pre-training and the pooler are left out.

    Raises:
        InputError: absent or damaged files, missing or unexpected names (listed).
    """
    bert, tokenizer = untrained_bert(folder)
    # files converted from TensorFlow's call a normalization's weight gamma and its bias beta
    old = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
    state = read_state(folder)
    for before, after in old.items():
        state = {name.replace(before, after): value for name, value in state.items()}
    layout = Layout(
        lambda name: f"bert.{name}",
        unused=(r"cls\..+", r"bert\.pooler\.dense\.(weight|bias)"),
        constants={r"bert\.embeddings\.position_ids": position_ids(bert)},
    )
    load_matched(bert, state, layout, folder)
    return freeze(bert), tokenizer
