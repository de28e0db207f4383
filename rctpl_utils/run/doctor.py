"""What is there, what is missing, what can be run: `python -m rctpl_utils doctor --data-root DIR`.

Every data set and the weights: found or not, layout, counts against the official ones, a film
decoded, licence and where to apply; then the machine; then what can be run now. Exit status: 0 all
that the paper's tables need is there in full (or the root is an embedded world, which makes its own
weights), 1 something is missing, partial or unusable.

A check never raises for what it finds, and writes nothing: bad input becomes part of its finding.
"""

import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any, TypeVar

import numpy as np
import psutil
import torch
from tqdm import tqdm

from rctpl_utils.datasets import DATASETS, ChestXrayDataset, open_dataset
from rctpl_utils.datasets.chexpert import PER_CLASS
from rctpl_utils.datasets.official import OFFICIAL, count, read_world
from rctpl_utils.encoders.checkpoint import weights_files
from rctpl_utils.encoders.loading import check_checkpoint
from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.given_files import child
from rctpl_utils.options import command
from rctpl_utils.profiles import PROFILES
from rctpl_utils.run.schedule import find_notebooks, needs_of, number_of
from rctpl_utils.text.concepts.evaluation import RADGRAPH_FILE
from rctpl_utils.text.sections import parse_sections
from rctpl_utils.workspace import NOTEBOOKS, PACKAGE_DATA, choose_device

COMPLETE, SIMULATED, PARTIAL = "complete", "simulated", "partial"
ABSENT, UNUSABLE = "absent", "unusable"
WHOLE = (COMPLETE, SIMULATED)  # nothing is missing for its part of the results
SHOWN = 6  # names of a folder's entries
WIDTH = 100
PROFILES_READING = tuple(name for name, each in PROFILES.items() if each.world is None)
TEXTS = "mimic-cxr"  # whose reports the prompts are learned from: all notebooks read it
ENCODER = "03"  # the notebook that opens the weights
# notebooks, what they make, the data set that they read besides
RUNS: list[tuple[str, str, str | None]] = read_json(PACKAGE_DATA / "what_runs.json")["runs"]

Facts = tuple[tuple[str, str], ...]  # (label, text) to print
Found = TypeVar("Found")


@dataclass(frozen=True)
class Finding:
    """What is known of a data set or of weights."""

    name: str  # as the data set's folder is called, or "checkpoint"
    title: str
    state: str  # one of the five words above
    facts: Facts = ()
    usable: tuple[str, ...] = ()  # names in `DATASETS` of which every split opens, in part maybe


def check_dataset(name: str, data_root: Path) -> Finding:
    """A data set of `OFFICIAL`: tables counted, splits opened, one film and one mask decoded."""
    official, root = OFFICIAL[name], data_root / name
    terms = (("licence", official.licence), ("apply", official.apply))
    if not root.is_dir():
        expected = ("expected", "; ".join(official.tree))
        return Finding(name, official.title, ABSENT, (expected, *terms))
    problems: list[str] = []
    world = attempt(problems, read_world, data_root)
    wanted = official.counts if world is None else {}
    layout = attempt(problems, _layout, root)
    found = attempt(problems, count, name, root)
    size = world["size"]["chexpert_5x200"] if world else PER_CLASS
    films, usable, drawn = _open_splits(name, data_root, size, problems)
    sample = drawn and attempt(problems, _sample, drawn)
    facts = {
        "layout": layout,
        "tables": ", ".join(
            f"{key} {number:,}" + (f" of {wanted[key]:,}" if key in wanted else "")
            for key, number in (found or {}).items()
        ),
        "opened": ", ".join(f"{split} {number:,}" for split, number in films.items()),
        "sample": sample,
    }
    if name == TEXTS:
        there = child(root, RADGRAPH_FILE).is_file()
        rules = f"by our own rules: no {RADGRAPH_FILE} (optional)"
        facts["report"] = attempt(problems, _report, root)
        facts["triplets"] = f"from {RADGRAPH_FILE}" if there else rules
        if not sample and found and facts["report"]:  # prompts need no film
            usable.append(name)
    state = COMPLETE if world is None else SIMULATED
    if not sample and name not in usable:
        state = UNUSABLE
    elif problems or (world is None and found != official.counts):
        state = PARTIAL
    lines = [(label, text) for label, text in facts.items() if text]
    lines += [("problem", problem) for problem in dict.fromkeys(problems)]
    lines += () if state == SIMULATED else terms
    return Finding(name, official.title, state, tuple(lines), tuple(usable))


