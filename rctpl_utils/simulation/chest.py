"""The pleural space; heart and mediastinum; rib fractures; support devices."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np

from rctpl_utils.simulation.cases import Lesion, Rng
from rctpl_utils.simulation.ct import MU_WATER
from rctpl_utils.simulation.scene import (
    MU_FILL,
    MU_LUNG,
    SIDES,
    ZONES,
    Curve,
    Effect,
    Lung,
    Scene,
    between,
    combine,
    curve,
    draw_place,
    each_side,
)


@each_side
def pleural_effusion(scene: Scene, lung: Lung, lesion: Lesion, rng: Rng) -> Effect:
    """Fluid: a blunted angle, a meniscus that rises at the wall, or (supine) a veil."""
    severity = np.clip(lesion.severity * rng.uniform(0.85, 1.15), 0.01, 1)
    supine = scene.anatomy.frontal[scene.pose] and rng.random() < 0.4
    draw = _veil if supine and severity > 0.25 else _meniscus
    share = draw(scene, lung, float(severity), rng)
    amount = share * lung.path
    effect = scene.fill(lung, amount, fade=0.9)
    seen = (share > 0.3) & (lung.path > 6)
    return Effect(effect.change, seen if seen.any() else _thickest(amount))


def _meniscus(scene: Scene, lung: Lung, severity: float, rng: Rng) -> np.ndarray:
    """Share of the ray's lung that is fluid, below a curved surface: (H, W) in [0, 1]."""
    level = 1.02 - (0.04 + 0.62 * severity**1.25)  # v of the surface at the wall
    level = level + 0.012 * scene.noise(rng, scene.size / 4)
    slope = rng.uniform(0.15, 0.3) * (1 - 0.4 * severity)
    inner = rng.uniform(0.0, 0.1)
    u = np.clip(lung.u, 0, 1)
    dip = slope * (1 - u) ** 0.75 - inner * np.clip(0.25 - u, 0, 1) * 4 * severity
    sharp = rng.uniform(0.025, 0.07) + 0.05 * severity
    depth = (lung.v - level - np.clip(dip, 0, 1)) / sharp
    density = rng.uniform(0.6, 0.95)
    return density / (1 + np.exp(-np.clip(depth * 2.2, -30, 30)))


def _veil(scene: Scene, lung: Lung, severity: float, rng: Rng) -> np.ndarray:
    """Fluid layered behind the lung of a lying patient: a gradient, vessels still seen."""
    start = 0.75 - 0.65 * severity
    haze = np.clip((lung.v - start) / 0.5, 0, 1) ** 1.2
    wall = 0.2 * np.clip(lung.u - 0.85, 0, 1) / 0.15 * (lung.v > start)
    return np.clip(haze * rng.uniform(0.3, 0.55) * (0.5 + severity) + wall, 0, 0.9)


@each_side
def pneumothorax(scene: Scene, lung: Lung, lesion: Lesion, rng: Rng) -> Effect:
    """Air outside a visceral pleural line; the lung inside is smaller and denser."""
    wall = _wall_distance(lung)
    gap = _gap(scene, lung, lesion, rng)
    outside = np.clip(gap - wall + 0.5, 0, 1) * lung.mask
    share = float(outside.sum() / max(lung.mask.sum(), 1))
    thin = max(scene.pixels(1.0), 0.75)
    line = np.exp(-(((gap - wall) / thin + 1) ** 2)) * lung.mask  # just inside the air
    line = line * (gap > 0.5) * (0.65 + 0.35 * scene.noise(rng, scene.size / 8)).clip(0.1)
    removed = outside * scene.content * rng.uniform(0.8, 0.97)
    inner = np.clip(lung.path / 40, 0, 1) * (1 - outside)
    denser = inner * scene.content * share / max(1 - share, 0.3) * rng.uniform(0.4, 1.3)
    change = denser - removed + line * rng.uniform(0.1, 0.24)
    mask = (outside > 0.5) & lung.mask
    return Effect(change.astype(np.float32), mask if mask.any() else line > 0.5)


