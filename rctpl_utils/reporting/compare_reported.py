"""Ours beside the paper's: Tables 1 to 5 with the difference, and what is not comparable.

The paper's numbers come from real radiographs, other encoders and other splits. A difference here
says how far this run is from the printed number, and nothing of whether the paper is right.
"""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.results import NOT_RUN, data_note, write_csv
from rctpl_utils.evaluation.retrieval import OURS
from rctpl_utils.files import write_text
from rctpl_utils.plots import COLUMN_WIDTH, NAMES, TEXT, rule_lines, spread
from rctpl_utils.reporting.common import finished, markdown
from rctpl_utils.workspace import Workspace

TABLES = {
    1: "zero-shot classification",
    2: "grounding, RSNA pneumonia",
    3: "grounding, SIIM-ACR pneumothorax",
    4: "grounding, COVID Rural",
    5: "image-text retrieval, CheXpert 5x200",
}
METHOD = OURS[0]
OURS_LABEL = f"{METHOD} in this run (share of 1)"
REPORTED = f"{METHOD} as the paper reports it (share of 1)"
_DIFFERENCE = ("difference", "difference_low", "difference_high")


def reported_cells(workspace: Workspace) -> pd.DataFrame:
    """All cells that the paper's Tables 1 to 5 print, with ours where we have run the method.

    difference is ours minus reported; the reported number is a constant, so that the difference's
    interval is ours, shifted. Methods keep their order; Precision@K stands by K, as a number. An
    `InputError` where a table is not there yet.
    """
    rows = pd.concat([_read(workspace, number) for number in TABLES], ignore_index=True)
    rows = rows[rows["reported"].notna()].copy()
    rows["place"] = rows.groupby(["table", "dataset", "method"], sort=False).ngroup()
    rows["k"] = pd.to_numeric(rows["metric"].str.extract(r"_at_(\d+)$")[0]).fillna(0)
    rows = rows.sort_values(["place", "k"], kind="stable", ignore_index=True)
    for name, ours in zip(_DIFFERENCE, ("value", "ci_low", "ci_high"), strict=True):
        rows[name] = rows[ours] - rows["reported"]
    kept = ["table", "dataset", "method", "metric", "value", "ci_low", "ci_high", "reported"]
    return rows[[*kept, *_DIFFERENCE]]


def _read(workspace: Workspace, number: int) -> pd.DataFrame:
    path = workspace.figures / f"table{number}.csv"
    if not path.exists():
        raise InputError("the table is not there", "Run notebooks 05 to 07 first.", file=path)
    return pd.read_csv(path).assign(table=number)


def side_by_side(cells: pd.DataFrame, number: int) -> pd.DataFrame:
    """One table as a person reads it: ours [95 % interval], reported, difference [interval]."""
    rows = cells[cells["table"] == number].set_index(["dataset", "method", "metric"])
    shown = {
        "ours": _with_interval(rows, "value", "ci_low", "ci_high", "{:.3f}"),
        "reported": rows["reported"].map("{:.4f}".format),
        "ours - reported": _with_interval(rows, *_DIFFERENCE, "{:+.3f}"),
    }
    return pd.DataFrame(shown)


def _with_interval(rows: pd.DataFrame, value: str, low: str, high: str, form: str) -> list[str]:
    return [
        NOT_RUN if pd.isna(one) else f"{form} [{form}, {form}]".format(one, below, above)
        for one, below, above in zip(rows[value], rows[low], rows[high], strict=True)
    ]


def save_reproduction(workspace: Workspace) -> pd.DataFrame:
    """Write reproduction.csv and reproduction.md; return the cells (`reported_cells`)."""
    cells = reported_cells(workspace)
    write_csv(workspace.figures / "reproduction.csv", cells)
    lines = [
        f"**Ours beside the paper's. {data_note(workspace)} Reported: real radiographs, other "
        "encoders; not reruns, and not comparable.**"
    ]
    for number, title in TABLES.items():
        table = side_by_side(cells, number)
        heads = ("data", "method", "metric", *table.columns)
        rows = ([*place, *row] for place, row in zip(table.index, table.to_numpy(), strict=True))
        lines += ["", f"Table {number}: {title}", "", *markdown(heads, rows)]
    extras = {"What is not comparable": not_comparable(workspace), "Slips in the paper": slips()}
    for title, table in extras.items():
        lines += ["", title, "", *markdown(table.columns, table.to_numpy())]
    write_text(workspace.figures / "reproduction.md", "\n".join([*lines, ""]))
    return cells


