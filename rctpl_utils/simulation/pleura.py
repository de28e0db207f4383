"""The pleural space: effusion, pneumothorax, thickening, plaques and fissural fluid."""

import cv2
import numpy as np

from rctpl_utils.simulation.body import Body
from rctpl_utils.simulation.cases import Lesion, Rng
from rctpl_utils.simulation.ct import MU_WATER
from rctpl_utils.simulation.scene import Lung, Scene
from rctpl_utils.simulation.shapes import (
    Effect,
    between,
    cloud,
    curve,
    draw_place,
    each_side,
    fill,
    noise,
    strokes,
    zone_weight,
)


@each_side
def pleural_effusion(scene: Scene, body: Body, lung: Lung, lesion: Lesion, rng: Rng) -> Effect:
    """Fluid: a blunted angle, a meniscus that rises at the wall, or (supine) a veil."""
    severity = np.clip(lesion.severity * rng.uniform(0.85, 1.15), 0.01, 1)
    supine = scene.anatomy.frontal[scene.pose] and rng.random() < 0.4
    draw = _veil if supine and severity > 0.25 else _meniscus
    share = draw(scene, lung, float(severity), rng)
    amount = share * lung.path
    effect = fill(body.vessels, lung, amount, fade=0.9)
    seen = (share > 0.3) & (lung.path > 6)
    return Effect(effect.change, seen if seen.any() else _thickest(amount))


def _meniscus(scene: Scene, lung: Lung, severity: float, rng: Rng) -> np.ndarray:
    """Share of the ray's lung that is fluid, below a curved surface: (H, W) in [0, 1]."""
    level = 1.02 - (0.04 + 0.62 * severity**1.25)  # v of the surface at the wall
    level = level + 0.012 * noise(rng, scene.size, scene.size / 4)
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
def pneumothorax(scene: Scene, body: Body, lung: Lung, lesion: Lesion, rng: Rng) -> Effect:
    """Air outside a visceral pleural line; the lung inside is smaller and denser."""
    wall = _wall_distance(lung)
    gap = _gap(scene, lung, lesion, rng)
    outside = np.clip(gap - wall + 0.5, 0, 1) * lung.mask
    share = float(outside.sum() / max(lung.mask.sum(), 1))
    thin = max(scene.pixels(1.0), 0.75)
    line = np.exp(-(((gap - wall) / thin + 1) ** 2)) * lung.mask  # just inside the air
    line = line * (gap > 0.5) * (0.65 + 0.35 * noise(rng, scene.size, scene.size / 8)).clip(0.1)
    removed = outside * body.lung * rng.uniform(0.8, 0.97)
    inner = np.clip(lung.path / 40, 0, 1) * (1 - outside)
    denser = inner * body.lung * share / max(1 - share, 0.3) * rng.uniform(0.4, 1.3)
    change = denser - removed + line * rng.uniform(0.1, 0.24)
    mask = (outside > 0.5) & lung.mask
    return Effect(change.astype(np.float32), mask if mask.any() else line > 0.5)