def attempt(problems: list[str], work: Callable[..., Found], *arguments: Any) -> Found | None:
    """What `work(*arguments)` gives; None, and its problem noted, where it met bad input."""
    try:
        return work(*arguments)
    except (InputError, OSError) as error:
        problems.append(str(error))
        return None


def _open_splits(
    folder: str, data_root: Path, per_class: int, problems: list[str]
) -> tuple[dict[str, int], list[str], ChestXrayDataset | None]:
    """Open every split of one folder, in part where it is not whole.

    Returns images by name and split; the names of which every split opens; a set to look into.
    """
    films, usable, sample = {}, [], None
    options = {"per_class": per_class} if folder == "chexpert" else {}
    for name, (place, splits, *_) in DATASETS.items():
        if place != folder:
            continue
        sets = []
        for split in splits:
            work = partial(open_dataset, name, data_root, split, **options)
            found = attempt(problems, work)
            if found is None:
                found = attempt(problems, partial(work, allow_partial=True))
            if found is not None:
                films[f"{name} {split}"] = len(found)
                sets.append(found)
        if len(sets) == len(splits):
            usable.append(name)
        sample = sample or next(reversed(sets), None)
    return films, usable, sample


def _layout(root: Path) -> str:
    names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" * (len(names) > SHOWN))


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


def check_weights(path: Path | None, profile: str = "paper") -> Finding:
    """The frozen encoder of a profile: all of loading it except building the model.

    A file, a folder or an archive, as `encoders.checkpoint` reads it.
    """
    kind = PROFILES[profile].encoder
    title = f"{kind} (Wang et al., EMNLP 2022), with BioClinicalBERT's vocabulary beside it"
    where = "https://github.com/RyanWangZf/MedCLIP (`MedCLIPModel.from_pretrained` fetches it)"
    terms = (("licence", "the repositories' terms; not verified"), ("get", where))
    if path is None:
        return Finding("checkpoint", title, ABSENT, (("give", "--checkpoint FILE"), *terms))
    problems: list[str] = []
    files = attempt(problems, weights_files, path)
    attempt(problems, check_checkpoint, kind, path)
    if files is None or problems:
        return Finding("checkpoint", title, UNUSABLE, (("problem", problems[0]), *terms))
    file = files[0]
    fact = ("file", f"{file.name}, {file.stat().st_size / 1e6:,.0f} MB, every name and shape fits")
    return Finding("checkpoint", title, COMPLETE, (fact, *terms), ("checkpoint",))


