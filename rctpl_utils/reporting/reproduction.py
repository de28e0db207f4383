"""What notebook 10 writes: ours beside the paper's Tables 1 to 5, and the claims.

The paper's numbers come from real radiographs, other encoders and other splits. A difference here
says how far this run is from the printed number, and nothing of whether the paper is right.
"""

from collections.abc import Sequence
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rctpl_utils import plots
from rctpl_utils.datasets import DATASETS
from rctpl_utils.datasets.splits import absent
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.results import NOT_RUN, data_note, intervals_note, load_draws, write_csv
from rctpl_utils.evaluation.retrieval import OURS
from rctpl_utils.files import read_json, write_text
from rctpl_utils.plots import NAMES, TEXT, WORDS, panels, rule_lines
from rctpl_utils.reporting.claims import VERDICTS, Comparison, evaluate, load_claims
from rctpl_utils.reporting.common import ALPHA, finished, markdown
from rctpl_utils.workspace import PACKAGE_DATA, Workspace

TABLES = dict(enumerate(WORDS["tables"], start=1))
METHOD = OURS[0]
_DIFFERENCE = ("difference", "difference_low", "difference_high")
LOOKS = {  # Okabe and Ito's palette; shapes differ too, for prints without color
    "supported": ("#009E73", "o"),
    "not supported": ("#D55E00", "X"),
    "undecided": ("#767676", "s"),
}
MARGIN = "#56B4E9"
_CELLS = ((4, "left"), (132, "right"), (162, "right"))  # points right of an axis: the numbers
TESTED = tuple(LOOKS)  # verdicts that a test gave; the others say why there was none


# --- ours beside the reported


def save_reproduction(workspace: Workspace) -> pd.DataFrame:
    """Write reproduction.csv and reproduction.md; return all cells that the paper prints.

    difference is ours minus reported; the reported number is a constant, so that the difference's
    interval is ours, shifted. An `InputError` where a table is not there yet.
    """
    tables = []
    for number in TABLES:
        path = workspace.figures / f"table{number}.csv"
        if not path.exists():
            raise InputError("the table is not there", "Run notebooks 05 to 07 first.", file=path)
        tables.append(pd.read_csv(path).assign(table=number))
    cells = pd.concat(tables, ignore_index=True)
    cells = cells[cells["reported"].notna()].copy()
    place = cells.groupby(["table", "dataset", "method"], sort=False).ngroup()
    rank = pd.to_numeric(cells["metric"].str.extract(r"_at_(\d+)$")[0]).fillna(0)
    cells = cells.iloc[np.lexsort((rank, place))].reset_index(drop=True)
    ours = ["value", "ci_low", "ci_high"]
    cells[list(_DIFFERENCE)] = cells[ours].sub(cells["reported"], axis=0)
    cells = cells[["table", "dataset", "method", "metric", *ours, "reported", *_DIFFERENCE]]
    write_csv(workspace.figures / "reproduction.csv", cells)
    lines = [
        f"**Ours beside the paper's. {data_note(workspace)} Reported: real radiographs, other "
        "encoders; not reruns, and not comparable.**"
    ]
    parts = {
        f"Table {number}: {title}": side_by_side(cells, number).reset_index()
        for number, title in TABLES.items()
    }
    parts |= {"What is not comparable": not_comparable(workspace), "Slips in the paper": slips()}
    for title, table in parts.items():
        heads = ["data" if name == "dataset" else name for name in table.columns]
        lines += ["", title, "", *markdown(heads, table.to_numpy())]
    write_text(workspace.figures / "reproduction.md", "\n".join([*lines, ""]))
    return cells


def side_by_side(cells: pd.DataFrame, number: int) -> pd.DataFrame:
    """One table as a person reads it: ours [95 % interval], reported, difference [interval]."""
    rows = cells[cells["table"] == number].set_index(["dataset", "method", "metric"])
    difference = rows[list(_DIFFERENCE)].set_axis(["value", "ci_low", "ci_high"], axis=1)
    return pd.DataFrame(
        {
            "ours": _with_intervals(rows, "{:.3f}"),
            "reported": rows["reported"].map("{:.4f}".format),
            "ours - reported": _with_intervals(difference, "{:+.3f}"),
        }
    )


def _with_intervals(rows: pd.DataFrame, form: str) -> list[str]:
    return [
        NOT_RUN if pd.isna(numbers[0]) else f"{form} [{form}, {form}]".format(*numbers)
        for numbers in rows[["value", "ci_low", "ci_high"]].to_numpy(float)
    ]


def not_comparable(workspace: Workspace) -> pd.DataFrame:
    """What differs between the paper's tables and this run's: what, paper, this run, effect."""
    profile = workspace.profile
    sides = f", {profile.world.image_size} pixels" if profile.world else ""
    films, reports = f"real radiographs{sides}", "those under the data root"
    if profile.simulated:
        films, reports = f"simulated radiographs{sides}", "Open-I, some templated"
    run = {"films": films, "encoder": profile.encoder, "reports": reports}
    rows = read_json(PACKAGE_DATA / "paper_notes.json")["not_comparable"]
    table = pd.DataFrame(rows, columns=["what", "paper", "this run", "changes"])
    return table.assign(**{"this run": [text.format(**run) for text in table["this run"]]})


