"""Support devices: pacemaker, central line, tracheal tube, chest tube, sternal wires."""

import cv2
import numpy as np

from rctpl_utils.simulation.body import Body
from rctpl_utils.simulation.cases import Lesion
from rctpl_utils.simulation.effect import Effect, combine
from rctpl_utils.simulation.scene import SIDES, Scene
from rctpl_utils.simulation.texture import Path, curve, strokes


def support_devices(scene: Scene, body: Body, lesion: Lesion, rng: np.random.Generator) -> Effect:
    """One to three devices; a grosser severity means more and denser ones."""
    kinds = (_central_line, _tracheal_tube, _pacemaker, _sternal_wires, _chest_tube, _feeding_tube)
    count = 1 + rng.binomial(2, 0.15 + 0.5 * lesion.severity)
    chance = np.array([0.3, 0.16, 0.18, 0.14, 0.1, 0.12])
    chosen = rng.choice(len(kinds), count, replace=False, p=chance)
    side = lesion.side if lesion.side in SIDES else SIDES[int(rng.integers(2))]
    strength = (0.26 + 0.6 * lesion.severity) * rng.uniform(0.8, 1.25)
    return combine([kinds[k](scene, side, strength, rng) for k in chosen])


def _tube(
    scene: Scene, paths: list[Path], width: float, strength: float, *, hollow: bool = False
) -> Effect:
    """Curves `width` mm wide; a hollow tube is densest at its walls."""
    ink = strokes(scene.size, paths, scene.pixels(width))
    if hollow:
        ink = ink - 0.45 * strokes(scene.size, paths, scene.pixels(width * 0.45))
    wide = strokes(scene.size, paths, max(scene.pixels(width), 1.0) + 1.0)
    return Effect((ink * strength).astype(np.float32), wide > 0.3)


def _landmarks(scene: Scene) -> dict[str, float]:
    """Positions that tubes and leads refer to, in pixels."""
    right, left = scene.lungs["right"], scene.lungs["left"]
    top = (right.hilum[1] - 0.46 * right.height + left.hilum[1] - 0.46 * left.height) / 2
    tall = (right.height + left.height) / 2
    return {
        "middle": (right.hilum[0] + left.hilum[0]) / 2,
        "gap": max(left.hilum[0] - right.hilum[0], scene.pixels(20)),
        "top": top,
        "carina": top + 0.33 * tall,
        "tall": tall,
        "wide": (right.width + left.width) / 2,
    }


def _central_line(scene: Scene, side: str, strength: float, rng: np.random.Generator) -> Effect:
    """From the neck, the subclavian vein or the arm to the superior vena cava."""
    at = _landmarks(scene)
    out = -1 if side == "right" else 1
    cava = at["middle"] - 0.3 * at["gap"] + rng.normal(0, 1)
    tip = (cava + rng.normal(0, 1), at["carina"] + rng.uniform(0.0, 0.25) * at["tall"])
    if rng.random() < 0.5:
        start = (
            at["middle"] + out * rng.uniform(0.5, 0.8) * at["gap"],
            at["top"] - 0.25 * at["tall"],
        )
        turn = (at["middle"] + out * 0.45 * at["gap"], at["top"] + 0.02 * at["tall"])
    else:
        start = (at["middle"] + out * 1.25 * at["wide"], at["top"] + 0.12 * at["tall"])
        turn = (at["middle"] + out * 0.6 * at["wide"], at["top"] + 0.04 * at["tall"])
    bend = (cava + out * 0.12 * at["gap"], at["top"] + 0.16 * at["tall"])
    return _tube(scene, [curve([start, turn, bend, tip])], rng.uniform(1.6, 2.6), strength)


def _tracheal_tube(scene: Scene, side: str, strength: float, rng: np.random.Generator) -> Effect:
    """In the midline, ending above the carina; two walls with a marker stripe."""
    at = _landmarks(scene)
    tip = at["carina"] - rng.uniform(0.03, 0.14) * at["tall"]
    x = at["middle"] + rng.normal(0, 0.06) * at["gap"]
    points = [(x + rng.normal(0, 1.5), -2.0), (x + rng.normal(0, 0.8), 0.5 * tip), (x, tip)]
    return _tube(scene, [curve(points)], rng.uniform(7.5, 10), 0.7 * strength, hollow=True)


def _feeding_tube(scene: Scene, side: str, strength: float, rng: np.random.Generator) -> Effect:
    """Down the esophagus and into the stomach under the left dome."""
    at = _landmarks(scene)
    x = at["middle"] + rng.normal(0, 0.1) * at["gap"]
    down = at["top"] + 0.95 * at["tall"]
    end = (x + rng.uniform(0.25, 0.6) * at["wide"], down + rng.uniform(0.02, 0.12) * at["tall"])
    points = [(x, -2.0), (x + rng.normal(0, 1.5), at["carina"]), (x + 2, down), end]
    return _tube(scene, [curve(points, 40)], rng.uniform(2.0, 3.8), 0.8 * strength)