def machine(data_root: Path) -> Facts:
    """Python, torch, the device, memory and disk, as (label, text) pairs."""
    device = choose_device()
    shown = str(device)
    if device.type == "cuda":
        cards = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
        shown += ": " + ", ".join(f"{c.name} ({c.total_memory / 1e9:.0f} GB)" for c in cards)
    memory = psutil.virtual_memory()
    place = next(folder for folder in (data_root, *data_root.parents) if folder.exists())
    return (
        ("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("device", shown),
        ("memory", f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"),
        ("disk", f"{shutil.disk_usage(place).free / 1e9:,.0f} GB free at {place}"),
    )


@dataclass(frozen=True)
class Diagnosis:
    """All findings: one a data set, one of the weights, the machine as (label, text) pairs."""

    datasets: tuple[Finding, ...]
    checkpoint: Finding
    machine: Facts

    @property
    def sound(self) -> bool:
        """Whether nothing that `RUNS` needs is missing."""
        needed = {DATASETS[name][0] for *_, name in RUNS if name} | {TEXTS}
        whole = all(each.state in WHOLE for each in self.datasets if each.name in needed)
        return whole and self.has_weights

    @property
    def has_weights(self) -> bool:
        """Whether there are weights: a checkpoint, or an embedded world, which makes its own."""
        simulated = any(each.state == SIMULATED for each in self.datasets)
        return simulated or self.checkpoint.state == COMPLETE

    def runnable(self) -> list[tuple[str, str, str]]:
        """(notebook, what it makes, yes or why not) for each line of `RUNS`."""
        states = {name: f.state for f in self.datasets for name in f.usable}
        needs = needs_of(find_notebooks(NOTEBOOKS)).items()
        encoding = {
            number_of(one) for one, all_ in needs if ENCODER in map(number_of, (one, *all_))
        }
        lines = []
        for notebooks, makes, other in RUNS:
            names = [TEXTS, other] if other else [TEXTS]
            missing = [name for name in names if name not in states]
            if encoding & set(notebooks.split(", ")) and not self.has_weights:
                missing.append("checkpoint")
            in_part = [name for name in names if states.get(name) == PARTIAL]
            verdict = f"not run: needs {', '.join(missing)}" if missing else "yes"
            if in_part and not missing:
                verdict = f"on a part of {', '.join(in_part)} (--allow-partial)"
            lines.append((notebooks, makes, verdict))
        return lines

    def __str__(self) -> str:
        """The table that the command prints."""
        blocks = []
        for each in (*self.datasets, self.checkpoint):
            sign = "not found" if each.state == ABSENT else each.state
            blocks.append([f"{each.name:<14}{each.title}: {sign}", *_wrapped(each.facts)])
        runs = [f"  {nb:<7}{makes:<36}{verdict}" for nb, makes, verdict in self.runnable()]
        blocks += [["machine", *_wrapped(self.machine)], ["what can be run now", *runs]]
        return "\n\n".join(map("\n".join, blocks))


def _wrapped(facts: Facts) -> list[str]:
    return [
        line
        for label, text in facts
        for line in wrap(
            text, WIDTH, initial_indent=f"  {label:<12}", subsequent_indent=" " * 14,
            break_long_words=False, break_on_hyphens=False,
        )
    ]  # fmt: skip


def examine(
    data_root: str | Path, checkpoint: str | Path | None = None, profile: str = PROFILES_READING[0]
) -> Diagnosis:
    """Check everything for a profile; reads all tables, lists all images, and decodes a few.

    Both the data root, which holds the data sets' folders, and MedCLIP's weights may be absent.
    """
    root = Path(data_root).expanduser().resolve()
    names = tqdm(OFFICIAL, desc="data sets", leave=False)
    findings = tuple(check_dataset(name, root) for name in names)
    weights = None if checkpoint is None else Path(checkpoint).expanduser()
    return Diagnosis(findings, check_weights(weights, profile), machine(root))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the diagnosis; return the exit status."""
    parser = command("doctor", __doc__.split("\n\n")[1])
    parser.add_argument("--data-root", required=True, metavar="DIR", help="the data sets' folder")
    parser.add_argument("--checkpoint", metavar="FILE", help="MedCLIP's weights")
    parser.add_argument(
        "--profile",
        choices=PROFILES_READING,
        default=PROFILES_READING[0],
        help="which encoder the weights are to be of: ResNet-50 (default) or Swin",
    )
    options = parser.parse_args(arguments)
    diagnosis = examine(options.data_root, options.checkpoint, options.profile)
    print(diagnosis)
    return 0 if diagnosis.sound else 1