def _wall_distance(lung: Lung) -> np.ndarray:
    """Distance in pixels from the chest wall and apex (not from mediastinum or diaphragm)."""
    inside = lung.mask[:, :: lung.outward].copy()  # the chest wall on the right
    rows = np.flatnonzero(inside.any(1))
    low = len(rows) * 3 // 4
    inside[rows[low] :] |= np.maximum.accumulate(inside[rows[max(low - 1, 0)]])
    inside = np.maximum.accumulate(inside[:, ::-1], 1)[:, ::-1]  # all between wall and middle
    padded = np.pad(inside[:, :: lung.outward].astype(np.uint8), ((1, 0), (1, 1)))
    padded[1:, [0, -1]] = padded[1:, [1, -2]]
    return cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:, 1:-1]


def _gap(scene: Scene, lung: Lung, lesion: Lesion, rng: Rng) -> np.ndarray:
    """Width of the air between wall and lung at each place, pixels: (H, W)."""
    width = between(rng, lesion.severity, 7, 28) + 44 * lesion.severity**2 * rng.uniform(0.3, 1.2)
    width = min(scene.pixels(width), 0.75 * lung.width)
    if lesion.in_zone("bas", "lower", "costophren"):
        profile = np.clip((lung.v - 0.35) / 0.4, 0, 1)
    elif lesion.in_zone("lateral"):
        profile = np.exp(-0.5 * ((lung.v - 0.5) / 0.3) ** 2)
    else:
        depth = rng.uniform(0.45, 1.0 + 0.4 * lesion.severity)
        profile = np.clip(1.0 - lung.v / depth, 0, 1) ** 0.6
    return width * profile * (1 + 0.07 * scene.noise(rng, scene.size / 2.2))


@each_side
def pleural_thickening(scene: Scene, lung: Lung, lesion: Lesion, rng: Rng) -> Effect:
    """A band along the chest wall or a cap over the apex, of uneven thickness."""
    wall = _wall_distance(lung)
    zoned = replace(lesion, zone=lesion.zone or ("apex" if rng.random() < 0.45 else "lateral"))
    if zoned.in_zone("ap", "upper"):
        reach = np.clip(1.25 - lung.v / rng.uniform(0.12, 0.22), 0, 1)
    else:
        low = zoned.in_zone("costophren", "bas", "lower")
        middle = 0.88 if low else rng.uniform(0.4, 0.75)
        reach = np.exp(-0.5 * ((lung.v - middle) / rng.uniform(0.1, 0.25)) ** 2) * (lung.u > 0.55)
    width = scene.pixels(between(rng, lesion.severity, 6.0, 21))
    width = width * reach * np.clip(1 + 0.3 * scene.noise(rng, scene.size / 7), 0.2, 1.8)
    edge = max(scene.pixels(rng.uniform(2, 5)), 0.8)
    share = np.clip((width - wall) / edge + 0.5, 0, 1) * lung.mask * (reach > 0.05)
    mm = between(rng, lesion.severity, 16, 42) * (0.8 + 0.2 * reach)
    texture = 1 + 0.12 * scene.cloud(rng, scene.pixels(10))
    change = share * MU_WATER * mm * texture
    mask = share > 0.4
    return Effect(change.astype(np.float32), mask if mask.any() else _thickest(change))


@each_side
def pleural_other(scene: Scene, lung: Lung, lesion: Lesion, rng: Rng) -> Effect:
    """Calcified plaques seen en face, or fluid in a fissure."""
    draw = _fissure if rng.random() < 0.4 else _plaques
    return draw(scene, lung, lesion, rng)


def _plaques(scene: Scene, lung: Lung, lesion: Lesion, rng: Rng) -> Effect:
    """Irregular, map-like dense patches with a denser rim."""
    change = np.zeros((scene.size, scene.size), np.float32)
    column, row = scene.coordinates()
    chance = lung.zone(lesion.zone or "lower") * np.clip(lung.u, 0.2, 1)
    for _ in range(1 + rng.poisson(0.8 + 2 * lesion.severity)):
        x, y = draw_place(chance, rng)
        half = scene.pixels(between(rng, lesion.severity, 7, 20))
        far = np.hypot((column - x) / half, (row - y) / (half * rng.uniform(0.5, 1.1)))
        border = 1 - far + 0.35 * scene.cloud(rng, max(half, 3.0))
        inside = np.clip(border * half / 1.6 + 0.5, 0, 1)
        rim = np.exp(-((border * half / max(scene.pixels(2.2), 1.0)) ** 2))
        texture = 1 + 0.18 * scene.cloud(rng, scene.pixels(7))
        change += inside * (0.55 + 0.6 * rim) * between(rng, lesion.severity, 0.25, 1.0) * texture
    change *= np.clip(lung.path / 15, 0, 1) * lung.mask
    return Effect(change.astype(np.float32), change > 0.2 * max(change.max(), 1e-6))


