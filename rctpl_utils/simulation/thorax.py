"""Heart and mediastinum, rib fractures, support devices."""

import cv2
import numpy as np

from rctpl_utils.simulation.body import Body, heart_change
from rctpl_utils.simulation.cases import Lesion, Rng
from rctpl_utils.simulation.ct import MU_WATER
from rctpl_utils.simulation.scene import MU_FILL, SIDES, Scene
from rctpl_utils.simulation.shapes import (
    ZONES,
    Curve,
    Effect,
    between,
    cloud,
    combine,
    curve,
    noise,
    strokes,
)


def cardiomegaly(scene: Scene, body: Body, lesion: Lesion, rng: Rng) -> Effect:
    """A wider heart; the mask is the whole enlarged silhouette."""
    scale = 1.02 + between(rng, lesion.severity, 0.02, 0.5)
    change = heart_change(scene, scale, rng, up=rng.uniform(0.0, 0.6))
    heart = scene.channel("heart") + np.clip(change, 0, None)
    heart = cv2.GaussianBlur(heart, (0, 0), scene.pixels(3))
    mask = heart > 0.22 * heart.max()
    return Effect(change, _largest(mask))


def enlarged_mediastinum(scene: Scene, body: Body, lesion: Lesion, rng: Rng) -> Effect:
    """A widened upper mediastinum: smooth or lobulated, on one side or both."""
    total = np.zeros((scene.size, scene.size), np.float32)
    both = rng.random() < 0.6
    chosen = lesion.side if lesion.side in SIDES else SIDES[int(rng.integers(2))]
    middle, tall = rng.uniform(0.18, 0.36), rng.uniform(0.13, 0.24)
    core = np.zeros_like(total, dtype=bool)
    for side in SIDES:
        lung = scene.lungs[side]
        share = 1.0 if side == chosen else (rng.uniform(0.5, 1.0) if both else 0.1)
        width = scene.pixels(between(rng, lesion.severity, 5, 40)) * share
        lobes = np.clip(1 + rng.uniform(0.05, 0.3) * noise(rng, scene.size, scene.size / 9), 0.3, 2)
        profile = np.exp(-0.5 * np.abs((lung.v - middle) / tall) ** 3) * lobes[:, :1]
        inward = lung.u * lung.width  # pixels from the mediastinal border
        reach = 1 - inward / np.maximum(width * profile, 0.3)
        round_off = np.sqrt(np.clip(reach, 0, 1))
        total += round_off * np.minimum(lung.path * 0.8, 75) * lung.mask * MU_FILL
        core |= (reach > 0.05) & (width * profile > 1.5) & lung.mask
    return Effect(total, _band_between(scene, core, middle, 1.2 * tall))


def _band_between(scene: Scene, core: np.ndarray, middle: float, tall: float) -> np.ndarray:
    """The widened mediastinum from border to border, at the height of the widening."""
    right, left = scene.lungs["right"], scene.lungs["left"]
    column, _ = scene.coordinates()
    level = np.abs((right.v + left.v) / 2 - middle) < tall
    inside = ~(right.mask | left.mask) & level
    lower = right.hilum[0] - 0.15 * right.width
    inside &= (column > lower) & (column < left.hilum[0] + 0.15 * left.width)
    return _largest(inside | core)


