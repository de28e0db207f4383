"""Tidy result rows, the tables made from them (CSV, Markdown, LaTeX), and the draws behind them.

Draws are kept so that claims are tested on the very resamples behind the tables. A series belongs
to (dataset, method, metric): for each of K runs (seeds) the value in the sample, then one a
resample. All methods and runs meet the same resampled patients, run k of each stands on encoder k:
differences are paired. A method with one run meets every run of another.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from rctpl_utils.datasets.questions import QUESTIONS
from rctpl_utils.errors import InputError
from rctpl_utils.files import atomic_path, write_text
from rctpl_utils.workspace import PACKAGE_DATA, Workspace

COLUMNS = (
    "dataset", "method", "metric", "value", "ci_low", "ci_high", "seeds", "n", "native", "reported",
)  # fmt: skip
BASELINES = (
    "ConVIRT", "GLoRIA", "MedCLIP-ViT", "BioViL", "CheXzero", "MedKLIP", "MedPrompt-ViT", "MeDSLIP",
)  # fmt: skip
NOT_RUN = "not run"
Key = tuple[str, str, str]  # dataset, method, metric
Draws = dict[Key, np.ndarray]  # (K, 1 + R) each
FLOORS_NOTE = "Floors: mean and the range of 95 % of at least 200 random draws."


def stacked(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Rows of several data sets below each other; of none, an empty table of results."""
    parts = list(parts) or [pd.DataFrame(columns=list(COLUMNS[:-1]))]
    return pd.concat(parts, ignore_index=True)


def data_note(workspace: Workspace) -> str:
    """One sentence that says what the images of this run are."""
    if workspace.profile.simulated:
        return f"Simulated radiographs, stand-in encoder, profile {workspace.profile.name}."
    return f"Real radiographs, {workspace.profile.encoder}."


def intervals_note(workspace: Workspace) -> str:
    """One sentence that says what the intervals hold (see `metrics.interval`)."""
    rule = "95 % intervals: t on seed means combined with the variance over resampled patients"
    whose = "seed k has its own" if workspace.profile.simulated else "all seeds share the"
    return f"{rule}; {whose} encoder."


def table_note(workspace: Workspace) -> str:
    """`data_note`, the rule of the intervals, and what baselines that this run trained are."""
    miniatures = (
        " The baselines' rows are miniatures, trained on the stand-in's frozen lower layers under "
        "one budget (notebook 04b)."
    )
    note = f"{data_note(workspace)} {intervals_note(workspace)}"
    return note if workspace.profile.baselines is None else note + miniatures


def write_csv(path: str | Path, rows: pd.DataFrame) -> Path:
    """Write rows atomically; six decimals, `\\n` line ends: equal results give equal bytes."""
    with atomic_path(path) as temporary:
        rows.to_csv(temporary, index=False, float_format="%.6f", lineterminator="\n")
    return Path(path)


def save_draws(folder: Path, name: str, draws: Mapping[Key, np.ndarray]) -> Path:
    """Write `folder/<name>_draws.parquet`, one row a series."""
    rows = [
        (*key, np.atleast_2d(np.asarray(series, np.float64)).tolist())
        for key, series in draws.items()
    ]
    path = folder / f"{name}_draws.parquet"
    with atomic_path(path) as temporary:
        frame = pd.DataFrame(rows, columns=["dataset", "method", "metric", "draws"])
        frame.to_parquet(temporary, index=False)
    return path


def load_draws(folder: Path, name: str) -> Draws:
    """Read what `save_draws` wrote; InputError: the notebook that makes the file has not run."""
    path = folder / f"{name}_draws.parquet"
    if not path.exists():
        raise InputError("no results there", "Run the notebooks before this one first.", file=path)
    rows = pd.read_parquet(path).itertuples(index=False)
    return {(row.dataset, row.method, row.metric): np.stack(row.draws) for row in rows}


def reported_table1() -> pd.DataFrame:
    """The paper's Table 1: dataset, method, metric, reported; its ACC is MedKLIP's `acc_oracle`."""
    rows = _reported("table1_zero_shot_classification")
    cell = rows.pop("metric").str.rsplit("_", n=1, expand=True)
    rows = rows.assign(dataset=cell[0], metric=cell[1].replace({"acc": "acc_oracle"}))
    covid = rows["dataset"] == "covid"  # the paper's one column stands beside each of our two
    ours = [rows[covid].assign(dataset=name) for name in QUESTIONS if name.startswith("covidx")]
    return pd.concat([rows[~covid], *ours], ignore_index=True)


