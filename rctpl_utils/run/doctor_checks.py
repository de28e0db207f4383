"""What the doctor looks at in each data set; `doctor_setup` has the rest. Nothing is written.

A check never raises for what it finds: bad input becomes part of its finding.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rctpl_utils.datasets import DATASETS, ChestXrayDataset, open_dataset
from rctpl_utils.datasets.chexpert import PER_CLASS
from rctpl_utils.datasets.counts import count, read_world
from rctpl_utils.datasets.official import OFFICIAL
from rctpl_utils.errors import InputError
from rctpl_utils.given_files import child
from rctpl_utils.text.concepts.summary import RADGRAPH_FILE
from rctpl_utils.text.sections import parse_sections

COMPLETE, SIMULATED, PARTIAL = "complete", "simulated", "partial"
ABSENT, UNUSABLE = "absent", "unusable"
SHOWN = 6  # names of a folder's entries
Found = TypeVar("Found")


@dataclass(frozen=True)
class Finding:
    """What is known of a data set or of weights.

    Attributes:
        name: as the data set's folder is called, or "checkpoint".
        title: its full name.
        state: one of the five words above.
        facts: (label, text) pairs to print.
        usable: names in `DATASETS` of which every split opens, at least in part.
    """

    name: str
    title: str
    state: str
    facts: tuple[tuple[str, str], ...] = ()
    usable: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing is missing for its part of the results."""
        return self.state in (COMPLETE, SIMULATED)


@dataclass
class _Opened:
    """What opening the splits of one folder gave."""

    films: dict[str, int] = field(default_factory=dict)  # "name split" -> images
    usable: list[str] = field(default_factory=list)
    sample: ChestXrayDataset | None = None


def check_dataset(name: str, data_root: Path) -> Finding:
    """One data set: its tables counted, every split opened, one film and one mask decoded.

    Args:
        name: a key of `OFFICIAL`.
        data_root: the folder that holds the data sets' folders.
    """
    official, root = OFFICIAL[name], data_root / name
    terms = (("licence", official.licence), ("apply", official.apply))
    if not root.is_dir():
        expected = ("expected", "; ".join(official.tree))
        return Finding(name, official.title, ABSENT, (expected, *terms))
    problems: list[str] = []
    world = attempt(problems, read_world, data_root)
    simulated = world is not None
    layout = attempt(problems, _layout, root)
    found = attempt(problems, count, name, root)
    size = world["size"]["chexpert_5x200"] if world else PER_CLASS
    opened = _open_splits(name, data_root, size, problems)
    sample = opened.sample and attempt(problems, _sample, opened.sample)
    facts = {
        "layout": layout,
        "tables": found and _compare(found, {} if simulated else official.counts),
        "opened": ", ".join(f"{split} {films:,}" for split, films in opened.films.items()),
        "sample": sample,
    }
    if name == "mimic-cxr":
        facts |= {"report": attempt(problems, _report, root), "triplets": _graphs(root)}
        if not sample and found and facts["report"]:  # prompts need no film
            opened.usable.append(name)
    if not sample and name not in opened.usable:
        state = UNUSABLE
    elif problems or (not simulated and found != official.counts):
        state = PARTIAL
    else:
        state = SIMULATED if simulated else COMPLETE
    lines = [(label, text) for label, text in facts.items() if text]
    lines += [("problem", problem) for problem in dict.fromkeys(problems)]
    lines += () if state == SIMULATED else terms
    return Finding(name, official.title, state, tuple(lines), tuple(opened.usable))


def attempt(problems: list[str], work: Callable[..., Found], *arguments: Any) -> Found | None:
    """What `work(*arguments)` gives; None, and its problem noted, where it met bad input."""
    try:
        return work(*arguments)
    except (InputError, OSError) as error:
        problems.append(str(error))
        return None


def _names(folder: str) -> list[str]:
    """The names in `DATASETS` that read one folder."""
    return [name for name, (place, *_) in DATASETS.items() if place == folder]


def _open_splits(folder: str, data_root: Path, per_class: int, problems: list[str]) -> _Opened:
    """Every split, in part where it is not whole."""
    opened = _Opened()
    options = {"per_class": per_class} if folder == "chexpert" else {}
    for name in _names(folder):
        sets = []
        for split in DATASETS[name][1]:
            work = partial(open_dataset, name, data_root, split, **options)
            found = attempt(problems, work)
            if found is None:
                found = attempt(problems, partial(work, allow_partial=True))
            if found is not None:
                opened.films[f"{name} {split}"] = len(found)
                sets.append(found)
        if len(sets) == len(DATASETS[name][1]):
            opened.usable.append(name)
        opened.sample = opened.sample or next(reversed(sets), None)
    return opened


def _layout(root: Path) -> str:
    names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" * (len(names) > SHOWN))


def _compare(found: dict[str, int], official: dict[str, int]) -> str:
    return ", ".join(
        f"{key} {number:,}" + (f" of {official[key]:,}" if key in official else "")
        for key, number in found.items()
    )


def _sample(dataset: ChestXrayDataset) -> str:
    """The first film, or the first with a lesion drawn, decoded with its mask."""
    drawn = {concept: np.flatnonzero(dataset.annotated(concept)) for concept in dataset.concepts}
    concept = next((concept for concept, rows in drawn.items() if len(rows)), None)
    row = 0 if concept is None else int(drawn[concept][0])
    pixels = dataset.pixels(row)
    shown = f"{Path(dataset.records['path'].iloc[row]).name}: "
    shown += f"{pixels.shape[1]} x {pixels.shape[0]} pixels"
    if concept is not None:
        shown += f", {concept} on {dataset.mask(row, concept).mean():.1%}"
    return shown


def _report(root: Path) -> str:
    path = next(root.glob("files/p*/p*/s*.txt"), None)
    if path is None:
        raise InputError("no report", "Unpack mimic-cxr-reports.zip there.", file=root / "files")
    try:
        findings, impression = parse_sections(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError("not a text file", "Fetch the report again.", file=path) from error
    return f"{path.name}: {len(findings.split())} words of findings, {len(impression.split())} of "\
        "impression"  # fmt: skip


def _graphs(root: Path) -> str:
    there = child(root, RADGRAPH_FILE).is_file()
    return f"from {RADGRAPH_FILE}" if there else f"by our own rules: no {RADGRAPH_FILE} (optional)"