def _pacemaker(scene: Scene, side: str, strength: float, rng: np.random.Generator) -> Effect:
    """A generator below the clavicle (left two times in three) with leads to the right heart."""
    at = _landmarks(scene)
    out = 1 if rng.random() < 0.67 else -1
    x = at["middle"] + out * rng.uniform(0.95, 1.2) * at["wide"]
    y = at["top"] + rng.uniform(0.14, 0.3) * at["tall"]
    half = scene.pixels(rng.uniform(19, 25)), scene.pixels(rng.uniform(16, 21))
    column, row = scene.coordinates()
    angle = rng.normal(0, 0.3)
    along = (column - x) * np.cos(angle) + (row - y) * np.sin(angle)
    across = (row - y) * np.cos(angle) - (column - x) * np.sin(angle)
    box = (np.abs(along / half[0]) ** 3.2 + np.abs(across / half[1]) ** 3.2) ** (1 / 3.2)
    can = np.clip((1 - box) * half[1] + 0.5, 0, 1)
    can = can * (1.5 + 0.7 * (across > 0.1 * half[1]))
    cava = (at["middle"] - 0.28 * at["gap"], at["top"] + 0.2 * at["tall"])
    entry = (at["middle"] + out * 0.55 * at["wide"], at["top"] + 0.03 * at["tall"])
    atrium = (at["middle"] - 0.3 * at["gap"], at["carina"] + 0.3 * at["tall"])
    apex = (at["middle"] + rng.uniform(0.3, 0.5) * at["wide"], at["carina"] + 0.48 * at["tall"])
    leads = [curve([(x, y - half[1]), entry, cava, atrium, apex], 40)]
    if rng.random() < 0.6:
        hook = (atrium[0] + 3, atrium[1] - 0.08 * at["tall"])
        leads.append(curve([(x + 1, y - half[1]), entry, cava, atrium, hook], 40))
    wire = _tube(scene, leads, rng.uniform(1.4, 2.0), 1.7 * strength)
    return combine([wire, Effect((can * 2.0 * strength).astype(np.float32), can > 0.3)])


def _sternal_wires(scene: Scene, side: str, strength: float, rng: np.random.Generator) -> Effect:
    """Four to seven small loops in the midline."""
    at = _landmarks(scene)
    count = int(rng.integers(4, 8))
    heights = np.linspace(at["top"] + 0.16 * at["tall"], at["top"] + 0.8 * at["tall"], count)
    loops = []
    for y in heights + rng.normal(0, 1, count):
        turn = np.linspace(0, 2 * np.pi, 14)
        half = scene.pixels(rng.uniform(5, 9)), scene.pixels(rng.uniform(3.0, 6.5))
        x = at["middle"] + rng.normal(0, 0.06) * at["gap"]
        loops.append(np.stack([x + half[0] * np.cos(turn), y + half[1] * np.sin(turn)], -1))
    return _tube(scene, loops, rng.uniform(1.0, 1.5), 2.6 * strength)


def _chest_tube(scene: Scene, side: str, strength: float, rng: np.random.Generator) -> Effect:
    """Enters between lateral ribs and runs up along the wall, or down to the base."""
    lung = scene.lungs[side]
    edge = lung.hilum[0] + lung.outward * lung.width
    start = (edge + lung.outward * scene.pixels(22), lung.hilum[1] + 0.28 * lung.height)
    entry = (edge - lung.outward * scene.pixels(4), lung.hilum[1] + 0.2 * lung.height)
    up = rng.random() < 0.75
    way = (
        edge - lung.outward * 0.22 * lung.width,
        lung.hilum[1] + (-0.1 if up else 0.25) * lung.height,
    )
    end_row = lung.hilum[1] + (rng.uniform(-0.4, -0.2) if up else 0.36) * lung.height
    end = (edge - lung.outward * rng.uniform(0.35, 0.6) * lung.width, end_row)
    path = curve([start, entry, way, end], 40)
    return _tube(scene, [path], rng.uniform(5, 8), 0.8 * strength, hollow=True)


def electrodes(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Monitoring snaps or buttons on the skin, (H, W) attenuation; not labelled."""
    dots = np.zeros((scene.size, scene.size), np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        place = rng.uniform(0.12, 0.88, 2) * scene.size
        center = tuple(int(16 * p) for p in place)
        radius = int(16 * scene.pixels(rng.uniform(3, 6)))
        cv2.circle(dots, center, radius, 255, 1 if rng.random() < 0.5 else -1, cv2.LINE_AA, 4)
    return dots.astype(np.float32) / 255 * rng.uniform(0.08, 0.35)
