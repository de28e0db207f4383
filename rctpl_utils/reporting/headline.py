"""README's "What came out" and the model card's numbers, from the committed files and nothing else.

    python -m rctpl_utils headline        writes them anew

A test compares what stands there with what the files say.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from rctpl_utils.encoders.release import manifest
from rctpl_utils.evaluation.results import BASELINES
from rctpl_utils.evaluation.retrieval import OURS
from rctpl_utils.evaluation.table1 import SUPERVISED
from rctpl_utils.files import replace_section, write_text
from rctpl_utils.options import command
from rctpl_utils.prompts.variants import HANDWRITTEN, MACHINE_WRITTEN
from rctpl_utils.reporting.claims import FLOORS
from rctpl_utils.reporting.common import by_outcome, markdown, with_interval
from rctpl_utils.workspace import PROJECT

README, FIGURES = PROJECT / "README.md", PROJECT / "figures" / "embedded"
CARD = PROJECT / "docs" / "model_card.md"
MARKERS = ("<!-- results: python -m rctpl_utils headline -->", "<!-- end of results -->")
WEIGHTS = ("<!-- weights: python -m rctpl_utils headline -->", "<!-- end of weights -->")
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
    """README's section between the two markers, markdown."""
    return "\n".join(["", *_table(FIGURES, ROWS), "", *_sentences(FIGURES), ""])


def measured(figures: Path = FIGURES) -> str:
    """The model card's: our rows and those that they must beat, the maps' check, real films."""
    parts = [_table(figures, CARD_ROWS), _sentences(figures), _checks(figures)]
    text = "\n".join(line for part in parts for line in ["", *part]) + "\n"
    return text.replace("](figures/", "](../figures/")  # the README's sentences, seen from docs/


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


def _table(figures: Path, methods: Sequence[str]) -> list[str]:
    files = {name: pd.read_csv(figures / f"{name}.csv") for name, *_ in COLUMNS}
    lines = []
    for method in methods:
        cells = []
        for name, dataset, metric in COLUMNS:
            rows = files[name]
            one = (rows["method"] == method) & (rows["dataset"] == dataset)
            found = rows[one & (rows["metric"] == metric) & rows["value"].notna()]
            cells += [with_interval(row) for row in found.itertuples()] or [""]
        lines.append([f"**{method}**" if method in OURS else method, *cells])
    return markdown(["simulated films, mean of three seeds [95 %]", *COLUMNS.values()], lines)


def _sentences(figures: Path) -> list[str]:
    tests = pd.read_csv(figures / "table1_paired_tests.csv")
    lines = [
        "All of this is **simulated films and stand-in encoders**: how the methods compare there, "
        "not what they do on patients. COVID-19 is told from normal films, and from other "
        "pneumonia. Differences of AUC to what a person writes, paired, Holm-corrected:",
        "",
    ]
    for method in OURS:
        for other in HANDWRITTEN:
            part = tests[(tests["method"] == method) & (tests["against"] == other)]
            said = []
            for word, rows in by_outcome(part).items():
                places = ", ".join(f"{r.dataset} ({r.value:+.3f})" for r in rows.itertuples())
                said.append(f"{word if word == 'undecided' else f'**{word}**'} on {places}")
            lines.append(f"- {method} against {other}: {'; '.join(said)}.")
    counts = pd.read_csv(figures / "claims.csv")["verdict"].value_counts()
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    lines.append(
        f"- Of {counts.sum()} claims of the paper: {verdicts} "
        "([claims.md](figures/embedded/claims.md))."
    )
    return lines


def written() -> dict[Path, str]:
    """Both files as they should be."""
    readme, card = (path.read_text(encoding="utf-8") for path in (README, CARD))
    card = replace_section(card, measured(), MARKERS, "the result")
    return {
        README: replace_section(readme, headline(), MARKERS, "the result"),
        CARD: replace_section(card, weights(), WEIGHTS, "the table"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    command("headline", __doc__).parse_args(arguments)
    for path, text in written().items():
        write_text(path, text)
    return 0
