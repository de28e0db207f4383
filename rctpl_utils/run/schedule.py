"""The notebooks: which there are, what each needs, and which have to run.

A notebook's metadata say what must be done before it: `"rctpl": {"needs": ["00_start_here"]}`. One
that is `"alone"` runs when all before it are done, and all after it wait (pre-training is one long
chain of matrix products, and most others need it: it gets all cores). One that says nothing needs
all before it.
"""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rctpl_utils.errors import InputError
from rctpl_utils.files import hash_of, read_json, sha256_file
from rctpl_utils.workspace import PROJECT, Workspace

Needs = Mapping[Path, frozenset[Path]]
PACKAGE = Path(__file__).resolve().parents[1]
_TABLES = (".csv", ".csv.gz", ".txt", ".json", ".zip")


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

    def matching(name: str, option: str) -> list[Path]:
        wanted = name.zfill(2) if name.isdigit() else name.removesuffix(".ipynb")
        numbered = [one for one in notebooks if number_of(one) == wanted]
        found = numbered or [one for one in notebooks if wanted and one.stem.startswith(wanted)]
        if not found:
            known = ", ".join(one.stem for one in notebooks)
            raise InputError(f"{option} {name} matches no notebook", f"There are: {known}.")
        return found

    if first is not None:
        return set(notebooks[notebooks.index(matching(first, "--from")[0]) :])
    return {one for name in only for one in matching(name, "--only")} if only else set(notebooks)


# --- what may run beside what ---


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


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- what is up to date ---


@dataclass(frozen=True)
class Marker:
    """What a completed notebook left on record; written last, so its presence means completion."""

    notebook: str
    hash: str  # of all that went into the run (see `plan`)
    seconds: float  # by the clock; other notebooks may have run beside it
    threads: int  # of its kernel
    peak_memory: int  # bytes; of all its processes
    made: tuple[str, ...]  # files written, relative to the output folder, with `/`


@dataclass
class Step:
    """One notebook of a run: what its completion hash must be, what is on record, how it goes."""

    notebook: Path
    hash: str
    marker: Marker | None
    selected: bool
    fresh: bool
    status: str = "not reached"  # or "up to date", "done", "failed"
    label: str = ""  # what is said of it begins with this
    threads: int = 0  # of its kernel
    place: int = 0  # of its progress bar
    writes: Path | None = None  # where its kernel lists the files that it writes


def plan(
    workspace: Workspace, notebooks: Sequence[Path], selected: set[Path], force: bool = False
) -> list[Step]:
    """Work out, before anything runs, which notebooks have to.

    A completion hash covers the notebook's source, the package, the pinned environment, the
    inputs, and the completion hashes of all notebooks before it: so a change reaches everything
    behind it. For a notebook that is not selected the hash on record stands in.
    """
    common = hash_of(
        package_hash(),
        lock_hash(),
        sys.version_info[:2],
        workspace.profile,
        str(workspace.device),
        (workspace.skip_bad, workspace.allow_partial),
        inputs_fingerprint(workspace),
    )
    before, steps = [], []
    for notebook in notebooks:
        wanted = hash_of(common, notebook.name, source_hash(notebook), before)
        marker = read_marker(marker_path(workspace, notebook))
        fresh = (
            marker is not None
            and marker.hash == wanted
            and (workspace.executed / notebook.name).exists()
            and all((workspace.output / name).exists() for name in marker.made)
        )
        steps.append(Step(notebook, wanted, marker, notebook in selected, fresh and not force))
        before.append(wanted if notebook in selected else marker and marker.hash)
    return steps


def source_hash(notebook: Path) -> str:
    """Hash what a notebook does: its cells' types, sources and tags; not outputs or metadata."""
    try:
        content = [
            (cell["cell_type"], "".join(cell["source"]), cell.get("metadata", {}).get("tags", []))
            for cell in read_json(notebook)["cells"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"not a readable notebook ({error})", "Restore it, with git say.", file=notebook
        ) from error
    return hash_of(content)


def package_hash(package: Path = PACKAGE) -> str:
    """Hash the package: every source and data file with its relative name."""
    files = (
        path
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    )
    return hash_of([(path.relative_to(package), sha256_file(path)) for path in files])


def lock_hash(lock: Path = PROJECT / "requirements.lock") -> str | None:
    """Hash the pinned environment; None where the package is used without its project."""
    return sha256_file(lock) if lock.exists() else None


def inputs_fingerprint(workspace: Workspace) -> list[tuple]:
    """What the user provides: names, sizes and times of the checkpoint and the data's tables.

    Images are not listed: a data set of hundreds of gigabytes is told by its tables. Which data
    sets are there counts too, so that one that arrives later finds no notebook up to date.
    """
    if workspace.profile.world is not None:
        return []
    from rctpl_utils.datasets import DATASETS, present_datasets  # pandas takes a second

    given = {workspace.checkpoint}
    # CheXpert's tables lie in a folder of their own, or one deeper
    for pattern in ("*", "*/*", "*/*/*.[cC]*", "chexpert/*/*/*.[cC]*"):
        files = workspace.data_root.glob(pattern)
        given.update(path for path in files if path.name.lower().endswith(_TABLES))
    stamps = [(p, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(given)]
    return [*stamps, present_datasets(DATASETS, workspace.data_root)]


def marker_path(workspace: Workspace, notebook: Path) -> Path:
    """Where the completion marker of a notebook lies."""
    return workspace.executed / f"{notebook.stem}.done.json"


def read_marker(path: Path) -> Marker | None:
    """A completion marker; None where the notebook never completed, or under another version."""
    try:
        record = read_json(path)
        return Marker(**{**record, "made": tuple(record["made"])})
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
