"""Released weights, checked name by name against what a module holds."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from rctpl_utils.encoders.weight_files import WEIGHTS, read_state
from rctpl_utils.errors import InputError

__all__ = ["SHOWN", "WEIGHTS", "Layout", "match_state", "read_state"]

SHOWN = 12  # names of each kind in an error


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


def match_state(
    module: nn.Module, state: Mapping[str, Tensor], layout: Layout, file: str | Path
) -> dict[str, Tensor]:
    """A released state under the module's own names, ready for `load_state_dict`.

    Where the file's names have one prefix more (a Lightning module's "model.", say), it is dropped.

    Args:
        module: what the weights are for; its values do not matter, it may be on "meta".
        state: what the file holds.
        layout: how the two name things.
        file: for the error only.

    Raises:
        InputError: names that are missing or unexpected, tensors of another shape or kind, a
            constant with another value; the message lists them.
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


def _without_prefix(
    state: Mapping[str, Tensor], wanted: Mapping[str, str], file: str | Path
) -> Mapping[str, Tensor]:
    """The state with the prefix dropped under which it has the most of the wanted names."""
    here = sum(name in wanted for name in state)
    parts = [(name, place.end()) for name in state for place in re.finditer(r"\.", name)]
    counts = Counter(name[:end] for name, end in parts if name[end:] in wanted).most_common(2)
    if not counts or counts[0][1] <= max(here, len(wanted) / 2):
        return state
    if len(counts) == 2 and counts[1][1] == counts[0][1]:
        problem = f"the same names under {counts[0][0]!r} and {counts[1][0]!r}"
        raise InputError(problem, "Save the one that you mean alone.", file=file)
    return {name.removeprefix(counts[0][0]): value for name, value in state.items()}


def _listed(kind: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{kind}: {', '.join(names[:SHOWN])}{more}"
