"""Every page whose numbers come from the committed results: `python -m rctpl_utils headline`.

Writes README.md, RESULTS.md, ARTIFACT.md and the model card anew; a test compares what stands there
with what the files say. The map in RESULTS.md is the runner's (`./run_all.sh --save-outputs`).
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import nbformat
import pandas as pd

from rctpl_utils.encoders.release import manifest
from rctpl_utils.evaluation.results import BASELINES
from rctpl_utils.evaluation.retrieval import OURS
from rctpl_utils.evaluation.table1 import SUPERVISED
from rctpl_utils.files import read_json, replace_section, write_text
from rctpl_utils.options import command
from rctpl_utils.plots import WORDS
from rctpl_utils.prompts.variants import HANDWRITTEN, MACHINE_WRITTEN
from rctpl_utils.reporting.claims import FLOORS
from rctpl_utils.reporting.common import markdown, paired_outcomes, with_interval
from rctpl_utils.workspace import NOTEBOOKS, PACKAGE_DATA, PROJECT

FIGURES = PROJECT / "figures" / "embedded"
Column = tuple[str, str, str]  # file, data set, metric; `COLUMNS` has their headings
COLUMNS: dict[Column, str] = {tuple(key): name for *key, name, _ in WORDS["columns"]}
README_COLUMNS = [tuple(key) for *key, _, shown in WORDS["columns"] if shown == "README"]
ROWS = (
    *HANDWRITTEN, MACHINE_WRITTEN, "untrained contexts", *OURS, *BASELINES, "TaI-DPT",
    "CoOp, 16 labels a class", "DualCoOp, 16 labels a class", "lung-center prior", SUPERVISED,
    *FLOORS,
)  # fmt: skip
CARD_ROWS = (*HANDWRITTEN, MACHINE_WRITTEN, *OURS, SUPERVISED)
QUICKSTART_CELLS = ("load", "score")  # by identifier


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    command("headline", __doc__).parse_args(arguments)
    for path, text in written().items():
        write_text(path, text)
    return 0


def written() -> dict[Path, str]:
    """The pages as they should be."""
    sections: dict[str, dict[str, Callable[[], str]]] = {  # page -> its sections
        "README.md": {"verdict": _verdict, "first result": _first_result, "costs": _costs},
        "RESULTS.md": {"results": lambda: "\n".join(["", *_table(ROWS), "", *_sentences(), ""])},
        "ARTIFACT.md": {"one claim": _one_claim},
        "docs/model_card.md": {"results": _measured, "weights": _weights},
    }
    pages = {}
    for name, made in sections.items():
        text = (PROJECT / name).read_text(encoding="utf-8")
        for section, make in made.items():
            start = f"<!-- {section}: python -m rctpl_utils headline -->"
            markers = start, f"<!-- end of {section} -->"
            text = replace_section(text, make(), markers, f"{name}'s {section}")
        pages[PROJECT / name] = text
    return pages


def _verdict() -> str:
    """What came out, in sentences and six rows."""
    cells = ["best baseline"]
    for key in README_COLUMNS:
        best = max((row for row in _found(key) if row.method in BASELINES), key=lambda r: r.value)
        cells.append(f"{with_interval(best)} ({best.method})")
    rows = _table((*HANDWRITTEN[:2], *OURS, SUPERVISED), README_COLUMNS)
    rows.insert(-1, markdown(cells, [])[0])
    compared = [f"{each} against class names: {_against(each, 'class names')}." for each in OURS]
    said = (
        "On **simulated films** with stand-in encoders, AUC, paired and Holm-corrected: "
        f"{' '.join(compared)} {_ledger()} ([which](figures/embedded/claims.md))."
    )
    best = (
        "Best baseline: of the eight, the one that is best on these very films, column by "
        "column, which favors it."
    )
    return "\n".join(["", said, "", *rows, "", best, ""])


def _first_result() -> str:
    """The quickstart's first lines and what they print, as the committed notebook has them."""
    cells = {cell["id"]: cell for cell in nbformat.read(NOTEBOOKS / "quickstart.ipynb", 4).cells}
    code = "\n\n".join(cells[name]["source"] for name in QUICKSTART_CELLS)
    outputs = [output for name in QUICKSTART_CELLS for output in cells[name]["outputs"]]
    printed = "".join(
        output.get("text") or f"{output['data']['text/plain']}\n" for output in outputs
    )
    return f"\n```python\n{code}\n```\n\n```\n{printed.rstrip()}\n```\n"


def _costs() -> str:
    """What the committed run took."""
    run = read_json(FIGURES / "manifest.json")
    records = run["notebooks"].values()
    minutes = sum(each["seconds"] for each in records) / 60
    peak = max(each["peak_memory_gb"] for each in records)
    return (
        f"\nThe committed run's last pass: {len(records)} notebooks, {minutes:.0f} "
        f"notebook-minutes, two at a time on {run['machine']['cores']} cores, device "
        f"{run['device']}, at most {peak:.1f} GB each. What earlier passes had kept (films, "
        "features, prompts) cost nothing; a first run takes longer: "
        "[docs/running.md](docs/running.md).\n"
    )


