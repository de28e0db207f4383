"""One page that a person can read: the film, what is found where, how sure one may be, and why."""

from textwrap import fill, wrap

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecBase
from matplotlib.lines import Line2D

from rctpl_utils.encoders.frame import on_film
from rctpl_utils.evaluation.calibration import CANNOT_TELL, NO_EVIDENCE, NOT_CALIBRATED
from rctpl_utils.evaluation.explain import ANY_PICTURE, Explanation, Finding, region
from rctpl_utils.evaluation.grounding_metrics import on_scale, stretch
from rctpl_utils.plots import COLUMN_WIDTH, TEXT, UNSEEN_COLOR
from rctpl_utils.reporting.common import draw_film

SHOWN = 3  # findings whose regions and knowledge are shown
_LINE = 0.155  # inches a line of the table
_WIDE = 122  # characters of a line
_COLUMNS = {
    "concept": 0.0, "score": 0.22, "found": 0.28, "evidence": 0.34, "ratio": 0.44,
    "films as high with it": 0.59, "where, if found": 0.82,
}  # fmt: skip


def shown_findings(explanation: Explanation) -> list[Finding]:
    """The best findings that are found with some evidence, at most `SHOWN`."""
    silent = (NO_EVIDENCE, CANNOT_TELL, NOT_CALIBRATED)
    found = [each for each in explanation.findings if each.found and each.grade not in silent]
    return found[:SHOWN]


def draw_explanation(image: np.ndarray, explanation: Explanation, title: str = "") -> Figure:
    """Draw the page of a film, float (H, W) in [0, 1]."""
    shown = shown_findings(explanation)
    knowledge = []  # of the shown concepts, line by line, and its color
    for finding in shown:
        knowledge += [(line, "0.0") for line in wrap(finding.sentence, _WIDE)]
        if source := finding.record.get("source"):
            knowledge += [(line, "0.4") for line in wrap(f"Source: {source}", _WIDE)]
    table_height = _LINE * (len(explanation.findings) + 3.2)
    heights = [3.1, table_height, 0.125 * len(knowledge) + 0.1, 1.1]
    figure = plt.figure(figsize=(COLUMN_WIDTH, sum(heights) + 0.35), layout="constrained")
    grid = figure.add_gridspec(4, 2, height_ratios=heights, width_ratios=(1, 1.1))
    palette = sns.color_palette("colorblind", len(shown))
    colors = dict(zip([each.concept for each in shown], palette, strict=True))
    _draw_film(figure.add_subplot(grid[0, 0]), image, shown, colors)
    if shown:
        _draw_maps(grid[0, 1].subgridspec(2, SHOWN), image, explanation)
    else:
        axis = figure.add_subplot(grid[0, 1])
        axis.axis("off")
        axis.text(0, 0.5, fill(nothing_shown(explanation), 44), fontsize=8, va="center")
    _draw_table(figure.add_subplot(grid[1, :]), explanation, colors)
    axis = _paper(figure.add_subplot(grid[2, :]), max(len(knowledge), 1))
    for row, (line, color) in enumerate(knowledge):
        _text(axis, 0, row + 0.5, line, color=color)
    _draw_warning(_paper(figure.add_subplot(grid[3, :]), 1), explanation)
    figure.suptitle(title or "What the model says about this film", fontsize=9)
    return figure


def film_map(finding: Finding, size: tuple[int, int]) -> np.ndarray:
    """A finding's heat map on the film's own pixels, (H, W)."""
    return on_film(torch.from_numpy(finding.heat_map)[None], size)[0].numpy()


def _draw_film(axis: Axes, image: np.ndarray, shown: list[Finding], colors: dict) -> None:
    draw_film(axis, image)
    for finding in shown:
        color = colors[finding.concept]
        heat = film_map(finding, image.shape)
        if finding.place is not None:
            axis.contour(heat, [region(heat)[1]], colors=[color], linewidths=1.3)
        down, across = (share * n for share, n in zip(finding.peak, image.shape, strict=True))
        axis.plot(across - 0.5, down - 0.5, "+", color=color, ms=7, mew=1.3)
    if shown:
        axis.legend(
            [Line2D([], [], color=color) for color in colors.values()], colors,
            loc="lower center", bbox_to_anchor=(0.5, -0.16), ncols=len(shown),
            fontsize=TEXT, frameon=False, handlelength=1, columnspacing=0.8,
        )  # fmt: skip
    for place, word, side in ((0.02, "R", "left"), (0.98, "L", "right")):
        style = {"color": "white", "fontsize": 8, "va": "top", "ha": side}
        axis.text(place, 0.98, word, transform=axis.transAxes, **style)
    axis.set_title("outline: region, +: its maximum; R, L: the patient's sides", fontsize=TEXT)


