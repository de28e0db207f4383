"""What came out, as RESULTS.md and the model card show it: from the committed files alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from rctpl_utils.encoders.release import manifest
from rctpl_utils.evaluation.results import BASELINES
from rctpl_utils.evaluation.retrieval import OURS
from rctpl_utils.evaluation.table1 import SUPERVISED
from rctpl_utils.prompts.variants import HANDWRITTEN, MACHINE_WRITTEN
from rctpl_utils.reporting.claims import FLOORS
from rctpl_utils.reporting.common import by_outcome, markdown, with_interval
from rctpl_utils.workspace import PROJECT

FIGURES = PROJECT / "figures" / "embedded"
COLUMNS = {  # file, data set, metric -> heading
    ("table1", "chestxray14", "auc"): "AUC ChestX-ray14",
    ("table1", "chexpert", "auc"): "CheXpert",
    ("table1", "rsna", "auc"): "RSNA",
    ("table1", "covidx-normal", "auc"): "COVID, normal",
    ("table1", "covidx-pneumonia", "auc"): "COVID, pneumonia",
    ("table2", "rsna", "pointing_game"): "pointing RSNA",
    ("table3", "siim", "pointing_game"): "SIIM",
    ("table4", "covid-rural", "pointing_game"): "COVID Rural",
    ("table5", "chexpert5x200", "precision_at_1"): "P@1 5x200",
}
ROWS = (
    *HANDWRITTEN, MACHINE_WRITTEN, "untrained contexts", *OURS, *BASELINES, "TaI-DPT",
    "CoOp, 16 labels a class", "DualCoOp, 16 labels a class", "lung-center prior", SUPERVISED,
    *FLOORS,
)  # fmt: skip
CARD_ROWS = (*HANDWRITTEN, MACHINE_WRITTEN, *OURS, SUPERVISED)


def headline() -> str:
    """RESULTS.md's section, markdown."""
    return "\n".join(["", *table(ROWS), "", *_sentences(), ""])


def measured(figures: Path = FIGURES) -> str:
    """The model card's: our rows and those that they must beat, the maps' check, real films."""
    parts = [table(CARD_ROWS, figures=figures), _sentences(figures), _checks(figures)]
    text = "\n".join(line for part in parts for line in ["", *part]) + "\n"
    return text.replace("](figures/", "](../figures/")


def weights() -> str:
    """The model card's table of released weights, one row a method."""
    files = manifest()["files"]
    table = pd.DataFrame(files.values())
    table["method"] = table["method"].fillna(table["kind"])
    heads = ("method", "files", "views a seed", "seconds a seed", "device", "trained on")
    cells = []
    for method, rows in table.groupby("method", sort=False):
        spans = (_span(rows["views"]), _span(rows["seconds"]))
        words = ("; ".join(rows[name].dropna().unique()) for name in ("device", "trained_on"))
        cells.append([method, str(len(rows)), *spans, *words])
    total = f"{len(files)} files, {table['bytes'].sum() / 1e6:.0f} MB."
    return "\n".join(["", total, "", *markdown(heads, cells), ""])


def _span(values: pd.Series) -> str:
    ends = [f"{each:,.0f}" for each in (values.min(), values.max()) if pd.notna(each)]
    return " to ".join(dict.fromkeys(ends))


def _checks(figures: Path) -> list[str]:
    """What the maps look at, and how many real films are named as out of domain."""
    sanity = pd.read_csv(figures / "saliency_sanity.csv")
    words = sanity[(sanity["metric"] == "pointing_game") & (sanity["kind"] == "prompt")]
    lines = [
        f"- {kind} of RC-TPL, first seed, {int(rows['n'].iloc[0])} films, points into "
        + ", ".join(
            f"{with_interval(r)} of the boxes for {asked}"
            for r, asked in zip(
                rows.itertuples(), ("its own name", *rows["change"][1:]), strict=True
            )
        )
        + "."
        for kind, rows in words.groupby("map", sort=False)
    ]
    real = pd.read_csv(figures / "real_samples.csv")
    outside = real[real["metric"] == "out_of_domain"]
    shares = ", ".join(f"{r.dataset} {r.value:.2f} (n = {r.n})" for r in outside.itertuples())
    said = f"- Share of real films that is named as out of domain, where all are: {shares}."
    return [*lines, said] if shares else lines


def table(
    methods: Sequence[str],
    columns: Mapping[tuple[str, str, str], str] = COLUMNS,
    figures: Path = FIGURES,
) -> list[str]:
    """Values with their intervals, a line a method; `columns` as `COLUMNS`."""
    lines = []
    for method in methods:
        rows = [found(key, figures, method) for key in columns]
        cells = [with_interval(next(each.itertuples())) if len(each) else "" for each in rows]
        lines.append([f"**{method}**" if method in OURS else method, *cells])
    return markdown(["simulated films, mean of three seeds [95 %]", *columns.values()], lines)


def found(
    key: tuple[str, str, str], figures: Path = FIGURES, method: str | None = None
) -> pd.DataFrame:
    """The rows of (file, data set, metric), and a method, that have a value."""
    name, dataset, metric = key
    rows = pd.read_csv(figures / f"{name}.csv")
    rows = rows[(rows["dataset"] == dataset) & (rows["metric"] == metric) & rows["value"].notna()]
    return rows if method is None else rows[rows["method"] == method]


def against(method: str, other: str, figures: Path = FIGURES) -> str:
    """A method's paired tests of AUC against another, in words: "**worse** on rsna (-0.031)"."""
    tests = pd.read_csv(figures / "table1_paired_tests.csv")
    part = tests[(tests["method"] == method) & (tests["against"] == other)]
    said = []
    for word, rows in by_outcome(part).items():
        places = ", ".join(f"{r.dataset} ({r.value:+.3f})" for r in rows.itertuples())
        said.append(f"{word if word == 'undecided' else f'**{word}**'} on {places}")
    return "; ".join(said)


def ledger(figures: Path = FIGURES) -> str:
    """How many of the paper's claims got which verdict."""
    counts = pd.read_csv(figures / "claims.csv")["verdict"].value_counts()
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return f"Of {counts.sum()} claims of the paper: {verdicts}"


def _sentences(figures: Path = FIGURES) -> list[str]:
    lines = [
        "All of this is **simulated films and stand-in encoders**: how the methods compare there, "
        "not what they do on patients. COVID-19 is told from normal films, and from other "
        "pneumonia. Differences of AUC to what a person writes, paired, Holm-corrected:",
        "",
    ]
    pairs = [(method, other) for method in OURS for other in HANDWRITTEN]
    lines += [f"- {a} against {b}: {against(a, b, figures)}." for a, b in pairs]
    return [*lines, f"- {ledger(figures)} ([claims.md](figures/embedded/claims.md))."]