def _fissure(scene: Scene, lung: Lung, lesion: Lesion, rng: Rng) -> Effect:
    """A lens of fluid along a fissure, thin to thick, between hilum and wall."""
    tilt = rng.uniform(-0.1, 0.35) * lung.height * 0.3
    level = lung.hilum[1] + rng.uniform(-0.02, 0.16) * lung.height
    start, end = lung.hilum[0] + 0.15 * lung.outward * lung.width, lung.width * 0.82 * lung.outward
    bow = rng.normal(0, 0.03) * lung.height
    middle = (start + 0.5 * end, level + 0.4 * tilt + bow)
    path = curve([(start, level), middle, (start + end, level + tilt)])
    thick = scene.pixels(between(rng, lesion.severity, 3.0, 20) * rng.uniform(0.6, 1.1))
    column, row = scene.coordinates()
    order = np.argsort(path[:, 0])
    height = np.interp(column[0], path[order, 0], path[order, 1])
    along = np.clip((column[0] - start) / end, 0, 1)
    lens = thick / 2 * np.sin(np.pi * along).clip(0) ** rng.uniform(0.5, 1.6)
    edge = max(scene.pixels(rng.uniform(1.5, 5)), 0.8)
    share = np.clip((lens[None] - np.abs(row - height[None])) / edge + 0.5, 0, 1)
    share = share * (lens > 0.15)[None] * lung.mask
    line = scene.strokes([path], scene.pixels(1.6)) * lung.mask
    change = MU_WATER * (share * between(rng, lesion.severity, 14, 38) + 5 * line)
    return Effect(change.astype(np.float32), (share > 0.4) | (line > 0.4))


def _thickest(amount: np.ndarray) -> np.ndarray:
    """The thickest part of a lesion too thin for the usual mask."""
    return amount >= max(0.6 * float(amount.max()), 1e-9)


def heart_change(scene: Scene, scale: float, rng: Rng, *, up: float = 0.3) -> np.ndarray:
    """What changes when the heart is `scale` times as wide: (H, W) attenuation.

    It rests on the diaphragm and grows left, up and, less, right, by what that lung can give.
    """
    heart = scene.channel("heart")
    rows, columns = np.nonzero(heart > 0.25 * heart.max())
    if scale == 1.0 or rows.size < 4:
        return np.zeros_like(heart)
    column, row = scene.coordinates()
    pivot = columns.min() + (0.3 + rng.uniform(-0.08, 0.08)) * np.ptp(columns), rows.max()
    across = pivot[0] + (column - pivot[0]) / scale
    along = pivot[1] + (row - pivot[1]) / (1 + up * (scale - 1))
    grown = cv2.remap(heart, across.astype(np.float32), along.astype(np.float32), cv2.INTER_LINEAR)
    path = scene.lungs["right"].path + scene.lungs["left"].path
    seen = scene.lungs["right"].mask | scene.lungs["left"].mask
    above = np.exp(-scene.channel("abdomen") / 0.5)  # the heart rests on the diaphragm
    room = cv2.GaussianBlur(MU_FILL * path * seen * above, (0, 0), scene.pixels(3))
    change = cv2.GaussianBlur(grown - heart, (0, 0), scene.pixels(3)) * (1 - MU_LUNG / MU_WATER)
    return np.clip(change, 0, 0.9 * room) if scale > 1 else np.clip(change, -0.5 * heart, 0)