def _draw_maps(grid: GridSpecBase, image: np.ndarray, explanation: Explanation) -> None:
    """Above on one scale for all films, where a weak map looks weak; below by their own range."""
    for k, finding in enumerate(shown_findings(explanation)):
        cells = torch.from_numpy(film_map(finding, image.shape))[None]
        above, below = (grid.figure.add_subplot(grid[line, k]) for line in (0, 1))
        above.set_title(f"{finding.concept}\n{finding.grade}", fontsize=TEXT)
        if explanation.scale is not None:
            draw_film(above, image, on_scale(cells, explanation.scale)[0].numpy())
        draw_film(below, image, stretch(cells)[0].numpy())
        if k == 0:
            below.set_ylabel("own range", fontsize=TEXT)
            if explanation.scale is not None:
                ends = "cosines {:.2f} to {:.2f}".format(*explanation.scale)
                above.set_ylabel(ends, fontsize=TEXT)


def nothing_shown(explanation: Explanation) -> str:
    """Why no finding is shown."""
    if explanation.outside:
        return explanation.domain_note
    return "No concept reaches its threshold with any evidence."


def _draw_table(axis: Axes, explanation: Explanation, colors: dict) -> None:
    count = len(explanation.findings)
    _paper(axis, count + 3.2)
    for name, left in _COLUMNS.items():
        _text(axis, left, 0.7, name, weight="bold")
    for row, finding in enumerate(explanation.findings):
        color = colors.get(finding.concept)
        for left, cell in zip(_COLUMNS.values(), _cells(finding), strict=True):
            _text(axis, left, row + 1.75, cell, color="0.35" if color is None else "0.0")
        if color is not None:
            axis.plot([-0.012], [row + 1.75], "s", color=color, ms=4, clip_on=False)
    for height in (1.2, count + 1.4):
        axis.plot([0, 1], [height, height], color="0.3", lw=0.6)
    note = (
        "found: score at or above the validation threshold; ratio: likelihood ratio [95 %]; films "
        "as high: validation films above the score's most telling cut. left, right: the patient's."
    )
    _text(axis, 0, count + 1.65, fill(note, _WIDE), va="top", color="0.3")


def _cells(finding: Finding) -> tuple[str, ...]:
    of, where = finding.evidence, str(finding.place if finding.found and finding.place else "-")
    start = (finding.concept, f"{finding.score:.3f}")
    if of is None:
        return (*start, "-", NOT_CALIBRATED, "-", "-", where)
    ratios = (of.likelihood_ratio, of.ratio_low, of.ratio_high)
    ratio = "{} [{}, {}]".format(*(">100" if r > 100 else f"{r:.1f}" for r in ratios))
    films = f"{of.as_high_present} of {of.as_high} ({of.ppv:.0%}); {of.prevalence:.0%} of all"
    grade = "cannot tell" if finding.grade == CANNOT_TELL else finding.grade
    return (*start, "yes" if finding.found else "no", grade, ratio, films, where)


def _draw_warning(axis: Axes, explanation: Explanation) -> None:
    of = explanation.provenance
    _text(axis, 0, 0, explanation.warning, fontsize=8, weight="bold", va="top", color=UNSEEN_COLOR)
    small = (
        f"{explanation.domain_note} {ANY_PICTURE}",
        "Sides and zones are often wrong: notebook 09 says how often.",
        f"Prompts {of['prompts_variant']}, seed {of['prompts_seed']}, key "
        f"{of['prompts_key'][:12]}; {of['prompts_encoder']}; package {of['package_version']}; "
        f"knowledge {of['knowledge']}. Calibration: {of['calibration']}",
    )
    small = "\n".join(fill(each, _WIDE) for each in small)
    _text(axis, 0, 0.2, small, va="top", color="0.25")


def _paper(axis: Axes, lines: float) -> Axes:
    """An empty axis for text, its lines counted from above."""
    axis.axis("off")
    axis.set(xlim=(0, 1), ylim=(lines, 0))
    return axis


def _text(axis: Axes, x: float, y: float, words: str, **style: object) -> None:
    """Text that the layout does not make room for: it would narrow the axes below it."""
    axis.text(x, y, words, **{"fontsize": TEXT, "va": "center", **style}).set_in_layout(False)
