"""The notebooks: which there are, which are meant, what each needs, and what may run together.

A notebook's metadata say what must be done before it: `"rctpl": {"needs": ["00_start_here"]}`. One
that is `"alone"` runs when all before it are done, and all after it wait (pre-training is one long
chain of matrix products, and most others need it: it gets all cores). One that says nothing needs
all before it.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.workspace import Workspace

Needs = Mapping[Path, frozenset[Path]]


def find_notebooks(folder: Path) -> list[Path]:
    """Return the numbered notebooks of `folder`, in order: 04, then 04b, then 05."""
    found = sorted(folder.glob("[0-9][0-9]*_*.ipynb"))
    if not found:
        raise InputError("no notebooks found", "Check out the project again.", file=folder)
    return found


def number_of(notebook: Path) -> str:
    """04 or 04b."""
    return notebook.stem.split("_")[0]


def select(
    notebooks: Sequence[Path], only: Iterable[str] | None = None, first: str | None = None
) -> set[Path]:
    """Choose notebooks by number (04, 04b) or by the beginning of their names; all by default."""
    if first is not None:
        return set(notebooks[notebooks.index(_matching(notebooks, first, "--from")[0]) :])
    if only:
        return {one for name in only for one in _matching(notebooks, name, "--only")}
    return set(notebooks)


def _matching(notebooks: Sequence[Path], name: str, option: str) -> list[Path]:
    wanted = name.zfill(2) if name.isdigit() else name.removesuffix(".ipynb")
    numbered = [one for one in notebooks if number_of(one) == wanted]
    matching = numbered or [one for one in notebooks if wanted and one.stem.startswith(wanted)]
    if not matching:
        known = ", ".join(one.stem for one in notebooks)
        raise InputError(f"{option} {name} matches no notebook", f"There are: {known}.")
    return matching


def needs_of(notebooks: Sequence[Path]) -> Needs:
    """What each of all notebooks, in order, waits for, directly and by way of others."""
    found: dict[Path, frozenset[Path]] = {}
    alone: set[Path] = set()
    for notebook in notebooks:
        before = {one.stem: one for one in found}
        own = read_json(notebook)["metadata"].get("rctpl", {})
        stated = own.get("needs", before)
        if unknown := [name for name in stated if name not in before]:
            raise InputError(
                f"it says that it needs {', '.join(unknown)}, which do not come before it",
                'Mend "needs" in its metadata, under "rctpl".',
                file=notebook,
            )
        direct = {before[name] for name in stated} | alone
        if own.get("alone"):
            direct = set(found)
            alone.add(notebook)
        found[notebook] = frozenset(direct).union(*(found[one] for one in direct))
    return found


def threads_for(notebook: Path, needs: Needs, jobs: int) -> int:
    """All cores for a notebook that never has company, else an equal share.

    It is the same whatever else happens to run, so that a run's numbers do not depend on timing.
    """
    company = any(
        one != notebook and one not in needs[notebook] and notebook not in needs[one]
        for one in needs
    )
    return max(available_cores() // jobs, 1) if company else available_cores()


def default_jobs(workspace: Workspace) -> int:
    """Two notebooks at a time on a processor with two cores or more; one on an accelerator."""
    return 2 if workspace.device.type == "cpu" and available_cores() > 1 else 1


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