def cardiomegaly(scene: Scene, lesion: Lesion, rng: Rng) -> Iterator[Effect]:
    """A wider heart; the mask is the whole enlarged silhouette."""
    scale = 1.02 + between(rng, lesion.severity, 0.02, 0.5)
    change = heart_change(scene, scale, rng, up=rng.uniform(0.0, 0.6))
    heart = scene.channel("heart") + np.clip(change, 0, None)
    heart = cv2.GaussianBlur(heart, (0, 0), scene.pixels(3))
    mask = heart > 0.22 * heart.max()
    yield Effect(change, _largest(mask))


def enlarged_mediastinum(scene: Scene, lesion: Lesion, rng: Rng) -> Iterator[Effect]:
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
        lobes = np.clip(1 + rng.uniform(0.05, 0.3) * scene.noise(rng, scene.size / 9), 0.3, 2)
        profile = np.exp(-0.5 * np.abs((lung.v - middle) / tall) ** 3) * lobes[:, :1]
        inward = lung.u * lung.width  # pixels from the mediastinal border
        reach = 1 - inward / np.maximum(width * profile, 0.3)
        round_off = np.sqrt(np.clip(reach, 0, 1))
        total += round_off * np.minimum(lung.path * 0.8, 75) * lung.mask * MU_FILL
        core |= (reach > 0.05) & (width * profile > 1.5) & lung.mask
    right, left = scene.lungs["right"], scene.lungs["left"]
    column, _ = scene.coordinates()
    band = ~(right.mask | left.mask) & (np.abs((right.v + left.v) / 2 - middle) < 1.2 * tall)
    band &= column > right.hilum[0] - 0.15 * right.width  # from border to border
    band &= column < left.hilum[0] + 0.15 * left.width
    yield Effect(total, _largest(band | core))


def hernia(scene: Scene, lesion: Lesion, rng: Rng) -> Iterator[Effect]:
    """A rounded retrocardiac shadow above the diaphragm, with an air-fluid level or without."""
    right, left = scene.lungs["right"], scene.lungs["left"]
    column, row = scene.coordinates()
    size = scene.pixels(between(rng, lesion.severity, 18, 46))  # half width, pixels
    middle = (right.hilum[0] + left.hilum[0]) / 2 + rng.uniform(0.1, 0.6) * size
    bottom = left.hilum[1] + rng.uniform(0.33, 0.45) * left.height
    tall = size * rng.uniform(0.7, 1.0)
    far = np.hypot((column - middle) / size, (row - (bottom - 0.6 * tall)) / tall)
    far = far * (1 - 0.07 * scene.cloud(rng, size + 2))
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
    yield Effect(change.astype(np.float32), far < 1)


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return mask
    return parts == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])


_PER_SIDE = 9  # ribs 2 to 10


def fracture(scene: Scene, lesion: Lesion, rng: Rng) -> Iterator[Effect]:
    """One to four neighboring ribs of one side, each broken at about the same angle."""
    height = next((v for key, _, _, v, _ in ZONES if lesion.in_zone(key)), None)
    if lesion.box is not None:
        height = float(np.clip((lesion.box[1] + lesion.box[3] / 2 - 0.15) / 0.6, 0, 1))
    last = _PER_SIDE - 1
    for side in SIDES if lesion.side == "bilateral" else (lesion.side,):
        chosen = side if side in SIDES else SIDES[int(rng.integers(2))]
        if height is None:
            first = int(rng.integers(1, last))
        else:
            first = int(np.clip(round(height * last + rng.normal(0, 0.7)), 0, last))
        where = rng.uniform(0.35, 0.75)
        for k in range(1 + rng.binomial(4, 0.3 + 0.5 * lesion.severity)):
            place = float(np.clip(where + rng.normal(0, 0.04), 0.2, 0.85))
            yield _break(scene, chosen, min(first + k, last), place, lesion.severity, rng)


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
    # the far fragment is moved across the rib's course, with a dark gap
    shift = scene.pixels(between(rng, severity, 3.0, 11)) * (1 if rng.random() < 0.5 else -1)
    far = np.clip(lengthwise + 0.5, 0, 1).astype(np.float32)
    source = column - far * shift * -along[1], row - far * shift * along[0]
    moved = cv2.remap(bone, *map(np.float32, source), cv2.INTER_LINEAR)
    gap = np.exp(-((lengthwise / max(scene.pixels(1.3), 0.7)) ** 2))
    gap = gap * between(rng, severity, 0.3, 0.9)
    change = 1.1 * (moved * (1 - gap) - bone) * window
    if rng.random() >= 0.5:  # callus: a spindle of new bone around the break
        long, wide = scene.pixels(rng.uniform(6, 10)), scene.pixels(rng.uniform(5, 8))
        spindle = np.exp(-((lengthwise / long) ** 2) - (across / wide) ** 2)
        change += spindle * between(rng, severity, 0.2, 0.8) * (window > 0)
    return Effect(change.astype(np.float32), np.hypot(x, y) < 0.8 * reach)