def hernia(scene: Scene, body: Body, lesion: Lesion, rng: Rng) -> Effect:
    """A rounded retrocardiac shadow above the diaphragm, with an air-fluid level or without."""
    right, left = scene.lungs["right"], scene.lungs["left"]
    column, row = scene.coordinates()
    size = scene.pixels(between(rng, lesion.severity, 18, 46))  # half width, pixels
    middle = (right.hilum[0] + left.hilum[0]) / 2 + rng.uniform(0.1, 0.6) * size
    bottom = left.hilum[1] + rng.uniform(0.33, 0.45) * left.height
    tall = size * rng.uniform(0.7, 1.0)
    far = np.hypot((column - middle) / size, (row - (bottom - 0.6 * tall)) / tall)
    far = far * (1 - 0.07 * cloud(rng, scene.size, size + 2))
    depth = np.sqrt(np.clip(1 - far**2, 0, 1)) * 1.5 * size * scene.spacing
    wall = np.clip((1 - far) * tall * scene.spacing / 3, 0, 1) * np.clip(depth, 0, 16)
    content = np.clip(depth - 12, 0, rng.uniform(16, 34))
    if rng.random() < 0.7:
        level = bottom - 0.6 * tall + tall * rng.uniform(-0.3, 0.35)
        fluid = np.clip((row - level) * scene.spacing / 3 + 0.5, 0, 1)
        strength = between(rng, lesion.severity, 0.4, 1.0)
        change = MU_WATER * (wall + 0.6 * content * fluid - 0.75 * content * (1 - fluid)) * strength
    else:
        change = MU_FILL * (wall + 0.55 * content) * between(rng, lesion.severity, 0.35, 1.0)
    return Effect(change.astype(np.float32), far < 1)


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return mask
    return parts == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])


_PER_SIDE = 9  # ribs 2 to 10


def fracture(scene: Scene, body: Body, lesion: Lesion, rng: Rng) -> Effect:
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


def _first_rib(lesion: Lesion, rng: Rng) -> int:
    """The uppermost broken rib, by the height of the zone or box."""
    height = next((v for key, (_, _, v, _) in ZONES if lesion.zone and key in lesion.zone), None)
    if lesion.box is not None:
        height = float(np.clip((lesion.box[1] + lesion.box[3] / 2 - 0.15) / 0.6, 0, 1))
    if height is None:
        return int(rng.integers(1, _PER_SIDE - 1))
    return int(np.clip(round(height * (_PER_SIDE - 1) + rng.normal(0, 0.7)), 0, _PER_SIDE - 1))


def _break(scene: Scene, side: str, rib: int, where: float, severity: float, rng: Rng) -> Effect:
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
    rng: Rng,
) -> np.ndarray:
    """The far fragment moved across the rib's course, with a dark gap, (H, W) attenuation."""
    shift = scene.pixels(between(rng, severity, 3.0, 11)) * (1 if rng.random() < 0.5 else -1)
    column, row = scene.coordinates()
    far = np.clip(lengthwise + 0.5, 0, 1).astype(np.float32)
    source_x = (column - far * shift * -along[1]).astype(np.float32)
    source_y = (row - far * shift * along[0]).astype(np.float32)
    moved = cv2.remap(bone, source_x, source_y, cv2.INTER_LINEAR)
    gap = np.exp(-((lengthwise / max(scene.pixels(1.3), 0.7)) ** 2))
    gap = gap * between(rng, severity, 0.3, 0.9)
    return 1.1 * (moved * (1 - gap) - bone)


def _healing(
    scene: Scene, lengthwise: np.ndarray, across: np.ndarray, severity: float, rng: Rng
) -> np.ndarray:
    """Callus: a spindle of new bone around the break, in half of the cases."""
    if rng.random() < 0.5:
        return np.zeros_like(lengthwise)
    long, wide = scene.pixels(rng.uniform(6, 10)), scene.pixels(rng.uniform(5, 8))
    spindle = np.exp(-((lengthwise / long) ** 2) - (across / wide) ** 2)
    return spindle * between(rng, severity, 0.2, 0.8)


def support_devices(scene: Scene, body: Body, lesion: Lesion, rng: Rng) -> Effect:
    """One to three devices; a grosser severity means more and denser ones."""
    kinds = (_central_line, _tracheal_tube, _pacemaker, _sternal_wires, _chest_tube, _feeding_tube)
    count = 1 + rng.binomial(2, 0.15 + 0.5 * lesion.severity)
    chance = np.array([0.3, 0.16, 0.18, 0.14, 0.1, 0.12])
    chosen = rng.choice(len(kinds), count, replace=False, p=chance)
    side = lesion.side if lesion.side in SIDES else SIDES[int(rng.integers(2))]
    strength = (0.26 + 0.6 * lesion.severity) * rng.uniform(0.8, 1.25)
    return combine([kinds[k](scene, side, strength, rng) for k in chosen])


