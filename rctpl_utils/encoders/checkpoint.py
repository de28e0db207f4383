"""Released weights: named tensors from a file as people have it, checked name by name.

Nothing in a file is executed. Weights come alone, in a training checkpoint, in a zip archive, as
PyTorch's pickle or as safetensors, with the prefixes of what they were trained in. A training loop
also saves the run's configuration, sometimes as objects of the library that read it: such objects
are read as blanks, which know nothing and do nothing; all others are refused.
"""

import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from rctpl_utils.encoders.base import freeze
from rctpl_utils.errors import InputError
from rctpl_utils.given_files import mistaken

WEIGHTS = ("pytorch_model.bin", "model.safetensors")  # as the released files are called
SHOWN = 12  # names of each kind in an error
_AGAIN = "Download it again, or give another file."
_ALONE = "Save the one that you mean alone."
_SAVE = "Give a file of tensors: save the weights alone, where you trust what made this one."
_PLAIN = (Tensor, int, float, str, type(None))  # what may stand in a set of weights
_UNREADABLE = "not readable as weights and nothing else"
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

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Forget the state."""


def released_names(name: str) -> tuple[str, str]:
    """A released file's name in its folder, and with the suffix of safetensors."""
    return name, str(Path(name).with_suffix(".safetensors"))


def weights_files(path: str | Path, names: Sequence[str] = WEIGHTS) -> list[Path]:
    """The files of weights that `path` means: itself, or those in a folder by a released name."""
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

    `path` is a file of PyTorch's (`.bin`, `.pt`, `.pth`, `.ckpt`) or safetensors of any suffix; a
    zip archive that holds a file of one of the `names` (read in memory, not unpacked), or a folder
    that does. The tensors may be in an entry ("state_dict", "model") of a training checkpoint.

    An `InputError` tells of an absent, damaged or ambiguous file, called what it is; of two files
    in a folder that differ; of one that holds other than one set of named tensors.
    """
    files = weights_files(path, names)
    first, *others = [_read_file(file, names) for file in files]
    for file, state in zip(files[1:], others, strict=True):
        pairs = [(state[name], first[name]) for name in state.keys() & first.keys()]
        if not pairs or any(a.dtype != b.dtype or not torch.equal(a, b) for a, b in pairs):
            problem = f"other weights than in {files[0].name} beside it"
            raise InputError(problem, "Keep the one of them that you mean.", file=file)
    return first


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
        raise InputError(f"{_UNREADABLE}: {what}", cure, file=file) from error
    found = dict(_sets(content)) or dict(_sets(content, pure=False))
    if len(found) > 1:
        raise InputError(f"several sets of weights: {', '.join(found)}", _ALONE, file=file)
    if not found:
        problem = "expected named tensors, alone or in an entry such as 'state_dict' or 'model'"
        raise InputError(problem, _SAVE, file=file)
    (state,) = found.values()
    bare = [re.sub(_WRAPPERS, r"\1", name) for name in state]
    while all(name.startswith("module.") for name in bare):  # PyTorch's data-parallel wrapper
        bare = [name.removeprefix("module.") for name in bare]
    if len(set(bare)) < len(state):
        raise InputError("names that differ in a wrapper's prefix only", _SAVE, file=file)
    return dict(zip(bare, state.values(), strict=True))


def _kind(head: bytes) -> tuple[str, str] | None:
    """What a file is that begins so, and the cure; None for what may be weights."""
    if head.startswith(b"\x1f\x8b"):
        return "a gzip file", "Unpack it."
    text = head.decode("ascii", "replace")
    if head and text.replace("\n", " ").strip().isprintable():
        start = text.split("\n")[0]
        return mistaken(head) or (f"a text that begins with {start:.60}", _AGAIN)
    return mistaken(head)


def _load(file: Path, names: Sequence[str]) -> object:
    with file.open("rb") as stream:
        head = stream.read(9)
    if head[8:] == b"{":
        return load_file(file)
    # PyTorch takes a path's suffix for what the file is: not so a stream's
    source = BytesIO(file.read_bytes()) if file.suffix == ".safetensors" else file
    if not zipfile.is_zipfile(file):
        return torch.load(source, map_location="cpu", weights_only=True)
    with zipfile.ZipFile(file) as archive:
        inside = archive.namelist()
        members = [name for name in inside if re.split(r"[/\\]", name)[-1] in names]
        if len(members) > 1:
            problem = f"the archive holds several files of weights: {', '.join(members)}"
            raise InputError(problem, "Unpack it and give the file itself.", file=file)
        content = archive.read(members[0]) if members else b""
    if content[8:9] == b"{":
        return load_safetensors(content)
    if content and zipfile.is_zipfile(BytesIO(content)):
        return _unpickle(BytesIO(content), file)
    if content:
        if kind := _kind(content[:256]):
            raise InputError(f"{_UNREADABLE}: {members[0]} is {kind[0]}", kind[1], file=file)
        return torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    if any(name.endswith("/constants.pkl") for name in inside):
        cure = "Save its weights: torch.save(torch.jit.load(file).state_dict(), other)."
        raise InputError("a TorchScript archive, which is a program", cure, file=file)
    if not any(name.endswith("data.pkl") for name in inside):  # of PyTorch's own zip archives
        problem = f"{_UNREADABLE}: a zip archive of {', '.join(inside[:8])}"
        raise InputError(problem, "Unpack it and give the file of weights.", file=file)
    return _unpickle(source, file)


def _unpickle(source: Path | BytesIO, file: Path) -> object:
    """What PyTorch's zip archive holds, configurations as blanks."""
    found = get_unsafe_globals_in_checkpoint(source)  # reads the pickle's words, runs none
    foreign = sorted(
        each for each in found if not each.startswith(_CONFIGURATIONS) and each not in _PLAIN_TYPES
    )
    if foreign:
        problem = f"{_UNREADABLE}: it holds pickled objects, which are not opened here: "
        raise InputError(problem + ", ".join(foreign), _SAVE, file=file)
    # a file is mapped, so that the optimizer's moments, twice the weights, stay on the disk
    mapped = isinstance(source, Path)
    if not mapped:
        source.seek(0)
    with safe_globals([(Blank, each) for each in found]):
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)


