"""What notebook 10 writes of the claims: table, parts, summary in words, forest plot."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rctpl_utils.datasets import DATASETS
from rctpl_utils.datasets.availability import absent
from rctpl_utils.evaluation.bootstrap_samples import load_draws
from rctpl_utils.evaluation.results import data_note, intervals_note, write_csv
from rctpl_utils.files import write_text
from rctpl_utils.plots import COLUMN_WIDTH, save_figure
from rctpl_utils.reporting.claims import VERDICTS, evaluate
from rctpl_utils.reporting.claims_schema import Claim, load_claims
from rctpl_utils.reporting.common import markdown
from rctpl_utils.workspace import Workspace

LOOKS = {  # Okabe and Ito's palette; shapes differ too, for prints without color
    "supported": ("#009E73", "o"),
    "not supported": ("#D55E00", "X"),
    "undecided": ("#767676", "s"),
}
TESTED = tuple(LOOKS)  # verdicts that a test gave; the others say why there was none
_COLUMNS = (
    "claim", "in_words", "quote", "section", "test", "effect", "ci_low", "ci_high", "p_value",
    "p_holm", "verdict", "note",
)  # fmt: skip


def save_claims(workspace: Workspace) -> pd.DataFrame:
    """Test the ledger on this run's draws; write claims.csv, claims_parts.csv and claims.md.

    Returns:
        the verdicts, one row a claim (columns of claims.csv).

    Raises:
        InputError: a notebook before this one has not run.
    """
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
    """The tested claims' effects with intervals, colored by verdict; claims.png and claims.pdf."""
    tested = verdicts[verdicts["verdict"].isin(TESTED)].reset_index(drop=True)
    margins = {
        claim.id: part.margin for claim in load_claims() for part in claim.parts() if part.margin
    }
    figure, axis = plt.subplots(
        figsize=(COLUMN_WIDTH, 0.24 * len(tested) + 1.2), layout="constrained"
    )
    for place, row in enumerate(tested.itertuples()):
        _draw_claim(axis, place, row, margins)
    axis.axvline(0, color="0.3", lw=0.8)
    axis.set_yticks(range(len(tested)), tested["in_words"], fontsize=7)
    axis.set_ylim(len(tested) - 0.4, -0.6)
    reach = np.nanmax(np.r_[0.02, tested[["ci_low", "ci_high"]].abs().to_numpy().ravel()])
    axis.set_xscale("symlog", linthresh=0.02, linscale=0.6)  # effects of 0.005 and of 0.5 alike
    axis.set_xlim(-1.3 * reach, 1.3 * reach)
    ticks = np.array([t for t in (0.01, 0.05, 0.2, 1.0, 5.0) if t <= 1.3 * reach])
    ticks = np.r_[-ticks[::-1], 0, ticks]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=7)
    axis.minorticks_off()
    label = "effect; claimed: above 0, where shaded inside the margin"
    axis.set_xlabel(f"{label} (logarithmic beyond ±0.02)", fontsize=8)
    axis.grid(axis="y", color="0.92", lw=0.6)
    axis.set_axisbelow(True)
    figure.legend(handles=_legend(), loc="outside upper center", ncols=4, fontsize=7)
    note = "Bars: 95 % intervals of the part that decides; color: after Holm's correction."
    figure.supxlabel(f"{scope(workspace)} {note}", fontsize=6)
    save_figure(figure, workspace.figures / "claims")
    return figure


def _draw_claim(axis: Axes, place: int, row: tuple, margins: Mapping[str, float]) -> None:
    """One line of the forest: the interval, the margin of an equivalence, the numbers."""
    if row.claim in margins:
        margin = margins[row.claim]
        axis.fill_betweenx([place - 0.4, place + 0.4], -margin, margin, color="#56B4E9", alpha=0.35)
    color, marker = LOOKS[row.verdict]
    axis.plot([row.ci_low, row.ci_high], [place, place], color=color, lw=1.2)
    axis.plot(row.effect, place, marker=marker, ms=4.5, color=color, ls="")
    numbers = f"{row.effect:+.3f} [{row.ci_low:+.3f}, {row.ci_high:+.3f}]"
    axis.text(
        1.01, place, numbers if np.isfinite(row.effect) else "not defined in this run",
        transform=axis.get_yaxis_transform(), fontsize=6, va="center", color=color,
    )  # fmt: skip


def _legend() -> list[Line2D]:
    marks = [
        Line2D([], [], color=color, marker=marker, ms=4.5, lw=1.2, label=verdict)
        for verdict, (color, marker) in LOOKS.items()
    ]
    margin = Line2D([], [], color="#56B4E9", alpha=0.35, lw=7, label="margin of equivalence")
    return [*marks, margin]


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
    rows = []
    for row in verdicts.itertuples():
        effect = f"{row.effect:+.3f} [{row.ci_low:+.3f}, {row.ci_high:+.3f}]"
        verdict = row.verdict + (f" ({row.note})" if row.note else "")
        cells = (
            row.in_words, f"“{row.quote}” ({row.section})", row.test, why[row.claim],
            effect if np.isfinite(row.effect) else "", _p(row.p_holm), verdict,
        )  # fmt: skip
        rows.append(cells)
    return "\n".join([*lines, *markdown(heads, rows), ""])


def _p(value: float) -> str:
    if np.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