def reported_grounding() -> pd.DataFrame:
    """Its Tables 2 to 4; recall and precision are detection's ("region"), Dice the maximal one."""
    metrics = {"recall": "region_recall", "precision": "region_precision", "dice": "dice_oracle"}
    parts = [
        _reported(f"table{number}_grounding_{name.replace('-', '_')}").assign(dataset=name)
        for number, name in enumerate(("rsna", "siim", "covid-rural"), start=2)
    ]
    return pd.concat(parts, ignore_index=True).replace({"metric": metrics})


def reported_retrieval() -> pd.DataFrame:
    """Its Table 5."""
    rows = _reported("table5_retrieval_chexpert5x200").assign(dataset="chexpert5x200")
    rows["metric"] = rows["metric"].str.replace("p_at_", "precision_at_")
    return rows


def _reported(name: str) -> pd.DataFrame:
    wide = pd.read_csv(PACKAGE_DATA / "reported" / f"{name}.csv")
    return wide.melt("method", var_name="metric", value_name="reported")


def with_absent(rows: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Add empty rows of the absent `names`, as many as one data set that is there has."""
    kinds = rows[["method", "metric", *({"native"} & set(rows.columns))]].drop_duplicates()
    parts = [rows, *(kinds.assign(dataset=name) for name in names)]
    return pd.concat(parts, ignore_index=True) if len(parts) > 1 else rows


def with_reported(rows: pd.DataFrame, reported: pd.DataFrame) -> pd.DataFrame:
    """Put the paper's numbers, on real data with real weights, beside ours; what we did not run
    stays.
    """
    joined = rows.merge(reported, on=["dataset", "method", "metric"], how="outer", sort=False)
    order = {name: k for k, name in enumerate(dict.fromkeys([*BASELINES, *rows["method"]]))}
    metrics = {name: k for k, name in enumerate(dict.fromkeys(rows["metric"]))}
    joined = joined.assign(
        _order=joined["method"].map(order).fillna(len(order)), _metric=joined["metric"].map(metrics)
    )
    joined = joined.sort_values(["dataset", "_order", "_metric"], kind="stable")
    return joined.reindex(columns=COLUMNS).reset_index(drop=True)


def wide_table(rows: pd.DataFrame, reasons: Mapping[str, str] | None = None) -> pd.DataFrame:
    """One line a method: for each (dataset, metric) ours with its interval, then the reported one,
    of `with_reported`'s rows; `reasons` by method stand in empty cells instead of "not run".
    """
    cells = [
        f"{row.value:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]"
        if pd.notna(row.value)
        else (reasons or {}).get(row.method, NOT_RUN)
        for row in rows.itertuples()
    ]
    ours = rows.assign(cell=cells)
    known = rows[rows["reported"].notna()]
    paper = known.assign(
        metric=known["metric"] + " reported", cell=known["reported"].map("{:.4f}".format)
    )
    both = pd.concat([ours, paper])
    wide = both.pivot(index="method", columns=["dataset", "metric"], values="cell")
    asked = rows[["dataset", "metric"]].drop_duplicates().itertuples(index=False, name=None)
    columns = [
        (dataset, name) for dataset, metric in asked for name in (metric, f"{metric} reported")
    ]
    wide = wide.reindex(list(dict.fromkeys(rows["method"])))
    return wide.reindex(columns=[c for c in columns if c in wide.columns]).fillna("")


def write_table(stem: Path, wide: pd.DataFrame, caption: str) -> list[Path]:
    """Write `stem.md` and `stem.tex` with a caption that says what the numbers are."""
    heads = [" ".join(filter(None, map(str, column))) for column in wide.columns]
    rows = [list(map(str, row)) for row in wide.itertuples()]
    head, *body = (f"| {' | '.join(cells)} |" for cells in [["method", *heads], *rows])
    markdown = [f"**{caption}**", "", head, "|---" * (1 + len(heads)) + "|", *body, ""]
    head, *body = (" & ".join(map(_escape, row)) + " \\\\" for row in [["Method", *heads], *rows])
    tex = [
        "\\begin{table}",
        f"\\caption{{{_escape(caption)}}}",
        "\\begin{tabular}{l" + "c" * len(heads) + "}",
        "\\hline",
        head,
        "\\hline",
        *body,
        "\\hline",
        "\\end{tabular}",
        "\\end{table}",
        "",
    ]
    return [
        write_text(stem.with_suffix(suffix), "\n".join(lines))
        for suffix, lines in ((".md", markdown), (".tex", tex))
    ]


def _escape(text: str) -> str:
    return text.translate({ord(symbol): f"\\{symbol}" for symbol in "&%_#$"})