def _sets(
    content: object, at: str = "", depth: int = 2, *, pure: bool = True
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The sets of named tensors in a checkpoint and where each is; no optimizer's state.

    Beside the tensors of a set may stand numbers and texts where it is not to be `pure`.
    """
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        return
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    others = {key: content[key] for key in content if not re.search("optim|sched", key)}
    plain = all(isinstance(value, _PLAIN) for value in others.values())
    if tensors and (len(tensors) == len(content) or (plain and not pure)):
        yield at or "the file", tensors
    elif depth:
        for key, value in others.items():
            yield from _sets(value, f"{at}.{key}".lstrip("."), depth - 1, pure=pure)


@dataclass(frozen=True)
class Layout:
    """How a released file names what a module holds.

    Attributes:
        parts: the beginning of a name in the module -> in the file; the first that fits counts.
        inside: further pieces of a name, likewise; all count.
        unused: patterns of the file's names that the module has no use for.
        constants: the value, by pattern, of what some versions of the libraries store although the
            architecture decides it: a file with another one is refused.
    """

    parts: Mapping[str, str] = field(default_factory=dict)
    inside: Mapping[str, str] = field(default_factory=dict)
    unused: Sequence[str] = ()
    constants: Mapping[str, Tensor] = field(default_factory=dict)

    def released(self, name: str) -> str:
        """A name in the module's state as the file has it."""
        for own, theirs in self.inside.items():
            name = name.replace(own, theirs)
        own = next((each for each in self.parts if name.startswith(each)), "")
        return self.parts.get(own, "") + name.removeprefix(own)

    def is_unused(self, name: str) -> bool:
        """Whether the file's name is one the module has no use for."""
        return any(re.fullmatch(pattern, name) for pattern in self.unused)

    def constant(self, name: str) -> Tensor | None:
        """The value that the architecture gives the file's name, if it does."""
        found = (value for key, value in self.constants.items() if re.fullmatch(key, name))
        return next(found, None)


def match_state(
    module: nn.Module, state: Mapping[str, Tensor], layout: Layout, file: str | Path
) -> dict[str, Tensor]:
    """A released state under the module's own names, ready for `load_state_dict`.

    Where the file's names have one prefix more (a Lightning module's "model.", say), it is dropped.
    The module's values do not matter: it may be on "meta". An `InputError` lists names that are
    missing or unexpected, tensors of another shape or kind, constants with another value.
    """
    own = module.state_dict()
    wanted = {layout.released(name): name for name in own}
    wanted = {name: own for name, own in wanted.items() if layout.constant(name) is None}
    state = _without_prefix(state, wanted, file)
    missing = [name for name in wanted if name not in state]
    unexpected, wrong = [], []
    for name, value in state.items():
        fixed = layout.constant(name)
        if fixed is not None:
            if not torch.equal(value.to(fixed.dtype), fixed):
                wrong.append(f"{name} is not what the architecture fixes")
        elif name in wanted:
            mine = own[wanted[name]]
            if value.shape != mine.shape:
                wrong.append(f"{name} has shape {tuple(value.shape)}, not {tuple(mine.shape)}")
            elif mine.is_floating_point() and not value.is_floating_point():
                wrong.append(f"{name} is {value.dtype}, not {mine.dtype}")
            elif value.layout != torch.strided or not torch.isfinite(value).all():
                wrong.append(f"{name} holds other than finite numbers")
        elif not layout.is_unused(name):
            unexpected.append(name)
    listed = (("missing", missing), ("unexpected", unexpected), ("wrong", wrong))
    if problems := [_listed(kind, names) for kind, names in listed if names]:
        problem = f"weights of another architecture; {'; '.join(problems)}"
        cure = "Give the checkpoint that the profile's encoder names."
        raise InputError(problem, cure, file=file)
    return own | {mine: state[name] for name, mine in wanted.items()}


def _without_prefix(
    state: Mapping[str, Tensor], wanted: Iterable[str], file: str | Path
) -> Mapping[str, Tensor]:
    """The state with the prefix dropped under which it has the most of the wanted names."""
    here = sum(name in wanted for name in state)
    parts = [(name, place.end()) for name in state for place in re.finditer(r"\.", name)]
    counts = Counter(name[:end] for name, end in parts if name[end:] in wanted).most_common(2)
    if not counts or counts[0][1] <= max(here, len(wanted) / 2):
        return state
    if len(counts) == 2 and counts[1][1] == counts[0][1]:
        problem = f"the same names under {counts[0][0]!r} and {counts[1][0]!r}"
        raise InputError(problem, _ALONE, file=file)
    return {name.removeprefix(counts[0][0]): value for name, value in state.items()}


def _listed(kind: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{kind}: {', '.join(names[:SHOWN])}{more}"


class FromFiles(nn.Module):
    """A published model that released files fill, those of the names `weights`.

    A subclass is made with random weights from a path and its options, and gives its `layout`.
    """

    weights: Sequence[str] = WEIGHTS

    def layout(self, state: Mapping[str, Tensor]) -> Layout:
        """How a file that holds `state` names what the model holds."""
        raise NotImplementedError

    def matched(self, path: str | Path) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
        """Parts of the model, each with its state from the released files."""
        state = read_state(path, self.weights)
        yield self, match_state(self, state, self.layout(state), path)

    @classmethod
    def load(
        cls, path: str | Path, device: str | torch.device = "cpu", **options: Any
    ) -> "FromFiles":
        """Read the released files: frozen, on the device; `InputError` lists what does not fit."""
        model = cls(path, **options)
        for module, state in model.matched(path):
            module.load_state_dict(state)
        return freeze(model).to(device)

    @classmethod
    def check(cls, path: str | Path, **options: Any) -> None:
        """All of `load` except the model, with its errors: what a run may say before it starts."""
        with torch.device("meta"):
            model = cls(path, **options)
        for _ in model.matched(path):
            pass

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device
