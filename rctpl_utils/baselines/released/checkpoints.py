"""Weights inside a training checkpoint: taken out with nothing in the file executed.

Two of the released files are what a training loop saved: besides the weights, the optimizer's state
and the run's configuration, the latter sometimes as objects of the library that read it. Such
objects are read as blanks, which know nothing and do nothing; all others are refused.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from rctpl_utils.encoders.base import freeze
from rctpl_utils.encoders.checkpoint import Layout, match_state, read_state, weights_file
from rctpl_utils.encoders.text_tower import untrained_bert
from rctpl_utils.errors import InputError

# Where configurations come from: OmegaConf's containers (what `save_hyperparameters` of PyTorch
# Lightning 1.1 stores when it is given one), and the types that these name.
_CONFIGURATIONS = ("omegaconf.", "pytorch_lightning.", "typing.")
_PLAIN_TYPES = {f"builtins.{kind}" for kind in ("dict", "list", "tuple", "int", "float", "str")}
_PLAIN_TYPES |= {"builtins.bool", "collections.defaultdict"}


class Blank:
    """In place of an object that the file holds beside the weights: takes anything, does nothing.

    It is no subclass of what it replaces, and no module is imported for it.
    """

    def __new__(cls, *arguments: Any, **named: Any) -> "Blank":
        """Forget the arguments."""
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Forget the state."""


def nested_state(path: str | Path, entry: str, name: str) -> dict[str, Tensor]:
    """The named tensors under an entry of a training checkpoint, on the CPU.

    Args:
        path: the checkpoint, or a folder that holds it under `name`. A file of named tensors alone,
            safetensors too, is taken as the entry itself.
        entry: "state_dict" in PyTorch Lightning's checkpoints, "model" in MedKLIP's.
        name: of the file in a folder.

    Raises:
        InputError: an absent or damaged file; one with objects that are neither tensors nor plain
            values nor a configuration (named); one without the entry; other than tensors in it.
    """
    file = weights_file(path, (name, str(Path(name).with_suffix(".safetensors"))))
    if file.suffix == ".safetensors":
        return read_state(file)
    blanks = _configuration_names(file)
    try:
        with safe_globals([(Blank, each) for each in blanks]):
            # mapped, so that the optimizer's moments, twice the weights, stay on the disk
            content = torch.load(
                file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
            )
    except Exception as error:  # damaged bytes raise many kinds, not all of them documented
        raise InputError(
            f"not readable as a checkpoint and nothing else ({type(error).__name__})",
            "Download it again, or give another file.",
            file=file,
        ) from error
    state = content.get(entry, content) if isinstance(content, dict) else content
    named = isinstance(state, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    )
    if not named:
        raise InputError(
            f"expected named tensors, in an entry {entry!r} or alone",
            "Give the released file.",
            file=file,
        )
    return dict(state)


def _configuration_names(file: Path) -> list[str]:
    """The classes whose objects are read as blanks; an `InputError` names all others."""
    if not zipfile.is_zipfile(file):
        return []  # the format before PyTorch 1.6: `torch.load` itself refuses every object
    try:
        found = get_unsafe_globals_in_checkpoint(file)  # reads the pickle's words, runs none
    except Exception as error:  # as above
        raise InputError(
            f"not readable as a checkpoint ({type(error).__name__})",
            "Download it again, or give another file.",
            file=file,
        ) from error
    foreign = sorted(
        each for each in found if not each.startswith(_CONFIGURATIONS) and each not in _PLAIN_TYPES
    )
    if foreign:
        raise InputError(
            f"holds pickled objects, which are not opened here: {', '.join(foreign)}",
            "Give a file of tensors: save the weights alone, where you trust what made this one.",
            file=file,
        )
    return found


def load_matched(
    module: nn.Module, state: Mapping[str, Tensor], layout: Layout, file: str | Path
) -> None:
    """Fill a module from a released state; names and shapes must agree (`match_state`)."""
    module.load_state_dict(match_state(module, state, layout, file))


def parallel_prefix(state: Mapping[str, Tensor]) -> str:
    """ "module." where the file was saved from a model in PyTorch's data-parallel wrapper."""
    return "module." if any(name.startswith("module.") for name in state) else ""


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