def _one_claim() -> str:
    """The ledger's first claim, from the paper's words to the verdict."""
    claim = read_json(PACKAGE_DATA / "claims.json")["claims"][0]
    row = pd.read_csv(FIGURES / "claims.csv").set_index("claim").loc[claim["id"]]
    parts = pd.read_csv(FIGURES / "claims_parts.csv")["claim"].eq(claim["id"]).sum()
    test, *_ = claim["tests"]
    sides = []
    for method in (test["left"], *test["right"]):
        key = (test["draws"], test["datasets"][0], test["metrics"][0])
        asked = f'trace {key[0]} "{method}" {key[1]} {key[2]}'
        sides.append(f"{method} {_cell(key, method)} (`python -m rctpl_utils {asked}`)")
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


def _measured() -> str:
    """The model card's: our rows and those that they must beat, the maps' check, real films."""
    text = "\n".join(["", *_table(CARD_ROWS), "", *_sentences(), "", *_checks(), ""])
    return text.replace("](figures/", "](../figures/")


def _weights() -> str:
    """The model card's table of released weights, one row a method."""
    files = manifest()["files"]
    table = pd.DataFrame(files.values())
    table["method"] = table["method"].fillna(table["kind"])
    heads = ("method", "files", "views a seed", "seconds a seed", "device", "trained on")
    cells = []
    for method, rows in table.groupby("method", sort=False):
        ends = (rows[name].agg(["min", "max"]).dropna() for name in ("views", "seconds"))
        spans = (" to ".join(each.map("{:,.0f}".format).unique()) for each in ends)
        words = ("; ".join(rows[name].dropna().unique()) for name in ("device", "trained_on"))
        cells.append([method, str(len(rows)), *spans, *words])
    total = f"{len(files)} files, {table['bytes'].sum() / 1e6:.0f} MB."
    return "\n".join(["", total, "", *markdown(heads, cells), ""])


def _checks() -> list[str]:
    """What the maps look at, and how many real films are named as out of domain."""
    sanity = pd.read_csv(FIGURES / "saliency_sanity.csv")
    words = sanity[(sanity["metric"] == "pointing_game") & (sanity["kind"] == "prompt")]
    lines = []
    for kind, rows in words.groupby("map", sort=False):
        asked = ("its own name", *rows["change"][1:])
        hits = [
            f"{with_interval(row)} of the boxes for {name}"
            for row, name in zip(rows.itertuples(), asked, strict=True)
        ]
        films = f"{kind} of RC-TPL, first seed, {int(rows['n'].iloc[0])} films"
        lines.append(f"- {films}, points into {', '.join(hits)}.")
    real = pd.read_csv(FIGURES / "real_samples.csv")
    outside = real[real["metric"] == "out_of_domain"]
    shares = ", ".join(f"{r.dataset} {r.value:.2f} (n = {r.n})" for r in outside.itertuples())
    said = f"- Share of real films that is named as out of domain, where all are: {shares}."
    return [*lines, said] if shares else lines


def _table(methods: Sequence[str], columns: Iterable[Column] = COLUMNS) -> list[str]:
    """Values with their intervals, a line a method."""
    lines = []
    for method in methods:
        cells = (_cell(key, method) for key in columns)
        lines.append([f"**{method}**" if method in OURS else method, *cells])
    heads = [COLUMNS[key] for key in columns]
    return markdown(["simulated films, mean of three seeds [95 %]", *heads], lines)


def _found(key: Column) -> list[tuple]:
    """The rows of (file, data set, metric) that have a value."""
    name, dataset, metric = key
    rows = pd.read_csv(FIGURES / f"{name}.csv").dropna(subset="value").itertuples()
    return [row for row in rows if (row.dataset, row.metric) == (dataset, metric)]


def _cell(key: Column, method: str) -> str:
    """A method's value with its interval; nothing where it has none."""
    return next((with_interval(row) for row in _found(key) if row.method == method), "")


def _against(method: str, other: str) -> str:
    """A method's paired tests of AUC against another, in words: "**worse** on rsna (-0.031)"."""
    tests = pd.read_csv(FIGURES / "table1_paired_tests.csv")
    part = tests[(tests["method"] == method) & (tests["against"] == other)]
    said = []
    for word, rows in part.groupby(paired_outcomes(part), observed=True):
        places = ", ".join(f"{r.dataset} ({r.value:+.3f})" for r in rows.itertuples())
        said.append(f"{word if word == 'undecided' else f'**{word}**'} on {places}")
    return "; ".join(said)


def _ledger() -> str:
    """How many of the paper's claims got which verdict."""
    counts = pd.read_csv(FIGURES / "claims.csv")["verdict"].value_counts()
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return f"Of {counts.sum()} claims of the paper: {verdicts}"


def _sentences() -> list[str]:
    lines = [
        "All of this is **simulated films and stand-in encoders**: how the methods compare there, "
        "not what they do on patients. COVID-19 is told from normal films, and from other "
        "pneumonia. Differences of AUC to what a person writes, paired, Holm-corrected:",
        "",
    ]
    pairs = [(method, other) for method in OURS for other in HANDWRITTEN]
    lines += [f"- {a} against {b}: {_against(a, b)}." for a, b in pairs]
    return [*lines, f"- {_ledger()} ([claims.md](figures/embedded/claims.md))."]
