"""Where a lesion lies: sides, zones and annotation boxes turned into places inside the lungs."""

from dataclasses import dataclass

import numpy as np

from rctpl_utils.simulation.cases import Lesion
from rctpl_utils.simulation.scene import SIDES, Lung, Scene

# (u, spread of u, v, spread of v); None: anywhere. Searched in this order for part of the name.
ZONES: tuple[tuple[str, tuple[float | None, float, float | None, float]], ...] = (
    ("costophren", (0.9, 0.15, 0.9, 0.08)),
    ("cardiophren", (0.1, 0.15, 0.88, 0.08)),
    ("retrocardiac", (0.25, 0.15, 0.74, 0.1)),
    ("perihil", (0.25, 0.18, 0.46, 0.13)),
    ("hil", (0.15, 0.12, 0.46, 0.09)),
    ("lingula", (0.5, 0.2, 0.66, 0.09)),
    ("apex", (None, 1, 0.1, 0.07)),
    ("api", (None, 1, 0.1, 0.07)),
    ("upper", (None, 1, 0.24, 0.12)),
    ("mid", (None, 1, 0.52, 0.11)),
    ("bas", (None, 1, 0.83, 0.09)),
    ("lower", (None, 1, 0.74, 0.12)),
    ("periph", (0.85, 0.13, None, 1)),
)


@dataclass(frozen=True)
class Spot:
    """A place in a lung: center (column, row) and half axes in pixels."""

    lung: Lung
    column: float
    row: float
    half_width: float
    half_height: float


def lesion_sides(scene: Scene, lesion: Lesion, rng: np.random.Generator) -> tuple[str, ...]:
    """The sides a lesion is drawn on: its own, that of its box, or one by chance."""
    if lesion.side == "bilateral":
        return SIDES
    if lesion.side in SIDES:
        return (lesion.side,)
    if lesion.box is not None:
        x, _, width, _ = lesion.box
        middle = (scene.lungs["right"].hilum[0] + scene.lungs["left"].hilum[0]) / 2
        return ("right" if (x + width / 2) * scene.size < middle else "left",)
    return (SIDES[int(rng.integers(2))],)


def zone_weight(lung: Lung, zone: str | None) -> np.ndarray:
    """How much a place belongs to a zone: (H, W) float32, 0 outside the lung."""
    u0, su, v0, sv = next((box for key, box in ZONES if zone and key in zone), (None, 1, None, 1))
    weight = lung.mask.astype(np.float32)
    if not zone:  # what hides behind the heart is seldom reported
        weight *= 1 - 0.75 * np.exp(-((lung.u / 0.2) ** 2))
    if u0 is not None:
        weight = weight * np.exp(-0.5 * ((lung.u - u0) / su) ** 2)
    if v0 is not None:
        weight = weight * np.exp(-0.5 * ((lung.v - v0) / sv) ** 2)
    return weight


def spot(
    scene: Scene,
    lung: Lung,
    lesion: Lesion,
    rng: np.random.Generator,
    half: tuple[float, float],
    *,
    weight: np.ndarray | None = None,
    margin: float = 0.0,
) -> Spot:
    """Choose a lesion's center and half axes.

    A box gives both (moved into the lung where it lies outside); otherwise the center is drawn
    from the zone and `half` (mm) gives the axes.

    Args:
        weight: (H, W) preference on top of the zone.
        margin: mm that the center keeps from the lung's border where possible.
    """
    if lesion.box is not None:
        x, y, width, height = (part * scene.size for part in lesion.box)
        column, row = _into(lung, x + width / 2, y + height / 2)
        return Spot(lung, column, row, max(width / 2, 1.0), max(height / 2, 1.0))
    chance = zone_weight(lung, lesion.zone)
    chance = chance if weight is None else chance * weight
    if margin:
        inset = _inset(lung.mask, max(1, round(scene.pixels(margin))))
        chance = chance * inset if (chance * inset).sum() > 0 else chance
    column, row = draw_place(chance, rng)
    return Spot(lung, column, row, scene.pixels(half[0]), scene.pixels(half[1]))


def draw_place(chance: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Draw a pixel (column, row) with probability proportional to `chance`."""
    total = np.cumsum(chance, dtype=np.float64)
    if total[-1] <= 0:
        return (chance.shape[1] - 1) / 2, (chance.shape[0] - 1) / 2
    index = min(int(np.searchsorted(total, rng.random() * total[-1])), total.size - 1)
    return float(index % chance.shape[1]), float(index // chance.shape[1])


def _inset(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask less a border of `pixels` to the left, right and above."""
    inside = mask.copy()
    inside[:, pixels:] &= mask[:, :-pixels]
    inside[:, :-pixels] &= mask[:, pixels:]
    inside[pixels:] &= mask[:-pixels]
    return inside


def _into(lung: Lung, column: float, row: float) -> tuple[float, float]:
    """The nearest place well inside the lung."""
    rows, columns = np.nonzero(lung.mask & (lung.u > 0.1) & (lung.u < 0.95) & (lung.v < 0.95))
    if not rows.size:
        return lung.hilum
    nearest = np.argmin((columns - column) ** 2 + (rows - row) ** 2)
    return float(columns[nearest]), float(rows[nearest])
