"""When a notebook need not run again: content hashes, completion markers, the plan of a run."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rctpl_utils.errors import InputError
from rctpl_utils.files import hash_of, read_json, sha256_file, write_json
from rctpl_utils.workspace import PROJECT, Workspace

PACKAGE = Path(__file__).resolve().parents[1]
_TABLES = (".csv", ".csv.gz", ".txt", ".json", ".zip")


@dataclass(frozen=True)
class Marker:
    """What a completed notebook left on record; written last, so its presence means completion."""

    notebook: str
    hash: str  # of all that went into the run (see `plan`)
    seconds: float  # by the clock; other notebooks may have run beside it
    threads: int  # of its kernel
    peak_memory: int  # bytes; of all its processes
    made: tuple[str, ...]  # files written, relative to the output folder, with `/`


@dataclass(frozen=True)
class Step:
    """One notebook of a run: what its completion hash must be, and what is on record."""

    notebook: Path
    hash: str
    marker: Marker | None
    selected: bool
    fresh: bool


def plan(
    workspace: Workspace, notebooks: Sequence[Path], selected: set[Path], force: bool = False
) -> list[Step]:
    """Work out, before anything runs, which notebooks have to.

    A completion hash covers the notebook's source, the package, the pinned environment, the
    inputs, and the completion hashes of all notebooks before it: so a change reaches everything
    behind it. For a notebook that is not selected the hash on record stands in.
    """
    common, before, steps = _common_hash(workspace), [], []
    for notebook in notebooks:
        wanted = hash_of(common, notebook.name, source_hash(notebook), before)
        marker = read_marker(workspace, notebook)
        fresh = marker is not None and marker.hash == wanted and _complete(workspace, marker)
        steps.append(Step(notebook, wanted, marker, notebook in selected, fresh and not force))
        on_record = marker.hash if marker else None
        before.append(wanted if notebook in selected else on_record)
    return steps


def source_hash(notebook: Path) -> str:
    """Hash what a notebook does: its cells' types, sources and tags; not outputs or metadata."""
    try:
        cells = read_json(notebook)["cells"]
        content = [
            (cell["cell_type"], "".join(cell["source"]), cell.get("metadata", {}).get("tags", []))
            for cell in cells
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
    given = [workspace.checkpoint]
    from rctpl_utils.datasets import DATASETS, present_datasets  # pandas takes a second

    # CheXpert's tables lie in a folder of their own, or one deeper
    for pattern in ("*", "*/*", "*/*/*.[cC]*", "chexpert/*/*/*.[cC]*"):
        files = workspace.data_root.glob(pattern)
        given += [path for path in files if path.name.lower().endswith(_TABLES)]
    stamps = [(p, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(set(given))]
    return [*stamps, present_datasets(DATASETS, workspace.data_root)]


def marker_path(workspace: Workspace, notebook: Path) -> Path:
    """Where the completion marker of a notebook lies."""
    return workspace.executed / f"{notebook.stem}.done.json"


def read_marker(workspace: Workspace, notebook: Path) -> Marker | None:
    """Read a notebook's completion marker; None when it never completed here."""
    path = marker_path(workspace, notebook)
    if not path.exists():
        return None
    try:
        record = read_json(path)
        return Marker(**{**record, "made": tuple(record["made"])})
    except (ValueError, KeyError, TypeError):  # of another version: run the notebook again
        return None


def write_marker(workspace: Workspace, notebook: Path, marker: Marker) -> None:
    """Put a completed notebook on record."""
    write_json(marker_path(workspace, notebook), marker)


def _common_hash(workspace: Workspace) -> str:
    return hash_of(
        package_hash(),
        lock_hash(),
        sys.version_info[:2],
        workspace.profile,
        str(workspace.device),
        (workspace.skip_bad, workspace.allow_partial),
        inputs_fingerprint(workspace),
    )


def _complete(workspace: Workspace, marker: Marker) -> bool:
    copy = workspace.executed / f"{marker.notebook}.ipynb"
    return copy.exists() and all((workspace.output / name).exists() for name in marker.made)
