"""Tidy result rows, and the tables made from them: CSV, Markdown and LaTeX."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rctpl_utils.datasets.questions import QUESTIONS
from rctpl_utils.files import atomic_path, write_text
from rctpl_utils.workspace import PACKAGE_DATA, Workspace

COLUMNS = (
    "dataset", "method", "metric", "value", "ci_low", "ci_high", "seeds", "n", "native", "reported",
)  # fmt: skip
BASELINES = (
    "ConVIRT", "GLoRIA", "MedCLIP-ViT", "BioViL", "CheXzero", "MedKLIP", "MedPrompt-ViT", "MeDSLIP",
)  # fmt: skip
NOT_RUN = "not run"
FLOORS_NOTE = "Floors: mean and the range of 95 % of at least 200 random draws."


def stacked(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Rows of several data sets below each other; of none, an empty table of results."""
    empty = pd.DataFrame(columns=[name for name in COLUMNS if name != "reported"])
    parts = list(parts)
    return pd.concat(parts, ignore_index=True) if parts else empty


def data_note(workspace: Workspace) -> str:
    """One sentence that says what the images of this run are."""
    if workspace.profile.simulated:
        return f"Simulated radiographs, stand-in encoder, profile {workspace.profile.name}."
    return f"Real radiographs, {workspace.profile.encoder}."


def intervals_note(workspace: Workspace) -> str:
    """One sentence that says what the intervals hold (see `metrics.interval`)."""
    rule = "95 % intervals: t on seed means combined with the variance over resampled patients"
    if workspace.profile.simulated:
        return f"{rule}; seed k has its own encoder."
    return f"{rule}; all seeds share the encoder."


def table_note(workspace: Workspace) -> str:
    """`data_note`, the rule of the intervals, and what baselines that this run trained are."""
    if workspace.profile.baselines is None:
        return f"{data_note(workspace)} {intervals_note(workspace)}"
    return (
        f"{data_note(workspace)} {intervals_note(workspace)} The baselines' rows are miniatures, "
        "trained on the stand-in's frozen lower layers under one budget (notebook 04b)."
    )


def write_csv(path: str | Path, rows: pd.DataFrame) -> Path:
    """Write rows atomically; six decimals, `\\n` line ends: equal results give equal bytes."""
    with atomic_path(path) as temporary:
        rows.to_csv(temporary, index=False, float_format="%.6f", lineterminator="\n")
    return Path(path)


def reported_table1() -> pd.DataFrame:
    """The paper's Table 1 as rows: dataset, method, metric, reported. Its ACC is MedKLIP's, at the
    threshold with the best F1 on the test set: `acc_oracle`.
    """
    rows = _reported("table1_zero_shot_classification")
    cell = rows.pop("metric").str.rsplit("_", n=1, expand=True)
    rows = rows.assign(dataset=cell[0], metric=cell[1].replace({"acc": "acc_oracle"}))
    covid = rows["dataset"] == "covid"  # the paper's one column stands beside each of our two
    ours = [rows[covid].assign(dataset=name) for name in QUESTIONS if name.startswith("covidx")]
    return pd.concat([rows[~covid], *ours], ignore_index=True)


def reported_grounding() -> pd.DataFrame:
    """The paper's Tables 2 to 4 as rows: dataset, method, metric, reported. Its recall and
    precision are detection's ("region"), its Dice is the maximal one ("oracle").
    """
    metrics = {"recall": "region_recall", "precision": "region_precision", "dice": "dice_oracle"}
    parts = [
        _reported(f"table{number}_grounding_{file}").assign(dataset=dataset)
        for number, file, dataset in (
            (2, "rsna", "rsna"), (3, "siim", "siim"), (4, "covid_rural", "covid-rural"),
        )
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True).replace({"metric": metrics})


def reported_retrieval() -> pd.DataFrame:
    """The paper's Table 5 as rows: dataset, method, metric (precision_at_K), reported."""
    rows = _reported("table5_retrieval_chexpert5x200").assign(dataset="chexpert5x200")
    rows["metric"] = rows["metric"].str.replace("p_at_", "precision_at_")
    return rows


def _reported(name: str) -> pd.DataFrame:
    wide = pd.read_csv(PACKAGE_DATA / "reported" / f"{name}.csv")
    return wide.melt("method", var_name="metric", value_name="reported")


def with_absent(rows: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Add what was not run: empty rows of the absent `names`, as many as one data set that is there
    has.
    """
    kinds = rows[["method", "metric", *({"native"} & set(rows.columns))]].drop_duplicates()
    parts = [rows, *(kinds.assign(dataset=name) for name in names)]
    return pd.concat(parts, ignore_index=True) if len(parts) > 1 else rows


def with_reported(rows: pd.DataFrame, reported: pd.DataFrame) -> pd.DataFrame:
    """Put the paper's numbers beside ours, shown, never compared as a rerun: they are on real data
    with real weights. What we did not run stays, with empty values.
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
    reasons = reasons or {}
    cells = [
        reasons.get(row.method, NOT_RUN) if pd.isna(row.value) else _cell(row)
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


def _cell(row: NamedTuple) -> str:
    return f"{row.value:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]"


def write_table(stem: Path, wide: pd.DataFrame, caption: str) -> list[Path]:
    """Write `stem.md` and `stem.tex` with a caption that says what the numbers are."""
    heads = [" ".join(filter(None, map(str, column))) for column in wide.columns]
    lines = [
        f"**{caption}**",
        "",
        "| method | " + " | ".join(heads) + " |",
        "|---" * (1 + len(heads)) + "|",
        *(
            f"| {name} | " + " | ".join(map(str, cells)) + " |"
            for name, *cells in wide.itertuples()
        ),
        "",
    ]
    tex = [
        "\\begin{table}",
        f"\\caption{{{_escape(caption)}}}",
        "\\begin{tabular}{l" + "c" * len(heads) + "}",
        "\\hline",
        " & ".join(["Method", *map(_escape, heads)]) + " \\\\",
        "\\hline",
        *(
            " & ".join([_escape(name), *(_escape(str(cell)) for cell in cells)]) + " \\\\"
            for name, *cells in wide.itertuples()
        ),
        "\\hline",
        "\\end{tabular}",
        "\\end{table}",
        "",
    ]
    return [
        write_text(stem.with_suffix(".md"), "\n".join(lines)),
        write_text(stem.with_suffix(".tex"), "\n".join(tex)),
    ]


def _escape(text: str) -> str:
    for symbol in "&%_#$":
        text = text.replace(symbol, f"\\{symbol}")
    return text
