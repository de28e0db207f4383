"""The generated parts of README.md and ARTIFACT.md: from committed files alone."""

import json

import nbformat
import pandas as pd

from rctpl_utils.evaluation.results import BASELINES
from rctpl_utils.evaluation.retrieval import OURS
from rctpl_utils.evaluation.table1 import SUPERVISED
from rctpl_utils.files import read_json
from rctpl_utils.reporting.common import markdown, with_interval
from rctpl_utils.reporting.headline import COLUMNS, FIGURES, against, found, ledger, table
from rctpl_utils.workspace import NOTEBOOKS, PACKAGE_DATA

SHOWN = {
    key: COLUMNS[key]
    for key in (
        ("table1", "chestxray14", "auc"),
        ("table1", "chexpert", "auc"),
        ("table1", "covidx-normal", "auc"),
        ("table2", "rsna", "pointing_game"),
        ("table5", "chexpert5x200", "precision_at_1"),
    )
}
CELLS = ("load", "score")  # of the quickstart, by identifier


def verdict() -> str:
    """What came out, in sentences and six rows."""
    rows = [*table(("class names", "prompt ensemble", *OURS), SHOWN), _best_baseline()]
    rows += table((SUPERVISED,), SHOWN)[2:]
    compared = [f"{each} against class names: {against(each, 'class names')}." for each in OURS]
    return "\n".join(
        [
            "",
            "On **simulated films** with stand-in encoders, AUC, paired and Holm-corrected: "
            + " ".join(compared)
            + f" {ledger()} ([which](figures/embedded/claims.md)).",
            "",
            *rows,
            "",
            "Best baseline: of the eight, the one that is best on these very films, column by "
            "column, which favors it.",
            "",
        ]
    )


def _best_baseline() -> str:
    cells = []
    for key in SHOWN:
        rows = found(key)
        best = rows[rows["method"].isin(BASELINES)].nlargest(1, "value")
        cells.append(f"{with_interval(next(best.itertuples()))} ({best['method'].item()})")
    return markdown(["best baseline", *cells], [])[0]


def first_result() -> str:
    """The quickstart's first lines and what they print, as the committed notebook has them."""
    cells = {cell["id"]: cell for cell in nbformat.read(NOTEBOOKS / "quickstart.ipynb", 4).cells}
    code = "\n\n".join(cells[name]["source"] for name in CELLS)
    printed = "".join(_printed(output) for name in CELLS for output in cells[name]["outputs"])
    return f"\n```python\n{code}\n```\n\n```\n{printed.rstrip()}\n```\n"


def _printed(output: dict) -> str:
    return output.get("text") or f"{output['data']['text/plain']}\n"


def costs() -> str:
    """What the committed run took."""
    manifest = read_json(FIGURES / "manifest.json")
    records = manifest["notebooks"].values()
    minutes = sum(each["seconds"] for each in records) / 60
    peak = max(each["peak_memory_gb"] for each in records)
    return (
        f"\nThe committed run's last pass: {len(records)} notebooks, {minutes:.0f} "
        f"notebook-minutes, two at a time on {manifest['machine']['cores']} cores, device "
        f"{manifest['device']}, at most {peak:.1f} GB each. What earlier passes had kept (films, "
        "features, prompts) cost nothing; a first run takes longer: "
        "[docs/running.md](docs/running.md).\n"
    )


def one_claim() -> str:
    """The ledger's first claim, from the paper's words to the verdict."""
    claim = read_json(PACKAGE_DATA / "claims.json")["claims"][0]
    row = pd.read_csv(FIGURES / "claims.csv").set_index("claim").loc[claim["id"]]
    parts = pd.read_csv(FIGURES / "claims_parts.csv")["claim"].eq(claim["id"]).sum()
    test, *_ = claim["tests"]
    sides = []
    for method in (test["left"], *test["right"]):
        key = (test["draws"], test["datasets"][0], test["metrics"][0])
        shown = next(found(key, method=method).itertuples())
        command = f'trace {key[0]} "{method}" {key[1]} {key[2]}'
        sides.append(f"{method} {with_interval(shown)} (`python -m rctpl_utils {command}`)")
    interval = f"{row['effect']:+.4f} [{row['ci_low']:+.4f}, {row['ci_high']:+.4f}]"
    steps = [
        ("the paper's words", f"\u201c{claim['quote']}\u201d (section {claim['section']})"),
        ("read as", f"{claim['claim']}. {claim['why']}"),
        ("the test, fixed in `rctpl_utils/data/claims.json`", f"`{json.dumps(test)}`"),
        ("the two numbers", "; ".join(sides)),
        ("their difference, paired on the same films and seeds", interval),
        (
            f"p, of {parts} comparison(s)",
            f"{row['p_value']:.3f}; after Holm's correction over all claims {row['p_holm']:.3f}",
        ),
        ("**verdict**", f"**{row['verdict']}**"),
    ]
    return "\n".join(["", *markdown(["step", "what stands there"], steps), ""])