def slips() -> pd.DataFrame:
    """Slips in the paper that touch its tables: where, printed, probably meant."""
    rows = read_json(PACKAGE_DATA / "paper_notes.json")["slips"]
    return pd.DataFrame(rows, columns=["section", "printed", "meant"])


def reproduction_figure(workspace: Workspace, cells: pd.DataFrame) -> Figure:
    """RC-TPL's cells: ours with intervals, and apart the reported; reproduction.png and .pdf."""
    rows = cells[(cells["method"] == METHOD) & cells["value"].notna()]
    rows = rows if len(rows) else cells[cells["method"] == METHOD]  # nothing was run
    groups = dict(list(rows.groupby("table", sort=False)))
    figure, axes = panels(
        len(groups), 2, 0.19 * len(rows) + 0.35 * len(groups) + 1.1, sharex=True, sharey="row",
        height_ratios=[len(group) + 0.8 for group in groups.values()],
    )  # fmt: skip
    for (ours, reported), (number, group) in zip(axes, groups.items(), strict=True):
        places, several = range(len(group)), group["dataset"].nunique() > 1
        ours.errorbar(group["value"], places, xerr=plots.spread(group), fmt="o", ms=3.5, lw=1.2,
                      color=sns.color_palette("colorblind")[0])  # fmt: skip
        reported.plot(group["reported"], places, "D", ms=4, mfc="none", color="#D55E00")
        names = group["metric"].map(NAMES)
        names = group["dataset"].map(NAMES) + ": " + names if several else names
        ours.set_yticks(places, names)
        ours.set_ylim(len(group) - 0.4, -0.6)
        ours.set_title(f"Table {number}: {TABLES[number]}", fontsize=8, loc="left", pad=3)
        for axis in (ours, reported):
            axis.set_xlim(-0.02, 1.02)
            rule_lines(axis)
    axes[-1, 0].set_xlabel(f"{METHOD} in this run (share of 1)")
    axes[-1, 1].set_xlabel(f"{METHOD} as the paper reports it (share of 1)")
    note = (
        "Two columns, not to be compared line by line: on the left our run on these films with "
        "95 % intervals over patients and seeds, on the right what the paper prints, measured on "
        "real radiographs with other encoders and without intervals."
    )
    return finished(workspace, figure, "reproduction", note)


# --- the claims


def save_claims(workspace: Workspace) -> pd.DataFrame:
    """Test the ledger on this run's draws; write claims.csv (returned), claims_parts.csv, .md."""
    claims = load_claims()
    names = dict.fromkeys(part.draws for claim in claims for part in claim.parts())
    verdicts, parts = evaluate(
        claims,
        {name: load_draws(workspace.results, name) for name in names},
        absent(workspace, DATASETS),
        miniatures=workspace.profile.baselines is not None,
    )
    write_csv(workspace.figures / "claims.csv", verdicts)
    write_csv(workspace.figures / "claims_parts.csv", parts)
    lines = [
        f"**Claims of the paper and what this run says of them. {scope(workspace)}**",
        "",
        "Each test was fixed in the ledger (`rctpl_utils/data/claims.json`) before the run; "
        "those on Table 1 when an earlier run's Table 1 was known. Effect: left minus right (a "
        "ratio minus 1), the part that decides. p after Holm's correction over all tested "
        f"claims. {intervals_note(workspace)} Where the supervised reference lies inside the "
        "floor's range or below an AUC of 0.75, or a rival below its own starting point, a "
        "comparison counts neither way.",
        "",
    ]
    heads = (
        "claim", "the paper's words (section)", "test", "why this test", "effect", "p (Holm)",
        "verdict",
    )  # fmt: skip
    rows = [
        (
            row.in_words, f"“{row.quote}” ({row.section})", row.test, claim.why,
            _effect(row) if np.isfinite(row.effect) else "", _p(row.p_holm),
            row.verdict + (f" ({row.note})" if row.note else ""),
        )
        for claim, row in zip(claims, verdicts.itertuples(), strict=True)
    ]  # fmt: skip
    page = "\n".join([*lines, *markdown(heads, rows), ""])
    write_text(workspace.figures / "claims.md", page)
    return verdicts


def scope(workspace: Workspace) -> str:
    """Where the verdicts hold, as a sentence for captions."""
    name = workspace.profile.name
    if workspace.profile.simulated:
        return f"On the {name} world only: simulated radiographs, stand-in encoder."
    return f"On this run only. {data_note(workspace)}"


