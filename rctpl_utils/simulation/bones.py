"""Rib fractures: a step in a rib's course, a dark line, or the callus of a healing one."""

import cv2
import numpy as np

from rctpl_utils.simulation.body import Body
from rctpl_utils.simulation.cases import Lesion
from rctpl_utils.simulation.effect import Effect, between, combine
from rctpl_utils.simulation.places import ZONES
from rctpl_utils.simulation.scene import SIDES, Scene

_PER_SIDE = 9  # ribs 2 to 10


def fracture(scene: Scene, body: Body, lesion: Lesion, rng: np.random.Generator) -> Effect:
    """One to four neighboring ribs of one side, each broken at about the same angle."""
    sides = SIDES if lesion.side == "bilateral" else (lesion.side,)
    drawn = []
    for side in sides:
        chosen = side if side in SIDES else SIDES[int(rng.integers(2))]
        first, where = _first_rib(lesion, rng), rng.uniform(0.35, 0.75)
        for k in range(1 + rng.binomial(4, 0.3 + 0.5 * lesion.severity)):
            rib = min(first + k, _PER_SIDE - 1)
            place = float(np.clip(where + rng.normal(0, 0.04), 0.2, 0.85))
            drawn.append(_break(scene, chosen, rib, place, lesion.severity, rng))
    return combine(drawn)


def _first_rib(lesion: Lesion, rng: np.random.Generator) -> int:
    """The uppermost broken rib, by the height of the zone or box."""
    height = next((v for key, (_, _, v, _) in ZONES if lesion.zone and key in lesion.zone), None)
    if lesion.box is not None:
        height = float(np.clip((lesion.box[1] + lesion.box[3] / 2 - 0.15) / 0.6, 0, 1))
    if height is None:
        return int(rng.integers(1, _PER_SIDE - 1))
    return int(np.clip(round(height * (_PER_SIDE - 1) + rng.normal(0, 0.7)), 0, _PER_SIDE - 1))


def _break(
    scene: Scene, side: str, rib: int, where: float, severity: float, rng: np.random.Generator
) -> Effect:
    """Break one rib at a share `where` of its length from the spine."""
    line = scene.anatomy.ribs[scene.pose, rib + _PER_SIDE * SIDES.index(side)]  # (K, 2)
    at = int(np.clip(where * (len(line) - 1), 2, len(line) - 3))
    points = scene.locate(line[at - 2 : at + 3])
    center = points.mean(0)
    along = points[-1] - points[0]
    along = along / max(np.hypot(*along), 1e-6)
    bone = scene.channel(f"ribs {side}")
    column, row = scene.coordinates()
    x, y = column - center[0], row - center[1]
    lengthwise, across = x * along[0] + y * along[1], y * along[0] - x * along[1]
    reach = scene.pixels(between(rng, severity, 14, 26))
    window = np.clip(1.6 - 1.6 * np.hypot(x, y) / reach, 0, 1)
    change = _step(bone, lengthwise, along, scene, severity, rng) * window
    change += _healing(scene, lengthwise, across, severity, rng) * (window > 0)
    mask = np.hypot(x, y) < 0.8 * reach
    return Effect(change.astype(np.float32), mask)


def _step(
    bone: np.ndarray,
    lengthwise: np.ndarray,
    along: np.ndarray,
    scene: Scene,
    severity: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """The far fragment moved across the rib's course, with a dark gap, (H, W) attenuation."""
    shift = scene.pixels(between(rng, severity, 3.0, 11)) * (1 if rng.random() < 0.5 else -1)
    column, row = scene.coordinates()
    far = np.clip(lengthwise + 0.5, 0, 1).astype(np.float32)
    source_x = (column - far * shift * -along[1]).astype(np.float32)
    source_y = (row - far * shift * along[0]).astype(np.float32)
    moved = cv2.remap(bone, source_x, source_y, cv2.INTER_LINEAR)
    gap = np.exp(-((lengthwise / max(scene.pixels(1.3), 0.7)) ** 2)) * between(
        rng, severity, 0.3, 0.9
    )
    return 1.1 * (moved * (1 - gap) - bone)


def _healing(
    scene: Scene,
    lengthwise: np.ndarray,
    across: np.ndarray,
    severity: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Callus: a spindle of new bone around the break, in half of the cases."""
    if rng.random() < 0.5:
        return np.zeros_like(lengthwise)
    long, wide = scene.pixels(rng.uniform(6, 10)), scene.pixels(rng.uniform(5, 8))
    spindle = np.exp(-((lengthwise / long) ** 2) - (across / wide) ** 2)
    return spindle * between(rng, severity, 0.2, 0.8)
