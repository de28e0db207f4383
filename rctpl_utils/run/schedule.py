"""Which notebooks may run at the same time, and with how many threads each.

Every notebook says at its top what it needs ("* **needs** the data (00), the triplets (01)"); that
sentence is what the schedule goes by. One that does not say so needs all before it.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.workspace import Workspace

Needs = Mapping[Path, frozenset[Path]]

# Pre-training is one long chain of matrix products, and most others wait for it: it gets all cores.
ALONE = ("03",)
_NEEDS = re.compile(r"^\* \*\*needs\*\*(.*?)(?=^\* |^\s*$|\Z)", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\((\d\d[a-z]?)\)")


def needs_of(notebooks: Sequence[Path]) -> Needs:
    """What each notebook waits for, directly and by way of others.

    Args:
        notebooks: all of them, in order.

    Raises:
        InputError: a notebook that needs one that is not there before it.
    """
    numbers = {number_of(notebook): notebook for notebook in notebooks}
    found: dict[Path, frozenset[Path]] = {}
    for notebook in notebooks:
        before = frozenset(found)
        stated = _stated(notebook)
        if stated is None or number_of(notebook) in ALONE:
            found[notebook] = before
            continue
        unknown = [number for number in stated if numbers.get(number) not in before]
        if unknown:
            raise InputError(
                f"it says that it needs {', '.join(unknown)}, which do not come before it",
                "Mend the line **needs** in its first cell.",
                file=notebook,
            )
        direct = {numbers[number] for number in stated}
        direct |= {one for one in before if number_of(one) in ALONE}
        found[notebook] = direct.union(*(found[one] for one in direct))
    return found


def number_of(notebook: Path) -> str:
    """04 or 04b."""
    return notebook.stem.split("_")[0]


def _stated(notebook: Path) -> list[str] | None:
    first = read_json(notebook)["cells"][:1]
    match = _NEEDS.search("".join(first[0]["source"])) if first else None
    return _NUMBER.findall(match[1]) if match else None


def threads_for(notebook: Path, needs: Needs, jobs: int) -> int:
    """All cores for a notebook that never has company, else an equal share.

    It is the same whatever else happens to run, so that a run's numbers do not depend on timing.
    """
    cores = available_cores()
    company = [
        one
        for one in needs
        if one != notebook and one not in needs[notebook] and notebook not in needs[one]
    ]
    return max(cores // jobs, 1) if company else cores


def default_jobs(workspace: Workspace) -> int:
    """Two notebooks at a time on a processor with two cores or more; one on an accelerator."""
    return 2 if workspace.device.type == "cpu" and available_cores() > 1 else 1


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
