"""Where one number of a table comes from: `python -m rctpl_utils trace table1 "RC-TPL" rsna auc`.

Says which file and row hold it, which cell and functions made it, what each seed gave, how many
films and patients stand behind it, its resamples, and the weights, prompts and data that went in,
each with its SHA-256. An ablation is named by its level: `ablations "M=4" chexpert auc`.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from inspect import getsourcefile, getsourcelines
from pathlib import Path

import numpy as np
import pandas as pd

from rctpl_utils.datasets.questions import QUESTIONS
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.grounding import GROUNDING_DATASETS
from rctpl_utils.evaluation.results import load_draws
from rctpl_utils.files import read_json, sha256_file
from rctpl_utils.options import add_run_options, command
from rctpl_utils.prompts.encode import run_command
from rctpl_utils.run.schedule import find_notebooks, number_of
from rctpl_utils.workspace import NOTEBOOKS, PROJECT, Workspace

Lines = list[tuple[str, str]]  # what is told, and its text
TABLES = {  # `module:function` that measures and that writes; the file of draws
    "table1": ("table1:classify", "tables:save_table1", "table1"),
    **dict.fromkeys(
        ("table2", "table3", "table4"),
        ("grounding:ground", "tables:save_grounding_tables", "grounding"),
    ),
    "table5": ("retrieval:retrieve", "tables:save_table5", "retrieval"),
    "ablations": ("ablations:score_trials", "ablation_report:save_ablations", "ablations"),
}
SAME = 2e-6  # tables have six decimals


def trace(workspace: Workspace, table: str, method: str, dataset: str, metric: str) -> Lines:
    """Where a number comes from, as (what, text) pairs in the order of reading.

    The method is the row's name, of an ablation its level. A table (of `TABLES`) or number that is
    not there is an `InputError` with the nearest names.
    """
    if table not in TABLES:
        raise InputError(f"no table is called {table!r}", _nearest(table, TABLES))
    path, output = workspace.figures / f"{table}.csv", workspace.output
    if not path.is_file():
        raise InputError("the table is not there", "Run ./run_all.sh first.", file=path)
    measures, writes, draws = TABLES[table]
    rows = pd.read_csv(path).rename(columns={"level": "method"})
    place = _find(rows, table, {"method": method, "dataset": dataset, "metric": metric})
    row = rows.loc[place]
    number = f"{row['value']:.6f} [{row['ci_low']:.6f}, {row['ci_high']:.6f}]"
    notebook, cell = _cell(writes)
    profile = workspace.profile.name
    start = "./run_all.sh" + f" --profile {profile}" * (profile != "embedded")
    start += f" --output {output}" * (output != PROJECT)
    only = f"{start} --only {number_of(notebook)} --force"
    return [
        ("number", f"{method}, {dataset}, {metric}: {number}, 95 % interval"),
        ("file", _hashed(path, output)),
        ("", _recorded(workspace, path)),
        ("row", f"{place + 1} of {len(rows)}"),
        ("notebook", f"notebooks/{notebook.name}, cell {cell} (from 0)"),
        ("measured", _function(f"evaluation.{measures}")),
        ("written", _function(f"reporting.{writes}")),
        *_resamples(workspace, draws, (dataset, method, metric), row["value"]),
        ("films", _films(workspace, table, row)),
        *_inputs(workspace, table, method),
        ("again", f"{start} (all that is not up to date), {only} (its notebook)"),
    ]


def _find(rows: pd.DataFrame, table: str, wanted: dict[str, str]) -> int:
    """The place of the one row with these names, from 0."""
    for column, name in wanted.items():
        known = list(dict.fromkeys(rows[column].dropna()))
        if name not in known:
            raise InputError(f"{table} has no {column} {name!r}", _nearest(name, known))
    for column, name in reversed(wanted.items()):  # the last to go is the method
        rest = rows[rows[column] == name]
        if rest.empty:
            others = ", ".join(other for key, other in wanted.items() if key != column)
            problem = f"{table} has no {column} {name!r} for {others}"
            raise InputError(problem, _nearest(name, dict.fromkeys(rows[column])))
        rows = rest
    if pd.isna(rows["value"].iloc[0]):
        raise InputError(
            f"{', '.join(wanted.values())} was not run: {table} has only the paper's number",
            "Choose a row with a value of this run's.",
        )
    return int(rows.index[0])


def _nearest(name: str, known: Sequence[str]) -> str:
    """A sentence with the names that resemble one most; all of them where they are few."""
    by_lower = {each.lower(): each for each in known}
    near = [by_lower[each] for each in get_close_matches(name.lower(), by_lower, n=4, cutoff=0.4)]
    if not near or len(by_lower) <= 8:
        return f"There are: {', '.join(map(repr, by_lower.values()))}."
    return f"The nearest: {', '.join(map(repr, near))}."


def _recorded(workspace: Workspace, path: Path) -> str:
    """Whether the run's manifest knows this very file."""
    manifest = path.with_name("manifest.json")
    if not manifest.is_file():
        return "no manifest.json beside it: the run that made it did not end"
    same = read_json(manifest)["files"].get(path.name) == sha256_file(path)
    return f"{'as' if same else 'NOT as'} {manifest.relative_to(workspace.output)} has it"