def support_devices(scene: Scene, lesion: Lesion, rng: Rng) -> Iterator[Effect]:
    """One to three devices; a grosser severity means more and denser ones."""
    kinds = (_central_line, _tracheal_tube, _pacemaker, _sternal_wires, _chest_tube, _feeding_tube)
    count = 1 + rng.binomial(2, 0.15 + 0.5 * lesion.severity)
    chance = np.array([0.3, 0.16, 0.18, 0.14, 0.1, 0.12])
    chosen = rng.choice(len(kinds), count, replace=False, p=chance)
    side = lesion.side if lesion.side in SIDES else SIDES[int(rng.integers(2))]
    strength = (0.26 + 0.6 * lesion.severity) * rng.uniform(0.8, 1.25)
    right, left = scene.lungs["right"], scene.lungs["left"]
    top = (right.hilum[1] - 0.46 * right.height + left.hilum[1] - 0.46 * left.height) / 2
    tall = (right.height + left.height) / 2
    marks = SimpleNamespace(  # what tubes and leads refer to, in pixels
        middle=(right.hilum[0] + left.hilum[0]) / 2,
        gap=max(left.hilum[0] - right.hilum[0], scene.pixels(20)),
        top=top,
        carina=top + 0.33 * tall,
        tall=tall,
        wide=(right.width + left.width) / 2,
        lung=scene.lungs[side],
    )
    for k in chosen:
        yield kinds[k](scene, marks, strength, rng)


def _tube(
    scene: Scene, paths: list[Curve], width: float, strength: float, *, hollow: bool = False
) -> Effect:
    """Curves `width` mm wide; a hollow tube is densest at its walls."""
    ink = scene.strokes(paths, scene.pixels(width))
    if hollow:
        ink = ink - 0.45 * scene.strokes(paths, scene.pixels(width * 0.45))
    wide = scene.strokes(paths, max(scene.pixels(width), 1.0) + 1.0)
    return Effect((ink * strength).astype(np.float32), wide > 0.3)


def _central_line(scene: Scene, at: SimpleNamespace, strength: float, rng: Rng) -> Effect:
    """From the neck, the subclavian vein or the arm to the superior vena cava."""
    out = at.lung.outward
    cava = at.middle - 0.3 * at.gap + rng.normal(0, 1)
    tip = (cava + rng.normal(0, 1), at.carina + rng.uniform(0.0, 0.25) * at.tall)
    if rng.random() < 0.5:
        x = at.middle + out * rng.uniform(0.5, 0.8) * at.gap
        start = (x, at.top - 0.25 * at.tall)
        turn = (at.middle + out * 0.45 * at.gap, at.top + 0.02 * at.tall)
    else:
        start = (at.middle + out * 1.25 * at.wide, at.top + 0.12 * at.tall)
        turn = (at.middle + out * 0.6 * at.wide, at.top + 0.04 * at.tall)
    bend = (cava + out * 0.12 * at.gap, at.top + 0.16 * at.tall)
    return _tube(scene, [curve([start, turn, bend, tip])], rng.uniform(1.6, 2.6), strength)


def _tracheal_tube(scene: Scene, at: SimpleNamespace, strength: float, rng: Rng) -> Effect:
    """In the midline, ending above the carina; two walls with a marker stripe."""
    tip = at.carina - rng.uniform(0.03, 0.14) * at.tall
    x = at.middle + rng.normal(0, 0.06) * at.gap
    points = [(x + rng.normal(0, 1.5), -2.0), (x + rng.normal(0, 0.8), 0.5 * tip), (x, tip)]
    return _tube(scene, [curve(points)], rng.uniform(7.5, 10), 0.7 * strength, hollow=True)