def summary(workspace: Workspace, verdicts: pd.DataFrame) -> str:
    """How many claims got which verdict, and which they are."""
    found = {
        name: verdicts.loc[verdicts["verdict"] == name, "in_words"].tolist() for name in VERDICTS
    }
    counts = {name: f"{len(names)} {name}" for name, names in found.items()}
    tested = ", ".join(counts[name] for name in TESTED)
    others = ", ".join(count for name, count in counts.items() if name not in TESTED)
    total = sum(len(found[name]) for name in TESTED)
    lines = [
        f"{len(verdicts)} claims, {total} tested: {tested}; {others}.",
        scope(workspace),
        *(f"{name.capitalize()}: {'; '.join(names)}." for name, names in found.items() if names),
    ]
    return "\n".join(lines)


def claims_figure(workspace: Workspace, verdicts: pd.DataFrame) -> Figure:
    """The tested claims' effects, one panel a unit, colored by verdict; claims.png and .pdf."""
    tested = verdicts[verdicts["verdict"].isin(TESTED)]
    parts = {(c.id, part.metrics[0]): part for c in load_claims() for part in c.parts()}
    decides = [parts.get(key) for key in zip(tested["claim"], tested["metric"], strict=True)]
    tested = tested.assign(margin=[part and part.margin for part in decides])
    groups = dict(list(tested.groupby([_unit(part) for part in decides], sort=False)))
    height = max(2.5, 0.25 * len(tested) + 0.42 * len(groups) + 1)
    ratios = [len(group) + 0.2 for group in groups.values()] or [1]
    figure, axes = panels(len(ratios), 1, height, height_ratios=ratios)
    for axis, (unit, group) in zip(axes[:, 0], groups.items(), strict=False):
        _draw_group(axis, group)
        axis.set_xlabel(unit)
    if groups:
        _write_cells(axes[0, 0], -1, ("effect [95 % interval]", "$p$", "Holm"), "black")
    else:
        axes[0, 0].tick_params(labelsize="medium")  # an empty axis
    marks = [
        Line2D([], [], color=color, marker=marker, ms=4.5, lw=1.2, label=verdict)
        for verdict, (color, marker) in LOOKS.items()
    ]
    margin = Line2D([], [], color=MARGIN, alpha=0.35, lw=7, label="margin of equivalence")
    plots.legend_above(figure, [*marks, margin], 4)
    note = (
        f"{scope(workspace)} Claimed: right of zero, where shaded inside the margin. Bars: the "
        "part that decides the claim, taken alone. A gray bar that clears zero is not a verdict: "
        f"color needs p < {ALPHA} after Holm's correction over the {len(tested)} tested claims "
        "(last column), and a claim of several parts needs all of them."
    )
    plots.caption(figure, note)
    plots.save_figure(figure, workspace.figures / "claims")
    return figure


def _unit(part: Comparison | None) -> str:
    """What a part's effect is measured in."""
    if part is None:
        return "not defined"
    if part.kind == "ratio" or not isinstance(part.left, str):
        return "ratio, minus 1"
    if part.kind == "equivalent" and part.metrics[0] == "centered_cosine":
        return "difference of the share of classes"
    return f"difference of {WORDS['units'][part.metrics[0]]}"


def _draw_group(axis: Axes, rows: pd.DataFrame) -> None:
    """The claims of one unit: intervals, the margins of equivalences, the numbers."""
    for place, row in enumerate(rows.itertuples()):
        if row.margin and np.isfinite(row.margin):
            ends = [-row.margin, row.margin]
            axis.fill_betweenx([place - 0.4, place + 0.4], *ends, color=MARGIN, alpha=0.35)
        color, marker = LOOKS[row.verdict]
        axis.plot([row.ci_low, row.ci_high], [place, place], color=color, lw=1.2)
        axis.plot(row.effect, place, marker=marker, ms=4.5, color=color, ls="")
        known = (_effect(row), _p(row.p_value), _p(row.p_holm))
        cells = known if np.isfinite(row.effect) else ("not defined in this run",)
        _write_cells(axis, place, cells, color)
    axis.axvline(0, color="0.3", lw=0.8)
    names = [fill(name, 50, break_on_hyphens=False) for name in rows["in_words"]]
    axis.set_yticks(range(len(rows)), names, linespacing=1.0)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.locator_params(axis="x", nbins=5)
    rule_lines(axis)


def _write_cells(axis: Axes, place: float, cells: Sequence[str], color: str) -> None:
    """Effect, p and Holm's p to the right of a line."""
    for words, (right, side) in zip(cells, _CELLS, strict=False):
        axis.annotate(
            words, (1, place), (right, 0), xycoords=axis.get_yaxis_transform(), va="center",
            textcoords="offset points", fontsize=TEXT, ha=side, color=color,
        )  # fmt: skip


def _effect(row: tuple) -> str:
    return f"{row.effect:+.3f} [{row.ci_low:+.3f}, {row.ci_high:+.3f}]"


def _p(value: float) -> str:
    if np.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
