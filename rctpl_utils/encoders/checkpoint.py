"""Reading released weights: one file, its folder or its zip archive, checked name by name."""

import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import load_file
from torch import Tensor, nn

from rctpl_utils.errors import InputError

WEIGHTS = ("pytorch_model.bin", "model.safetensors")  # as the released files are called
SHOWN = 12  # names of each kind in an error
_AGAIN = "Download it again, or give another file."


@dataclass(frozen=True)
class Layout:
    """How a released file names what a module holds.

    Attributes:
        released: a name in the module's state to the name in the file.
        unused: patterns of names that a file may hold and the module has no use for.
        constants: pattern -> value of what some versions of the libraries store although the
            architecture decides it; a file that holds another value is refused.
    """

    released: Callable[[str], str]
    unused: Sequence[str] = ()
    constants: Mapping[str, Tensor] = field(default_factory=dict)

    def is_unused(self, name: str) -> bool:
        """Whether the file's name is one the module has no use for."""
        return any(re.fullmatch(pattern, name) for pattern in self.unused)

    def constant(self, name: str) -> Tensor | None:
        """The value that the architecture gives the file's name, if it does."""
        found = (value for key, value in self.constants.items() if re.fullmatch(key, name))
        return next(found, None)


def weights_file(path: str | Path, names: Sequence[str] = WEIGHTS) -> Path:
    """The file of weights that `path` means: itself, or the one in a folder by a released name.

    Raises:
        InputError: nothing there, or a folder with none or several of the names.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("the checkpoint does not exist", "Check the path.", file=path)
    if path.is_file():
        return path
    found = [path / name for name in names if (path / name).is_file()]
    if len(found) != 1:
        what = "none" if not found else "several"
        raise InputError(
            f"the folder holds {what} of {', '.join(names)}", "Give the file itself.", file=path
        )
    return found[0]


def read_state(path: str | Path, names: Sequence[str] = WEIGHTS) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from a released checkpoint; nothing in the file is executed.

    Args:
        path: `pytorch_model.bin`, any other file of PyTorch's (`.pt`, `.pth`), `.safetensors`, a
            zip archive that holds a file of one of the `names`, or a folder that does. An archive
            is read in memory, not unpacked.
        names: of the weights in a folder or an archive.

    Raises:
        InputError: an absent, damaged or ambiguous file; one that holds other than named tensors.
    """
    file = weights_file(path, names)
    try:
        state = _read(file, names)
    except InputError:
        raise
    except Exception as error:  # damaged bytes raise many kinds, not all of them documented
        # not PyTorch's own words, which advise to load with weights_only=False
        raise InputError(
            f"not readable as weights and nothing else ({type(error).__name__})", _AGAIN, file=file
        ) from error
    named = isinstance(state, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    )
    if not named:
        raise InputError("expected named tensors and nothing else", _AGAIN, file=file)
    return dict(state)


def _read(file: Path, names: Sequence[str]) -> object:
    if file.suffix == ".safetensors":
        return load_file(file)
    if not zipfile.is_zipfile(file):
        return torch.load(file, map_location="cpu", weights_only=True)
    with zipfile.ZipFile(file) as archive:
        members = [name for name in archive.namelist() if name.rsplit("/", 1)[-1] in names]
        if not members:  # PyTorch's own files are zip archives too
            return torch.load(file, map_location="cpu", weights_only=True)
        if len(members) > 1:
            raise InputError(
                f"the archive holds several files of weights: {', '.join(members)}",
                "Unpack it and give the file itself.",
                file=file,
            )
        content = archive.read(members[0])
    if members[0].endswith(".safetensors"):
        return load_safetensors(content)
    return torch.load(BytesIO(content), map_location="cpu", weights_only=True)


def match_state(
    module: nn.Module, state: Mapping[str, Tensor], layout: Layout, file: str | Path
) -> dict[str, Tensor]:
    """A released state under the module's own names, ready for `load_state_dict`.

    Args:
        module: what the weights are for; its values do not matter, it may be on "meta".
        state: what the file holds.
        layout: how the two name things.
        file: for the error only.

    Raises:
        InputError: names that are missing or unexpected, tensors of another shape, a constant with
            another value; the message lists them.
    """
    own = module.state_dict()
    wanted = {layout.released(name): name for name in own}
    wanted = {name: own for name, own in wanted.items() if layout.constant(name) is None}
    missing = [name for name in wanted if name not in state]
    unexpected, wrong = [], []
    for name, value in state.items():
        fixed = layout.constant(name)
        if fixed is not None:
            if not torch.equal(value.to(fixed.dtype), fixed):
                wrong.append(f"{name} is not what the architecture fixes")
        elif name in wanted:
            shape = own[wanted[name]].shape
            if value.shape != shape:
                wrong.append(f"{name} has shape {tuple(value.shape)}, not {tuple(shape)}")
        elif not layout.is_unused(name):
            unexpected.append(name)
    problems = [
        _listed(kind, names)
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("wrong", wrong))
        if names
    ]
    if problems:
        raise InputError(
            f"weights of another architecture; {'; '.join(problems)}",
            "Give the checkpoint that the profile's encoder names.",
            file=file,
        )
    return own | {mine: state[name] for name, mine in wanted.items()}


def _listed(kind: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{kind}: {', '.join(names[:SHOWN])}{more}"
