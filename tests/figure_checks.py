"""Checks of a figure, whatever it shows: what a reader needs to be able to read it."""

import itertools
import re
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from rctpl_utils.plots import COLUMN_WIDTH, TEXT

SLACK = 0.5  # pixels, at 100 a inch: boxes that only touch do not overlap
NUMBER = re.compile(r"[\d.,+\N{MINUS SIGN}-]+%?")


def made_workspace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What a figure asks of a workspace; files are empty, since writing takes the longest."""
    monkeypatch.setattr(Figure, "savefig", lambda _self, path, **_style: Path(path).touch())
    profile = SimpleNamespace(name="toy", simulated=True, seeds=(0, 1, 2))
    return SimpleNamespace(profile=profile, results=folder, figures=folder, features=folder)


def drawn_texts(figure: Figure) -> list[tuple[Text, Bbox]]:
    """The texts that are drawn, each with its box on the canvas; ticks out of view are not."""
    figure.set_dpi(100)
    canvas, found, draw = FigureCanvasAgg(figure), [], Text.draw

    def record(text: Text, *args: object, **kwargs: object) -> None:
        if text.get_visible() and text.get_text().strip():
            found.append(text)
        draw(text, *args, **kwargs)

    canvas.draw()  # lays out
    with mock.patch.object(Text, "draw", record):
        canvas.draw()
    renderer = canvas.get_renderer()
    return [(text, Text.get_window_extent(text, renderer)) for text in dict.fromkeys(found)]


def assert_readable(figure: Figure) -> None:
    """No text overlaps another, leaves the canvas or is too small; numbers on axes have a label."""
    assert figure.get_size_inches()[0] <= COLUMN_WIDTH
    texts = drawn_texts(figure)
    assert figure.get_supxlabel(), "no caption"
    small = [text.get_text() for text, _ in texts if text.get_fontsize() < TEXT]
    assert not small, f"smaller than {TEXT} point: {small}"
    canvas = figure.bbox.padded(SLACK)
    outside = [
        text.get_text()
        for text, box in texts
        if not (canvas.contains(box.x0, box.y0) and canvas.contains(box.x1, box.y1))
    ]
    assert not outside, f"leave the canvas: {outside}"
    overlapping = [
        (first.get_text(), second.get_text())
        for (first, a), (second, b) in itertools.combinations(texts, 2)
        if a.padded(-SLACK).overlaps(b.padded(-SLACK))
    ]
    assert not overlapping, f"overlap: {overlapping}"
    drawn = {text for text, _ in texts}
    for axis in (each for axes in figure.axes for each in (axes.xaxis, axes.yaxis)):
        labels = [each.get_text() for each in axis.get_ticklabels() if each in drawn]
        numbers = labels and all(NUMBER.fullmatch(each) for each in labels)
        assert not (numbers and _bare(axis)), f"numbers without a label: {labels}"


def _bare(axis: Axis) -> bool:
    """Neither the axis nor another one of its row or column says what its numbers are."""
    name, span = axis.axis_name, {"x": "colspan", "y": "rowspan"}[axis.axis_name]

    def place(axes: Axes) -> object:
        return getattr(axes.get_subplotspec(), span, None)

    line = [each for each in axis.axes.figure.axes if place(each) == place(axis.axes)]
    return not any(getattr(each, f"get_{name}label")() for each in line)
