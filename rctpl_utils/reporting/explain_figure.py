"""One page that a person can read: the film, what is found where, how sure one may be, and why."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rctpl_utils.encoders.frame import on_film
from rctpl_utils.evaluation.explain import ANY_PICTURE, Explanation, Finding
from rctpl_utils.evaluation.film_places import region
from rctpl_utils.evaluation.heat_maps import on_scale, stretch
from rctpl_utils.evaluation.likelihood_ratio import CANNOT_TELL, NO_EVIDENCE, NOT_CALIBRATED
from rctpl_utils.plots import COLUMN_WIDTH, TEXT, UNSEEN_COLOR
from rctpl_utils.reporting.common import draw_film

SHOWN = 3  # findings whose regions and knowledge are shown
_LINE = 0.155  # inches a line of the table
_COLUMNS = (
    ("concept", 0.0), ("score", 0.22), ("found", 0.28), ("evidence", 0.34), ("ratio", 0.44),
    ("films as high with it", 0.59), ("where, if found", 0.82),
)  # fmt: skip


def shown_findings(explanation: Explanation) -> list[Finding]:
    """The best findings that are found with some evidence, at most `SHOWN`."""
    silent = (NO_EVIDENCE, CANNOT_TELL, NOT_CALIBRATED)
    found = [each for each in explanation.findings if each.found and each.grade not in silent]
    return found[:SHOWN]


def draw_explanation(image: np.ndarray, explanation: Explanation, title: str = "") -> Figure:
    """Draw the page of a film, float (H, W) in [0, 1]."""
    shown = shown_findings(explanation)
    table_height = _LINE * (len(explanation.findings) + 3.2)
    knowledge = _knowledge_lines(shown)
    heights = [3.1, table_height, 0.125 * len(knowledge) + 0.1, 1.1]
    figure = plt.figure(figsize=(COLUMN_WIDTH, sum(heights) + 0.35), layout="constrained")
    grid = figure.add_gridspec(4, 2, height_ratios=heights, width_ratios=(1, 1.1))
    colors = sns.color_palette("colorblind", SHOWN)
    _draw_film(figure.add_subplot(grid[0, 0]), image, shown, colors)
    _draw_maps(figure, grid[0, 1], image, explanation, shown)
    _draw_table(figure.add_subplot(grid[1, :]), explanation, shown, colors)
    _write(figure.add_subplot(grid[2, :]), knowledge)
    _draw_warning(figure.add_subplot(grid[3, :]), explanation)
    figure.suptitle(title or "What the model says about this film", fontsize=9)
    return figure


def film_map(finding: Finding, size: tuple[int, int]) -> np.ndarray:
    """A finding's heat map on the film's own pixels, (H, W)."""
    return on_film(torch.from_numpy(finding.heat_map)[None], size)[0].numpy()


def _draw_film(axis: Axes, image: np.ndarray, shown: list[Finding], colors: list) -> None:
    draw_film(axis, image)
    for finding, color in zip(shown, colors, strict=False):
        heat = film_map(finding, image.shape)
        if finding.place is not None:
            axis.contour(heat, [region(heat)[1]], colors=[color], linewidths=1.3)
        down, across = (share * n for share, n in zip(finding.peak, image.shape, strict=True))
        axis.plot(across - 0.5, down - 0.5, "+", color=color, ms=7, mew=1.3)
    if shown:
        lines = [Line2D([], [], color=color) for _, color in zip(shown, colors, strict=False)]
        names = [each.concept for each in shown]
        axis.legend(
            lines, names, loc="lower center", bbox_to_anchor=(0.5, -0.16), ncols=len(shown),
            fontsize=TEXT, frameon=False, handlelength=1, columnspacing=0.8,
        )  # fmt: skip
    for place, word, side in ((0.02, "R", "left"), (0.98, "L", "right")):
        style = {"color": "white", "fontsize": 8, "va": "top", "ha": side}
        axis.text(place, 0.98, word, transform=axis.transAxes, **style)
    axis.set_title("outline: region, +: its maximum; R, L: the patient's sides", fontsize=TEXT)


def _draw_maps(
    figure: Figure, place: object, image: np.ndarray, explanation: Explanation, shown: list[Finding]
) -> None:
    """Above on one scale for all films, where a weak map looks weak; below by their own range."""
    if not shown:
        axis = figure.add_subplot(place)
        axis.axis("off")
        axis.text(0, 0.5, textwrap.fill(nothing_shown(explanation), 44), fontsize=8, va="center")
        return
    grid = place.subgridspec(2, SHOWN)
    for k, finding in enumerate(shown):
        cells = torch.from_numpy(film_map(finding, image.shape))[None]
        above, below = figure.add_subplot(grid[0, k]), figure.add_subplot(grid[1, k])
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


def _draw_table(axis: Axes, explanation: Explanation, shown: list[Finding], colors: list) -> None:
    count = len(explanation.findings)
    axis.axis("off")
    axis.set(xlim=(0, 1), ylim=(count + 3.2, 0))
    for name, left in _COLUMNS:
        _text(axis, left, 0.7, name, fontsize=TEXT, weight="bold", va="center")
    axis.plot([0, 1], [1.2, 1.2], color="0.3", lw=0.6)
    marks = {each.concept: color for each, color in zip(shown, colors, strict=False)}
    for row, finding in enumerate(explanation.findings):
        gray = "0.0" if finding.concept in marks else "0.35"
        for (_, left), cell in zip(_COLUMNS, _cells(finding), strict=True):
            _text(axis, left, row + 1.75, cell, fontsize=TEXT, va="center", color=gray)
        if finding.concept in marks:
            axis.plot([-0.012], [row + 1.75], "s", color=marks[finding.concept], ms=4,
                      clip_on=False)  # fmt: skip
    axis.plot([0, 1], [count + 1.4, count + 1.4], color="0.3", lw=0.6)
    note = (
        "found: score at or above the validation threshold; ratio: likelihood ratio [95 %]; films "
        "as high: validation films above the score's most telling cut. left, right: the patient's."
    )
    _text(axis, 0, count + 1.65, textwrap.fill(note, 122), fontsize=TEXT, va="top", color="0.3")


def _cells(finding: Finding) -> tuple[str, ...]:
    of, where = finding.evidence, str(finding.place if finding.found and finding.place else "-")
    start = (finding.concept, f"{finding.score:.3f}")
    if of is None:
        return (*start, "-", NOT_CALIBRATED, "-", "-", where)
    low, high = _short(of.ratio_low), _short(of.ratio_high)
    ratio = f"{_short(of.likelihood_ratio)} [{low}, {high}]"
    films = f"{of.as_high_present} of {of.as_high} ({of.ppv:.0%}); {of.prevalence:.0%} of all"
    grade = "cannot tell" if finding.grade == CANNOT_TELL else finding.grade
    return (*start, "yes" if finding.found else "no", grade, ratio, films, where)


def _short(ratio: float) -> str:
    return ">100" if ratio > 100 else f"{ratio:.1f}"


def _knowledge_lines(shown: list[Finding]) -> list[tuple[str, str]]:
    """What is known of the shown concepts, wrapped: (line, color)."""
    lines = []
    for finding in shown:
        lines += [(line, "0.0") for line in textwrap.wrap(finding.sentence, 122)]
        if source := finding.record.get("source"):
            lines += [(line, "0.4") for line in textwrap.wrap(f"Source: {source}", 122)]
    return lines


def _write(axis: Axes, lines: list[tuple[str, str]]) -> None:
    axis.axis("off")
    axis.set(xlim=(0, 1), ylim=(max(len(lines), 1), 0))
    for row, (line, color) in enumerate(lines):
        _text(axis, 0, row + 0.5, line, fontsize=TEXT, va="center", color=color)


def _draw_warning(axis: Axes, explanation: Explanation) -> None:
    of = explanation.provenance
    axis.axis("off")
    _text(axis, 0, 1, explanation.warning, fontsize=8, weight="bold", va="top", color=UNSEEN_COLOR)
    small = (
        f"{explanation.domain_note} {ANY_PICTURE}",
        "Sides and zones are often wrong: notebook 09 says how often.",
        f"Prompts {of['prompts_variant']}, seed {of['prompts_seed']}, key "
        f"{of['prompts_key'][:12]}; {of['prompts_encoder']}; package {of['package_version']}; "
        f"knowledge {of['knowledge']}. Calibration: {of['calibration']}",
    )
    small = "\n".join(textwrap.fill(each, 122) for each in small)
    _text(axis, 0, 0.8, small, fontsize=TEXT, va="top", color="0.25")


def _text(axis: Axes, x: float, y: float, words: str, **style: object) -> None:
    """Text that the layout does not make room for: it would narrow the axes below it."""
    axis.text(x, y, words, **style).set_in_layout(False)