def not_comparable(workspace: Workspace) -> pd.DataFrame:
    """What differs between the paper's tables and this run's: what, paper, this run, effect."""
    profile = workspace.profile
    images = "simulated radiographs" if profile.simulated else "real radiographs"
    sides = f", {profile.world.image_size} pixels" if profile.world else ""
    reports = "Open-I, some templated" if profile.simulated else "those under the data root"
    rows = [
        ("films", "real radiographs", images + sides,
         "how hard the task is"),
        ("frozen encoder", "MedCLIP, ResNet-50, trained on CheXpert and MIMIC-CXR films",
         profile.encoder, "what prompts can add"),
        ("training reports", "223,673 of MIMIC-CXR", reports, "how much prompts can learn"),
        ("test films", "splits not stated", "one fixed split, disjoint by patient",
         "any single number"),
        ("accuracy", "threshold not stated; read as MedKLIP's, chosen on the test films",
         "the same, and one chosen on validation films", "its level"),
        ("recall, precision, Dice", "threshold and matching rule not stated",
         "stated in notebook 06", "their level"),
        ("rivals", "eight trained baselines", "those with a value of ours",
         "every claim to beat them"),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["what", "paper", "this run", "changes"])


def slips() -> pd.DataFrame:
    """Slips in the paper that touch its tables: where, printed, probably meant."""
    rows = [
        ("4.1.2", "COVIDx CXR-2 with 29,986 films", "CXR-3, whose training split has that number"),
        ("4.1.2", "RSNA with more than 260k films", "26,684 films"),
        ("4.1.2", "CheXpert, split not named", "unknown: the test films cannot be told"),
        ("1", "without using any labeled images", "true of the prompts, not of MedCLIP's encoder"),
        ("4.2.3", "a garbled list of five classes",
         "Atelectasis, Cardiomegaly, Consolidation, Edema, Pleural Effusion (CheXpert 5x200)"),
        ("4.2.3", "MedKLIP in the retrieval table", "unexplained: it has no joint embedding"),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["section", "printed", "meant"])


def reproduction_figure(workspace: Workspace, cells: pd.DataFrame) -> Figure:
    """RC-TPL's cells: ours with intervals, and apart the reported; reproduction.png and .pdf."""
    rows = cells[(cells["method"] == METHOD) & cells["value"].notna()]
    rows = rows if len(rows) else cells[cells["method"] == METHOD]  # nothing was run
    groups = dict(list(rows.groupby("table", sort=False)))
    figure, axes = plt.subplots(
        len(groups), 2, sharex=True, sharey="row", squeeze=False, layout="constrained",
        figsize=(COLUMN_WIDTH, 0.19 * len(rows) + 0.35 * len(groups) + 1.1),
        height_ratios=[len(group) + 0.8 for group in groups.values()],
    )  # fmt: skip
    for pair, (number, group) in zip(axes, groups.items(), strict=True):
        _draw_table(*pair, group)
        pair[0].set_title(f"Table {number}: {TABLES[number]}", fontsize=8, loc="left", pad=3)
    for axis, label in zip(axes[-1], (OURS_LABEL, REPORTED), strict=True):
        axis.set_xlabel(label, fontsize=TEXT)
    note = (
        "Two columns, not to be compared line by line: on the left our run on these films with "
        "95 % intervals over patients and seeds, on the right what the paper prints, measured on "
        "real radiographs with other encoders and without intervals."
    )
    return finished(workspace, figure, "reproduction", note)


def _draw_table(ours: Axes, reported: Axes, rows: pd.DataFrame) -> None:
    places, color = range(len(rows)), sns.color_palette("colorblind")[0]
    ours.errorbar(rows["value"], places, xerr=spread(rows), fmt="o", ms=3.5, lw=1.2, color=color)
    reported.plot(rows["reported"], places, "D", ms=4, mfc="none", color="#D55E00")
    several = rows["dataset"].nunique() > 1
    names = [
        f"{NAMES[row.dataset]}: {NAMES[row.metric]}" if several else NAMES[row.metric]
        for row in rows.itertuples()
    ]
    ours.set_yticks(places, names, fontsize=TEXT)
    ours.set_ylim(len(rows) - 0.4, -0.6)
    for axis in (ours, reported):
        axis.set_xlim(-0.02, 1.02)
        rule_lines(axis)