def _wall_distance(lung: Lung) -> np.ndarray:
    """Distance in pixels from the chest wall and apex (not from mediastinum or diaphragm)."""
    inside = lung.mask.copy()
    rows = np.flatnonzero(inside.any(1))
    last = inside[rows[max(len(rows) * 3 // 4 - 1, 0)]]
    inside[rows[len(rows) * 3 // 4] :] |= np.maximum.accumulate(last[:: lung.outward])[
        :: lung.outward
    ]
    reached = np.maximum.accumulate(inside[:, :: lung.outward][:, ::-1], 1)[:, ::-1]
    inside = reached[:, :: lung.outward]  # everything from the lung's outer border to the middle
    padded = np.pad(inside.astype(np.uint8), ((1, 0), (1, 1)))
    padded[1:, [0, -1]] = padded[1:, [1, -2]]
    return cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:, 1:-1]


def _gap(scene: Scene, lung: Lung, lesion: Lesion, rng: Rng) -> np.ndarray:
    """Width of the air between wall and lung at each place, pixels: (H, W)."""
    width = between(rng, lesion.severity, 7, 28) + 44 * lesion.severity**2 * rng.uniform(0.3, 1.2)
    width = min(scene.pixels(width), 0.75 * lung.width)
    zone = lesion.zone or ""
    if "bas" in zone or "lower" in zone or "costophren" in zone:
        profile = np.clip((lung.v - 0.35) / 0.4, 0, 1)
    elif "lateral" in zone:
        profile = np.exp(-0.5 * ((lung.v - 0.5) / 0.3) ** 2)
    else:
        depth = rng.uniform(0.45, 1.0 + 0.4 * lesion.severity)
        profile = np.clip(1.0 - lung.v / depth, 0, 1) ** 0.6
    return width * profile * (1 + 0.07 * noise(rng, scene.size, scene.size / 2.2))


@each_side
def pleural_thickening(scene: Scene, body: Body, lung: Lung, lesion: Lesion, rng: Rng) -> Effect:
    """A band along the chest wall or a cap over the apex, of uneven thickness."""
    wall = _wall_distance(lung)
    zone = lesion.zone or ("apex" if rng.random() < 0.45 else "lateral")
    reach = _band(lung, zone, rng)
    width = scene.pixels(between(rng, lesion.severity, 6.0, 21))
    width = width * reach * np.clip(1 + 0.3 * noise(rng, scene.size, scene.size / 7), 0.2, 1.8)
    edge = max(scene.pixels(rng.uniform(2, 5)), 0.8)
    share = np.clip((width - wall) / edge + 0.5, 0, 1) * lung.mask * (reach > 0.05)
    mm = between(rng, lesion.severity, 16, 42) * (0.8 + 0.2 * reach)
    texture = 1 + 0.12 * cloud(rng, scene.size, scene.pixels(10))
    change = share * MU_WATER * mm * texture
    mask = share > 0.4
    return Effect(change.astype(np.float32), mask if mask.any() else _thickest(change))


def _band(lung: Lung, zone: str, rng: Rng) -> np.ndarray:
    """How thick the band is along the wall, relative: (H, W) in [0, 1]."""
    if "ap" in zone or "upper" in zone:
        return np.clip(1.25 - lung.v / rng.uniform(0.12, 0.22), 0, 1)
    low = any(key in zone for key in ("costophren", "bas", "lower"))
    middle = 0.88 if low else rng.uniform(0.4, 0.75)
    band = np.exp(-0.5 * ((lung.v - middle) / rng.uniform(0.1, 0.25)) ** 2)
    return band * (lung.u > 0.55)


@each_side
def pleural_other(scene: Scene, body: Body, lung: Lung, lesion: Lesion, rng: Rng) -> Effect:
    """Calcified plaques seen en face, or fluid in a fissure."""
    draw = _fissure if rng.random() < 0.4 else _plaques
    return draw(scene, lung, lesion, rng)


def _plaques(scene: Scene, lung: Lung, lesion: Lesion, rng: Rng) -> Effect:
    """Irregular, map-like dense patches with a denser rim."""
    change = np.zeros((scene.size, scene.size), np.float32)
    column, row = scene.coordinates()
    chance = zone_weight(lung, lesion.zone or "lower") * np.clip(lung.u, 0.2, 1)
    for _ in range(1 + rng.poisson(0.8 + 2 * lesion.severity)):
        x, y = draw_place(chance, rng)
        half = scene.pixels(between(rng, lesion.severity, 7, 20))
        far = np.hypot((column - x) / half, (row - y) / (half * rng.uniform(0.5, 1.1)))
        border = 1 - far + 0.35 * cloud(rng, scene.size, max(half, 3.0))
        inside = np.clip(border * half / 1.6 + 0.5, 0, 1)
        rim = np.exp(-((border * half / max(scene.pixels(2.2), 1.0)) ** 2))
        texture = 1 + 0.18 * cloud(rng, scene.size, scene.pixels(7))
        change += inside * (0.55 + 0.6 * rim) * between(rng, lesion.severity, 0.25, 1.0) * texture
    change *= np.clip(lung.path / 15, 0, 1) * lung.mask
    return Effect(change.astype(np.float32), change > 0.2 * max(change.max(), 1e-6))


def _fissure(scene: Scene, lung: Lung, lesion: Lesion, rng: Rng) -> Effect:
    """A lens of fluid along a fissure, thin to thick, between hilum and wall."""
    tilt = rng.uniform(-0.1, 0.35) * lung.height * 0.3
    level = lung.hilum[1] + rng.uniform(-0.02, 0.16) * lung.height
    start, end = lung.hilum[0] + 0.15 * lung.outward * lung.width, lung.width * 0.82 * lung.outward
    bow = rng.normal(0, 0.03) * lung.height
    path = curve(
        [(start, level), (start + 0.5 * end, level + 0.4 * tilt + bow), (start + end, level + tilt)]
    )
    thick = scene.pixels(between(rng, lesion.severity, 3.0, 20) * rng.uniform(0.6, 1.1))
    column, row = scene.coordinates()
    order = np.argsort(path[:, 0])
    middle = np.interp(column[0], path[order, 0], path[order, 1])
    along = np.clip((column[0] - start) / end, 0, 1)
    lens = thick / 2 * np.sin(np.pi * along).clip(0) ** rng.uniform(0.5, 1.6)
    edge = max(scene.pixels(rng.uniform(1.5, 5)), 0.8)
    share = np.clip((lens[None] - np.abs(row - middle[None])) / edge + 0.5, 0, 1)
    share = share * (lens > 0.15)[None] * lung.mask
    line = strokes(scene.size, [path], scene.pixels(1.6)) * lung.mask
    change = MU_WATER * (share * between(rng, lesion.severity, 14, 38) + 5 * line)
    return Effect(change.astype(np.float32), (share > 0.4) | (line > 0.4))


def _thickest(amount: np.ndarray) -> np.ndarray:
    """The thickest part of a lesion too thin for the usual mask."""
    return amount >= max(0.6 * float(amount.max()), 1e-9)