def _tube(
    scene: Scene, paths: list[Curve], width: float, strength: float, *, hollow: bool = False
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


def _central_line(scene: Scene, side: str, strength: float, rng: Rng) -> Effect:
    """From the neck, the subclavian vein or the arm to the superior vena cava."""
    at = _landmarks(scene)
    out = -1 if side == "right" else 1
    cava = at["middle"] - 0.3 * at["gap"] + rng.normal(0, 1)
    tip = (cava + rng.normal(0, 1), at["carina"] + rng.uniform(0.0, 0.25) * at["tall"])
    if rng.random() < 0.5:
        x = at["middle"] + out * rng.uniform(0.5, 0.8) * at["gap"]
        start = (x, at["top"] - 0.25 * at["tall"])
        turn = (at["middle"] + out * 0.45 * at["gap"], at["top"] + 0.02 * at["tall"])
    else:
        start = (at["middle"] + out * 1.25 * at["wide"], at["top"] + 0.12 * at["tall"])
        turn = (at["middle"] + out * 0.6 * at["wide"], at["top"] + 0.04 * at["tall"])
    bend = (cava + out * 0.12 * at["gap"], at["top"] + 0.16 * at["tall"])
    return _tube(scene, [curve([start, turn, bend, tip])], rng.uniform(1.6, 2.6), strength)


def _tracheal_tube(scene: Scene, side: str, strength: float, rng: Rng) -> Effect:
    """In the midline, ending above the carina; two walls with a marker stripe."""
    at = _landmarks(scene)
    tip = at["carina"] - rng.uniform(0.03, 0.14) * at["tall"]
    x = at["middle"] + rng.normal(0, 0.06) * at["gap"]
    points = [(x + rng.normal(0, 1.5), -2.0), (x + rng.normal(0, 0.8), 0.5 * tip), (x, tip)]
    return _tube(scene, [curve(points)], rng.uniform(7.5, 10), 0.7 * strength, hollow=True)


def _feeding_tube(scene: Scene, side: str, strength: float, rng: Rng) -> Effect:
    """Down the esophagus and into the stomach under the left dome."""
    at = _landmarks(scene)
    x = at["middle"] + rng.normal(0, 0.1) * at["gap"]
    down = at["top"] + 0.95 * at["tall"]
    end = (x + rng.uniform(0.25, 0.6) * at["wide"], down + rng.uniform(0.02, 0.12) * at["tall"])
    points = [(x, -2.0), (x + rng.normal(0, 1.5), at["carina"]), (x + 2, down), end]
    return _tube(scene, [curve(points, 40)], rng.uniform(2.0, 3.8), 0.8 * strength)


def _pacemaker(scene: Scene, side: str, strength: float, rng: Rng) -> Effect:
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


def _sternal_wires(scene: Scene, side: str, strength: float, rng: Rng) -> Effect:
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


def _chest_tube(scene: Scene, side: str, strength: float, rng: Rng) -> Effect:
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


def electrodes(scene: Scene, rng: Rng) -> np.ndarray:
    """Monitoring snaps or buttons on the skin, (H, W) attenuation; not labelled."""
    dots = np.zeros((scene.size, scene.size), np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        place = rng.uniform(0.12, 0.88, 2) * scene.size
        center = tuple(int(16 * p) for p in place)
        radius = int(16 * scene.pixels(rng.uniform(3, 6)))
        cv2.circle(dots, center, radius, 255, 1 if rng.random() < 0.5 else -1, cv2.LINE_AA, 4)
    return dots.astype(np.float32) / 255 * rng.uniform(0.08, 0.35)