def _feeding_tube(scene: Scene, at: SimpleNamespace, strength: float, rng: Rng) -> Effect:
    """Down the esophagus and into the stomach under the left dome."""
    x = at.middle + rng.normal(0, 0.1) * at.gap
    down = at.top + 0.95 * at.tall
    end = (x + rng.uniform(0.25, 0.6) * at.wide, down + rng.uniform(0.02, 0.12) * at.tall)
    points = [(x, -2.0), (x + rng.normal(0, 1.5), at.carina), (x + 2, down), end]
    return _tube(scene, [curve(points, 40)], rng.uniform(2.0, 3.8), 0.8 * strength)


def _pacemaker(scene: Scene, at: SimpleNamespace, strength: float, rng: Rng) -> Effect:
    """A generator below the clavicle (left two times in three) with leads to the right heart."""
    out = 1 if rng.random() < 0.67 else -1
    x = at.middle + out * rng.uniform(0.95, 1.2) * at.wide
    y = at.top + rng.uniform(0.14, 0.3) * at.tall
    half = scene.pixels(rng.uniform(19, 25)), scene.pixels(rng.uniform(16, 21))
    column, row = scene.coordinates()
    angle = rng.normal(0, 0.3)
    along = (column - x) * np.cos(angle) + (row - y) * np.sin(angle)
    across = (row - y) * np.cos(angle) - (column - x) * np.sin(angle)
    box = (np.abs(along / half[0]) ** 3.2 + np.abs(across / half[1]) ** 3.2) ** (1 / 3.2)
    can = np.clip((1 - box) * half[1] + 0.5, 0, 1)
    can = can * (1.5 + 0.7 * (across > 0.1 * half[1]))
    cava = (at.middle - 0.28 * at.gap, at.top + 0.2 * at.tall)
    entry = (at.middle + out * 0.55 * at.wide, at.top + 0.03 * at.tall)
    atrium = (at.middle - 0.3 * at.gap, at.carina + 0.3 * at.tall)
    apex = (at.middle + rng.uniform(0.3, 0.5) * at.wide, at.carina + 0.48 * at.tall)
    leads = [curve([(x, y - half[1]), entry, cava, atrium, apex], 40)]
    if rng.random() < 0.6:
        hook = (atrium[0] + 3, atrium[1] - 0.08 * at.tall)
        leads.append(curve([(x + 1, y - half[1]), entry, cava, atrium, hook], 40))
    wire = _tube(scene, leads, rng.uniform(1.4, 2.0), 1.7 * strength)
    return combine([wire, Effect((can * 2.0 * strength).astype(np.float32), can > 0.3)])


def _sternal_wires(scene: Scene, at: SimpleNamespace, strength: float, rng: Rng) -> Effect:
    """Four to seven small loops in the midline."""
    count = int(rng.integers(4, 8))
    heights = np.linspace(at.top + 0.16 * at.tall, at.top + 0.8 * at.tall, count)
    loops = []
    for y in heights + rng.normal(0, 1, count):
        turn = np.linspace(0, 2 * np.pi, 14)
        half = scene.pixels(rng.uniform(5, 9)), scene.pixels(rng.uniform(3.0, 6.5))
        x = at.middle + rng.normal(0, 0.06) * at.gap
        loops.append(np.stack([x + half[0] * np.cos(turn), y + half[1] * np.sin(turn)], -1))
    return _tube(scene, loops, rng.uniform(1.0, 1.5), 2.6 * strength)


def _chest_tube(scene: Scene, at: SimpleNamespace, strength: float, rng: Rng) -> Effect:
    """Enters between lateral ribs and runs up along the wall, or down to the base."""
    lung = at.lung
    edge = lung.hilum[0] + lung.outward * lung.width
    start = (edge + lung.outward * scene.pixels(22), lung.hilum[1] + 0.28 * lung.height)
    entry = (edge - lung.outward * scene.pixels(4), lung.hilum[1] + 0.2 * lung.height)
    up = rng.random() < 0.75
    way_row = lung.hilum[1] + (-0.1 if up else 0.25) * lung.height
    way = (edge - lung.outward * 0.22 * lung.width, way_row)
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
