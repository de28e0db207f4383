"""How a film is drawn with map, box and outlines: pixels, maps and bool masks, all (H, W)."""

import numpy as np
from matplotlib.axes import Axes

from rctpl_utils.evaluation.grounding_metrics import pointing_hit
from rctpl_utils.evaluation.heat_maps import peak
from rctpl_utils.plots import REGION_COLOR

# Okabe and Ito's palette, for the outlines on one film
OUTLINES = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2", "#FFFFFF")
BOX_COLOR = OUTLINES[0]


def draw_film(axis: Axes, pixels: np.ndarray) -> None:
    """A film in gray, its values from 0 to 1."""
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])


def draw_overlay(axis: Axes, heat: np.ndarray) -> None:
    """A heat map over what is there, clear at 0."""
    axis.imshow(heat, cmap="inferno", alpha=0.65 * heat.clip(0, 1), vmin=0, vmax=1)


def draw_heat(axis: Axes, pixels: np.ndarray, heat: np.ndarray) -> None:
    """A film under its heat map, shown from 0 (the film alone) to 1."""
    draw_film(axis, pixels)
    draw_overlay(axis, heat)


def draw_map(axis: Axes, pixels: np.ndarray, heat: np.ndarray, mask: np.ndarray) -> None:
    """`draw_heat`, with the box and the map's maximum, filled where it lies in the box."""
    draw_heat(axis, pixels, heat)
    outline(axis, mask, BOX_COLOR)
    down, across = peak(heat)
    axis.plot(
        across, down, "X", ms=5, mew=0.7, mec="white",
        mfc="white" if pointing_hit(heat, mask) else "none",
    )  # fmt: skip


def fill_region(axis: Axes, region: np.ndarray) -> None:
    """A bool region in yellow; holes in it stay as they are."""
    axis.contourf(region.astype(float), [0.5, 1.5], colors=REGION_COLOR, alpha=0.45)


def outline(axis: Axes, mask: np.ndarray, color: str) -> None:
    """The border of a bool mask; padded, so that it closes at the film's edge."""
    height, width = mask.shape
    around = np.pad(mask.astype(float), 1)
    axis.contour(
        np.arange(-1, width + 1), np.arange(-1, height + 1), around, [0.5],
        colors=color, linewidths=1.1,
    )  # fmt: skip
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
