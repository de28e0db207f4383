"""What notebook 10 writes of the claims: table, parts, summary in words, forest plot."""

from collections.abc import Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rctpl_utils.datasets import DATASETS
from rctpl_utils.datasets.splits import absent
from rctpl_utils.evaluation.results import data_note, intervals_note, load_draws, write_csv
from rctpl_utils.evaluation.retrieval import RANKS
from rctpl_utils.files import write_text
from rctpl_utils.plots import COLUMN_WIDTH, TEXT, caption, legend_above, rule_lines, save_figure
from rctpl_utils.reporting.claims import VERDICTS, Claim, Comparison, evaluate, load_claims
from rctpl_utils.reporting.common import ALPHA, markdown
from rctpl_utils.workspace import Workspace

LOOKS = {  # Okabe and Ito's palette; shapes differ too, for prints without color
    "supported": ("#009E73", "o"),
    "not supported": ("#D55E00", "X"),
    "undecided": ("#767676", "s"),
}
MARGIN = "#56B4E9"
CENTERED = "centered_cosine"
UNITS = {  # metric -> what its difference is of
    "auc": "AUC", "acc_oracle": "accuracy", "pointing_game": "pointing game (share of films)",
    **dict.fromkeys(
        ("region_recall", "region_precision", "dice_oracle"), "region recall, precision or Dice"
    ),
    **{f"precision_at_{k}": "Precision@K" for k in RANKS}, CENTERED: "centered cosine",
}  # fmt: skip
_CELLS = ((4, "left"), (132, "right"), (162, "right"))  # points right of an axis: the numbers
TESTED = tuple(LOOKS)  # verdicts that a test gave; the others say why there was none
_COLUMNS = (
    "claim", "in_words", "quote", "section", "test", "metric", "effect", "ci_low", "ci_high",
    "p_value", "p_holm", "verdict", "note",
)  # fmt: skip


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
    verdicts = verdicts[list(_COLUMNS)]
    write_csv(workspace.figures / "claims.csv", verdicts)
    write_csv(workspace.figures / "claims_parts.csv", parts)
    page = _markdown(claims, verdicts, scope(workspace), intervals_note(workspace))
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
    figure, axes = plt.subplots(
        max(len(groups), 1), 1, figsize=(COLUMN_WIDTH, height), squeeze=False,
        height_ratios=[len(group) + 0.2 for group in groups.values()] or [1], layout="constrained",
    )  # fmt: skip
    for axis, (unit, group) in zip(axes[:, 0], groups.items(), strict=False):
        _draw_group(axis, group)
        axis.set_xlabel(unit, fontsize=TEXT)
    if groups:
        _write_cells(axes[0, 0], -1, ("effect [95 % interval]", "$p$", "Holm"), "black")
    marks = [
        Line2D([], [], color=color, marker=marker, ms=4.5, lw=1.2, label=verdict)
        for verdict, (color, marker) in LOOKS.items()
    ]
    margin = Line2D([], [], color=MARGIN, alpha=0.35, lw=7, label="margin of equivalence")
    legend_above(figure, [*marks, margin], 4)
    note = (
        f"{scope(workspace)} Claimed: right of zero, where shaded inside the margin. Bars: the "
        "part that decides the claim, taken alone. A gray bar that clears zero is not a verdict: "
        f"color needs p < {ALPHA} after Holm's correction over the {len(tested)} tested claims "
        "(last column), and a claim of several parts needs all of them."
    )
    caption(figure, note)
    save_figure(figure, workspace.figures / "claims")
    return figure


def _unit(part: Comparison | None) -> str:
    """What a part's effect is measured in."""
    if part is None:
        return "not defined"
    if part.kind == "ratio" or not isinstance(part.left, str):
        return "ratio, minus 1"
    if part.kind == "equivalent" and part.metrics[0] == CENTERED:
        return "difference of the share of classes"
    return f"difference of {UNITS[part.metrics[0]]}"


def _draw_group(axis: Axes, rows: pd.DataFrame) -> None:
    """The claims of one unit, on a linear axis."""
    for place, row in enumerate(rows.itertuples()):
        _draw_claim(axis, place, row)
    axis.axvline(0, color="0.3", lw=0.8)
    names = [fill(name, 50, break_on_hyphens=False) for name in rows["in_words"]]
    axis.set_yticks(range(len(rows)), names, fontsize=TEXT, linespacing=1.0)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.locator_params(axis="x", nbins=5)
    rule_lines(axis)


def _draw_claim(axis: Axes, place: int, row: tuple) -> None:
    """One line of the forest: the interval, the margin of an equivalence, the numbers."""
    if row.margin and np.isfinite(row.margin):
        ends = [-row.margin, row.margin]
        axis.fill_betweenx([place - 0.4, place + 0.4], *ends, color=MARGIN, alpha=0.35)
    color, marker = LOOKS[row.verdict]
    axis.plot([row.ci_low, row.ci_high], [place, place], color=color, lw=1.2)
    axis.plot(row.effect, place, marker=marker, ms=4.5, color=color, ls="")
    known = (_effect(row), _p(row.p_value), _p(row.p_holm))
    cells = known if np.isfinite(row.effect) else ("not defined in this run",)
    _write_cells(axis, place, cells, color)


def _write_cells(axis: Axes, place: float, cells: Sequence[str], color: str) -> None:
    """Effect, p and Holm's p to the right of a line."""
    for words, (right, side) in zip(cells, _CELLS, strict=False):
        axis.annotate(
            words, (1, place), (right, 0), xycoords=axis.get_yaxis_transform(), va="center",
            textcoords="offset points", fontsize=TEXT, ha=side, color=color,
        )  # fmt: skip


def _markdown(claims: list[Claim], verdicts: pd.DataFrame, where: str, intervals: str) -> str:
    why = {claim.id: claim.why for claim in claims}
    lines = [
        f"**Claims of the paper and what this run says of them. {where}**",
        "",
        "Each test was fixed in the ledger (`rctpl_utils/data/claims.json`) before the run; "
        "those on Table 1 when an earlier run's Table 1 was known. Effect: left minus right (a "
        "ratio minus 1), the part that decides. p after Holm's correction over all tested "
        f"claims. {intervals} Where the supervised reference lies inside the floor's range or "
        "below an AUC of 0.75, or a rival below its own starting point, a comparison counts "
        "neither way.",
        "",
    ]
    heads = (
        "claim", "the paper's words (section)", "test", "why this test", "effect", "p (Holm)",
        "verdict",
    )  # fmt: skip
    rows = [
        (
            row.in_words, f"“{row.quote}” ({row.section})", row.test, why[row.claim],
            _effect(row) if np.isfinite(row.effect) else "", _p(row.p_holm),
            row.verdict + (f" ({row.note})" if row.note else ""),
        )
        for row in verdicts.itertuples()
    ]  # fmt: skip
    return "\n".join([*lines, *markdown(heads, rows), ""])


def _effect(row: tuple) -> str:
    return f"{row.effect:+.3f} [{row.ci_low:+.3f}, {row.ci_high:+.3f}]"


def _p(value: float) -> str:
    if np.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