def _cell(writes: str) -> tuple[Path, int]:
    """The notebook's cell that calls the function which writes the table."""
    call = f"{writes.split(':')[1]}("
    return next(
        (notebook, k)
        for notebook in find_notebooks(NOTEBOOKS)
        for k, cell in enumerate(read_json(notebook)["cells"])
        if cell["cell_type"] == "code" and call in "".join(cell["source"])
    )


def _function(name: str) -> str:
    """`rctpl_utils/evaluation/table1.py:58 classify`."""
    module, function = name.split(":")
    found = getattr(import_module(f"rctpl_utils.{module}"), function)
    path = Path(getsourcefile(found)).relative_to(PROJECT).as_posix()
    return f"{path}:{getsourcelines(found)[1]} {function}"


def _resamples(workspace: Workspace, name: str, key: tuple[str, str, str], value: float) -> Lines:
    """Each seed's value and the spread of the resamples."""
    path = workspace.results / f"{name}_draws.parquet"
    if not path.is_file():
        return [("seeds", f"{_hashed(path, workspace.output)}; run it again to see them")]
    draws = load_draws(workspace.results, name)
    if key not in draws:
        return [("seeds", "no resamples: it is a constant")]
    series = np.atleast_2d(np.stack(list(draws[key])))  # (K, 1 + R)
    values, seeds = series[:, 0], workspace.profile.seeds
    told = f"{len(values)} series, {values.min():.6f} to {values.max():.6f}"
    if len(values) == len(seeds):  # a floor has many draws a seed
        told = ", ".join(f"{seed}: {one:.6f}" for seed, one in zip(seeds, values, strict=True))
    drawn = series[:, 1:].mean(axis=0)
    drawn = drawn[np.isfinite(drawn)]
    spread = f"{len(drawn)} of patients, mean {drawn.mean():.6f}, deviation {drawn.std():.6f}"
    lines = [("seeds", told), ("resamples", f"{spread}, in {_hashed(path, workspace.output)}")]
    if not abs(values.mean() - value) <= SAME:
        lines.append(("", "NOT of the run that made the table: their values differ"))
    return lines


def _films(workspace: Workspace, table: str, row: pd.Series) -> str:
    """How many films (or queries) and patients stand behind a row."""
    if row["metric"].startswith("text_to_image"):
        return f"none: {row['n']:.0f} sentences ask; resampled by their reports' patients"
    told = f"{row['n']:.0f} films of the test split" if "n" in row else "the test split"
    try:
        asked = QUESTIONS.get(row["dataset"])  # a column of Table 1 names its data set
        opened = open_split(workspace, asked.dataset if asked else row["dataset"], "test")
    except InputError:
        return f"{told}; the data are not on this machine, so patients cannot be counted"
    patients = opened.records["patient_id"]
    if table != "table1" and row["dataset"] in GROUNDING_DATASETS:
        concept, _ = GROUNDING_DATASETS[row["dataset"]]
        patients = patients[opened.annotated(concept)]
        told = f"{told} with a drawn lesion"
    return f"{told}: {len(patients)} films of {patients.nunique()} patients here"


def _inputs(workspace: Workspace, table: str, method: str) -> Lines:
    """Weights, prompts and data with their hashes; what is not on this machine is named."""
    seeds = workspace.profile.seeds
    encoders = [workspace.checkpoint or workspace.encoder(seed) for seed in seeds]
    lines = [("encoder", _hashed(path, workspace.output)) for path in dict.fromkeys(encoders)]
    folders = dict.fromkeys([workspace.prompts, *(path.parent for path in encoders)])
    for stem in _stems(table, method):
        found = [f / f"{stem}-{seed}.safetensors" for f in folders for seed in seeds]
        lines += [("learned", _hashed(each, workspace.output)) for each in found if each.is_file()]
    return [*lines, ("world", _hashed(workspace.data_root / "manifest.json", workspace.output))]


def _stems(table: str, method: str) -> list[str]:
    """The names, without seeds, of the files of what a row's method has learned."""
    if table == "ablations":  # what an arm does not train comes from the reference
        return list(dict.fromkeys([_slug(f"ablation-{method}"), "ablation-m-12"]))
    name, _, shots = re.match(r"([^,(]+?)(, (\d+) labels?| \(|,|$)", method).groups()
    stem = _slug(name.replace("+", " plus").replace("supervised ", ""))
    return [f"{stem}-{shots}" if shots else stem]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _hashed(path: Path, output: Path) -> str:
    """A file's name and SHA-256, relative to the output or the project where it lies below."""
    names = [path.relative_to(each).as_posix() for each in (output, PROJECT)
             if path.is_relative_to(each)]  # fmt: skip
    name = names[0] if names else str(path)
    return f"{name}, sha256 {sha256_file(path)}" if path.is_file() else f"{name}, not here"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, or 2 for bad input."""
    parser = command("trace", __doc__)
    parser.add_argument("table", help=f"of {', '.join(TABLES)}")
    parser.add_argument("method", help='the row, such as "RC-TPL"; of ablations the level')
    parser.add_argument("dataset", help="such as chestxray14")
    parser.add_argument("metric", help="such as auc")
    add_run_options(parser)
    options = parser.parse_args(arguments)
    asked = options.table, options.method, options.dataset, options.metric
    return run_command(
        options,
        lambda workspace: [f"{what:10}{text}" for what, text in trace(workspace, *asked)],
    )
