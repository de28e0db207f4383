"""README's "What came out", written from the committed result files and nothing else.

    python -m rctpl_utils.headline        writes it anew into README.md

A test compares what stands there with what the files say.
"""

from pathlib import Path

import pandas as pd

from rctpl_utils.files import write_text
from rctpl_utils.runner.atlas import replace_section
from rctpl_utils.table1_report import OURS
from rctpl_utils.variants import HANDWRITTEN
from rctpl_utils.workspace import PROJECT

README, FIGURES = PROJECT / "README.md", PROJECT / "figures" / "embedded"
MARKERS = ("<!-- results: python -m rctpl_utils.headline -->", "<!-- end of results -->")
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
    *HANDWRITTEN, "untrained contexts", *OURS, "ConVIRT", "GLoRIA", "MedCLIP-ViT", "BioViL",
    "CheXzero", "MedKLIP", "MedPrompt-ViT", "MeDSLIP", "TaI-DPT", "CoOp, 16 labels a class",
    "DualCoOp, 16 labels a class", "lung-center prior", "supervised reference",
    "floor: random class vectors", "floor: random words",
)  # fmt: skip
LEVEL = 0.05


def headline(figures: Path = FIGURES) -> str:
    """The section between the two markers, markdown."""
    return "\n".join(["", *_table(figures), "", *_sentences(figures), ""])


def _table(figures: Path) -> list[str]:
    files = {name: pd.read_csv(figures / f"{name}.csv") for name, *_ in COLUMNS}
    heads = ["simulated films, mean of three seeds [95 %]", *COLUMNS.values()]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for method in ROWS:
        cells = []
        for name, dataset, metric in COLUMNS:
            rows = files[name]
            one = (rows["method"] == method) & (rows["dataset"] == dataset)
            found = rows[one & (rows["metric"] == metric) & rows["value"].notna()]
            cells += [
                f"{r.value:.2f} [{r.ci_low:.2f}, {r.ci_high:.2f}]" for r in found.itertuples()
            ]
            cells += [""] * (not len(found))
        shown = f"**{method}**" if method in OURS else method
        lines.append(f"| {' | '.join([shown, *cells])} |")
    return lines


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
            sure = part["p_holm"] < LEVEL
            said = [
                f"{word} on "
                + ", ".join(f"{r.dataset} ({r.value:+.3f})" for r in rows.itertuples())
                for word, rows in (
                    ("**better**", part[sure & (part["value"] > 0)]),
                    ("**worse**", part[sure & (part["value"] < 0)]),
                    ("undecided", part[~sure]),
                )
                if len(rows)
            ]
            lines.append(f"- {method} against {other}: {'; '.join(said)}.")
    counts = pd.read_csv(figures / "claims.csv")["verdict"].value_counts()
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    lines.append(
        f"- Of {counts.sum()} claims of the paper: {verdicts} "
        "([claims.md](figures/embedded/claims.md))."
    )
    return lines


if __name__ == "__main__":
    written = replace_section(README.read_text(encoding="utf-8"), headline(), MARKERS, "the result")
    write_text(README, written)
