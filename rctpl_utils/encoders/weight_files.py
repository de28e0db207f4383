"""Named tensors from a file of weights as people have it; nothing in the file is executed.

Released weights come alone, in a training checkpoint, in a zip archive, as PyTorch's pickle or as
safetensors, with the prefixes of what they were trained in. A training loop also saves the run's
configuration, sometimes as objects of the library that read it: such objects are read as blanks,
which know nothing and do nothing; all others are refused.
"""

import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from rctpl_utils.errors import InputError
from rctpl_utils.given_files import mistaken

WEIGHTS = ("pytorch_model.bin", "model.safetensors")  # as the released files are called
_AGAIN = "Download it again, or give another file."
_SAVE = "Give a file of tensors: save the weights alone, where you trust what made this one."
# Where configurations come from: OmegaConf's containers (what `save_hyperparameters` of PyTorch
# Lightning 1.1 stores when it is given one), and the types that these name.
_CONFIGURATIONS = ("omegaconf.", "pytorch_lightning.", "typing.")
_PLAIN_TYPES = {f"builtins.{kind}" for kind in ("dict", "list", "tuple", "int", "float", "str")}
_PLAIN_TYPES |= {"builtins.bool", "collections.defaultdict"}
# what torch.compile, FSDP and activation checkpointing put between the parts of a name
_WRAPPERS = r"(^|\.)(?:(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+"


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


def weights_files(path: str | Path, names: Sequence[str] = WEIGHTS) -> list[Path]:
    """The files of weights that `path` means: itself, or those in a folder by a released name.

    Raises:
        InputError: nothing there, or a folder with none of the names.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("the checkpoint does not exist", "Check the path.", file=path)
    if path.is_file():
        return [path]
    found = [path / name for name in names if (path / name).is_file()]
    if not found:
        there = ", ".join(sorted(each.name for each in path.iterdir()))
        problem = f"the folder holds none of {', '.join(names)}; there are: {there:.200}"
        raise InputError(problem, "Give the file itself.", file=path)
    return found


def read_state(path: str | Path, names: Sequence[str] = WEIGHTS) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, without the prefixes of wrappers ("module.", "_orig_mod.").

    Args:
        path: a file of PyTorch's (`.bin`, `.pt`, `.pth`, `.ckpt`) or safetensors of any suffix; a
            zip archive that holds a file of one of the `names`, or a folder that does. An archive
            is read in memory, not unpacked. The tensors may be in an entry ("state_dict", "model")
            of a training checkpoint.
        names: of the weights in a folder or an archive.

    Raises:
        InputError: an absent, damaged or ambiguous file, called what it is; two files in a folder
            that differ; one that holds other than one set of named tensors.
    """
    files = weights_files(path, names)
    states = [_read_file(file, names) for file in files]
    for file, state in zip(files, states, strict=True):
        common = state.keys() & states[0].keys()
        if not common or any(not _same(state[name], states[0][name]) for name in common):
            problem = f"other weights than in {files[0].name} beside it"
            raise InputError(problem, "Keep the one of them that you mean.", file=file)
    return states[0]


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _read_file(file: Path, names: Sequence[str]) -> dict[str, Tensor]:
    try:
        content = _load(file, names)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"it cannot be read ({error})", "Check it.", file=file) from error
    except Exception as error:  # damaged bytes raise many kinds, not all of them documented
        with file.open("rb") as stream:
            what, cure = _kind(stream.read(256)) or (type(error).__name__, _AGAIN)
        # not PyTorch's own words, which advise to load with weights_only=False
        problem = f"not readable as weights and nothing else: {what}"
        raise InputError(problem, cure, file=file) from error
    found = dict(_sets(content))
    if len(found) > 1:
        problem = f"several sets of weights: {', '.join(found)}"
        raise InputError(problem, "Save the one that you mean alone.", file=file)
    if not found:
        problem = "expected named tensors, alone or in an entry such as 'state_dict' or 'model'"
        raise InputError(problem, _AGAIN, file=file)
    (state,) = found.values()
    bare = dict(zip(_bare_names(state), state.values(), strict=True))
    if len(bare) < len(state):
        raise InputError("names that differ in a wrapper's prefix only", _SAVE, file=file)
    return bare


def _kind(head: bytes) -> tuple[str, str] | None:
    if head.startswith(b"\x1f\x8b"):
        return "a gzip file", "Unpack it."
    if head and head.decode("ascii", "replace").replace("\n", " ").strip().isprintable():
        start = head.decode("ascii", "replace").split("\n")[0]
        return mistaken(head) or (f"a text that begins with {start:.60}", _AGAIN)
    return mistaken(head)


def _load(file: Path, names: Sequence[str]) -> object:
    with file.open("rb") as stream:
        head = stream.read(9)
    if head[8:] == b"{":
        return load_file(file)
    if not zipfile.is_zipfile(file):
        return torch.load(file, map_location="cpu", weights_only=True)
    with zipfile.ZipFile(file) as archive:
        inside = archive.namelist()
        members = [name for name in inside if re.split(r"[/\\]", name)[-1] in names]
        if len(members) > 1:
            problem = f"the archive holds several files of weights: {', '.join(members)}"
            raise InputError(problem, "Unpack it and give the file itself.", file=file)
        content = archive.read(members[0]) if members else b""
    if content[8:9] == b"{":
        return load_safetensors(content)
    if content:
        return _unpickle(BytesIO(content), file)
    if any(name.endswith("/constants.pkl") for name in inside):
        cure = "Save its weights: torch.save(torch.jit.load(file).state_dict(), other)."
        raise InputError("a TorchScript archive, which is a program", cure, file=file)
    if not any(name.endswith("data.pkl") for name in inside):  # of PyTorch's own zip archives
        shown = ", ".join(inside[:8])
        problem = f"not readable as weights and nothing else: a zip archive of {shown}"
        raise InputError(problem, "Unpack it and give the file of weights.", file=file)
    return _unpickle(file, file)


def _unpickle(source: Path | BytesIO, file: Path) -> object:
    """What PyTorch's zip archive holds, configurations as blanks."""
    found = get_unsafe_globals_in_checkpoint(source)  # reads the pickle's words, runs none
    foreign = sorted(
        each for each in found if not each.startswith(_CONFIGURATIONS) and each not in _PLAIN_TYPES
    )
    if foreign:
        problem = "not readable as weights and nothing else: it holds pickled objects, which are "
        problem += f"not opened here: {', '.join(foreign)}"
        raise InputError(problem, _SAVE, file=file)
    # a file is mapped, so that the optimizer's moments, twice the weights, stay on the disk
    mapped = isinstance(source, Path)
    if not mapped:
        source.seek(0)
    with safe_globals([(Blank, each) for each in found]):
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)


def _sets(content: object, at: str = "", depth: int = 2) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The sets of named tensors in a checkpoint and where each is; no optimizer's state."""
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        return
    if content and all(isinstance(value, Tensor) for value in content.values()):
        yield at or "the file", dict(content)
    elif depth:
        for key, value in content.items():
            if not re.search("optim|sched", key):
                yield from _sets(value, f"{at}.{key}".lstrip("."), depth - 1)


def _bare_names(state: Iterable[str]) -> list[str]:
    names = [re.sub(_WRAPPERS, r"\1", name) for name in state]
    while all(name.startswith("module.") for name in names):  # PyTorch's data-parallel wrapper
        names = [name.removeprefix("module.") for name in names]
    return names
