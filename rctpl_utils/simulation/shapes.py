"""What drawing is made of: textures, strokes, places in the lungs, and the shapes of lesions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

import cv2
import numpy as np

from rctpl_utils.files import read_json
from rctpl_utils.simulation.cases import Lesion, Rng
from rctpl_utils.simulation.scene import MU_FILL, SIDES, Lung, Scene
from rctpl_utils.workspace import PACKAGE_DATA

_SHIFT = 4  # sub-pixel bits of cv2's line drawing
Curve = np.ndarray  # (N, 2) float, (column, row) in pixels


def noise(rng: Rng, size: int, scale: float) -> np.ndarray:
    """Smooth noise of unit variance with a correlation length of `scale` pixels: (size, size)."""
    step = 1 / max(scale, 1.0)
    knots = int(np.ceil(size * step)) + 4
    coarse = rng.standard_normal((knots, knots), dtype=np.float32)
    x, y = 1 + rng.random(2)
    place = np.array([[step, 0, x], [0, step, y]])
    mode = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(coarse, place, (size, size), flags=mode) * np.float32(1.3)


def cloud(rng: Rng, size: int, scale: float, *, rough: float = 0.55) -> np.ndarray:
    """Three octaves of noise, coarsest `scale` pixels, unit variance: (size, size)."""
    total = noise(rng, size, scale)
    gain, weight = 1.0, 1.0
    for octave in (0.45, 0.2):
        weight *= rough
        total = total + weight * noise(rng, size, scale * octave)
        gain += weight**2
    return total / np.sqrt(gain)


def network(rng: Rng, size: int, scale: float, sharp: float = 0.3) -> np.ndarray:
    """A net of fine lines (reticulation): (size, size) in [0, 1]."""
    first, second = noise(rng, size, scale), noise(rng, size, scale * 0.7)
    return np.maximum(np.exp(-((first / sharp) ** 2)), 0.8 * np.exp(-((second / sharp) ** 2)))


def cells(rng: Rng, size: int, diameter: float) -> np.ndarray:
    """Walls of small cysts (honeycombing): (size, size) in [0, 1], bright walls, dark lumina."""
    count = int(np.ceil(size / diameter)) + 1
    line = (np.arange(count) + 0.5) * diameter
    centers = np.stack(np.meshgrid(line, line), -1) + rng.normal(
        0, 0.27 * diameter, (count, count, 2)
    )
    seeds = np.full((size, size), 255, np.uint8)
    column, row = np.clip(np.round(centers), 0, size - 1).astype(int).reshape(-1, 2).T
    seeds[row, column] = 0
    far = cv2.distanceTransform(seeds, cv2.DIST_L2, 3)
    return np.clip(far / (0.5 * diameter) - 0.35, 0, 1)


def strokes(size: int, paths: list[Curve], width: float | list[float]) -> np.ndarray:
    """Anti-aliased curves: (size, size) float32 in [0, 1].

    `paths` are curves (N, 2), or bundles of one width (B, N, 2); widths (pixels) may be below one.
    """
    canvas = np.zeros((2 * size, 2 * size), np.uint8)
    widths = width if isinstance(width, list) else [width] * len(paths)
    for path, wide in zip(paths, widths, strict=True):
        points = np.round((np.asarray(path) * 2 + 0.5) * (1 << _SHIFT)).astype(np.int32)
        bundle = list(points) if points.ndim == 3 else [points]
        ink = int(255 * min(1.0, max(2 * wide, 0.25)))
        thick = max(1, round(2 * wide))
        cv2.polylines(canvas, bundle, False, ink, thick, cv2.LINE_AA, _SHIFT)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def curve(points: list[tuple[float, float]], count: int = 24) -> Curve:
    """A smooth curve through a few points (Catmull-Rom): (count, 2)."""
    knots = np.asarray(points, dtype=float)
    knots = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    place = np.linspace(0, len(points) - 1 - 1e-9, count)
    k, t = place.astype(int), (place % 1)[:, None]
    a, b, c, d = (knots[k + i] for i in range(4))
    return 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )


def vessel_tree(
    rng: Rng, root: tuple[float, float], angles: np.ndarray, length: float, width: float
) -> tuple[list[Curve], list[float]]:
    """Branching curves: a bundle of paths (B, 6, 2) and a width for each of three generations.

    `length` and `width` (pixels) are of the first branches and shrink with each generation.
    """
    start = np.tile(np.asarray(root, float), (len(angles), 1))  # (B, 2)
    reach = length * rng.uniform(0.6, 1.2, len(angles))
    bundles, widths = [], []
    for generation in range(3):
        turn = angles[:, None] + np.cumsum(rng.normal(0, 0.13, (len(angles), 5)), 1)  # (B, 5)
        steps = np.stack([np.cos(turn), np.sin(turn)], -1) * (reach / 5)[:, None, None]
        steps = np.concatenate([start[:, None], steps], 1)
        path = np.cumsum(steps, 1)
        bundles.append(path)  # (B, 6, 2)
        widths.append(width * 0.62**generation)
        fork = rng.uniform(0.2, 0.65, (2, len(angles))) * np.array([[-1], [1]])
        angles = (turn[:, -1] + fork).ravel()  # two branches each
        start = np.tile(path[:, -1], (2, 1))
        reach = np.tile(reach, 2) * rng.uniform(0.5, 0.8, len(angles))
    return bundles, widths


# Part of a zone's name, u, its spread, v, its spread (`Lung.u`, `.v`; None: anywhere), in order
ZONES = tuple(map(tuple, read_json(PACKAGE_DATA / "drawing.json")["zones"]))


def zone_is(lesion: Lesion, *names: str) -> bool:
    """Whether a lesion's zone has one of some (parts of) names."""
    return any(name in (lesion.zone or "") for name in names)


@dataclass(frozen=True)
class Spot:
    """A place in a lung: center (column, row) and half axes in pixels."""

    column: float
    row: float
    half_width: float
    half_height: float


def lesion_sides(scene: Scene, lesion: Lesion, rng: Rng) -> tuple[str, ...]:
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
    anywhere = (None, 1, None, 1)
    u0, su, v0, sv = next((place for key, *place in ZONES if zone and key in zone), anywhere)
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
    rng: Rng,
    half: tuple[float, float],
    *,
    weight: np.ndarray | float = 1.0,
    margin: float = 0.0,
) -> Spot:
    """Choose a lesion's center and half axes: its box (moved into the lung where it lies outside).

    Without one the center is drawn from zone and `weight` (H, W), `half` (mm) gives the axes; the
    center keeps `margin` mm from the lung's border where possible.
    """
    if lesion.box is not None:
        x, y, width, height = (part * scene.size for part in lesion.box)
        place = _into(lung, x + width / 2, y + height / 2)
        return Spot(*place, max(width / 2, 1.0), max(height / 2, 1.0))
    chance = zone_weight(lung, lesion.zone) * weight
    if margin:
        inside, step = lung.mask.copy(), max(1, round(scene.pixels(margin)))
        inside[:, step:] &= lung.mask[:, :-step]
        inside[:, :-step] &= lung.mask[:, step:]
        inside[step:] &= lung.mask[:-step]
        chance = chance * inside if (chance * inside).sum() > 0 else chance
    return Spot(*draw_place(chance, rng), scene.pixels(half[0]), scene.pixels(half[1]))


def draw_place(chance: np.ndarray, rng: Rng) -> tuple[float, float]:
    """Draw a pixel (column, row) with probability proportional to `chance`."""
    total = np.cumsum(chance, dtype=np.float64)
    if total[-1] <= 0:
        return (chance.shape[1] - 1) / 2, (chance.shape[0] - 1) / 2
    index = min(int(np.searchsorted(total, rng.random() * total[-1])), total.size - 1)
    return float(index % chance.shape[1]), float(index // chance.shape[1])


def _into(lung: Lung, column: float, row: float) -> tuple[float, float]:
    """The nearest place well inside the lung."""
    rows, columns = np.nonzero(lung.mask & (lung.u > 0.1) & (lung.u < 0.95) & (lung.v < 0.95))
    if not rows.size:
        return lung.hilum
    nearest = np.argmin((columns - column) ** 2 + (rows - row) ** 2)
    return float(columns[nearest]), float(rows[nearest])


_SEEN = 0.3  # of its largest thickness: what an annotator would still outline


@dataclass(frozen=True)
class Effect:
    """A drawn lesion."""

    change: np.ndarray  # (H, W) float32, attenuation added (or, for air, removed)
    mask: np.ndarray  # (H, W) bool, where the lesion lies


def combine(effects: list[Effect]) -> Effect:
    """Several lesions of one concept as one."""
    change = np.sum([effect.change for effect in effects], axis=0, dtype=np.float32)
    return Effect(change, np.logical_or.reduce([effect.mask for effect in effects]))


def each_side(draw: Callable[..., Effect]) -> Callable[..., Effect]:
    """A painter of a lesion, from one that draws it in one lung: on each side it is drawn on."""

    @wraps(draw)
    def painter(scene: Scene, lesion: Lesion, rng: Rng) -> Effect:
        sides = lesion_sides(scene, lesion, rng)
        return combine([draw(scene, scene.lungs[side], lesion, rng) for side in sides])

    return painter


def fill(scene: Scene, lung: Lung, thickness: np.ndarray, *, fade: float = 0.7) -> Effect:
    """Replace `thickness` mm of aerated lung, at most its path, by fluid or cells.

    Vessels lose the share `fade` of their contrast where the lung is wholly filled.
    """
    thickness = np.minimum(thickness, lung.path)
    share = thickness / np.maximum(lung.path, 1.0)
    change = MU_FILL * thickness - fade * share * np.clip(scene.vessels, 0, None)
    return Effect(change.astype(np.float32), outlined(thickness))


def outlined(amount: np.ndarray, seen: float = _SEEN) -> np.ndarray:
    """The mask of a lesion: where it is thicker than a share of its greatest thickness."""
    top = float(amount.max())
    mask = amount > max(seen * top, 1e-6)
    return mask if top > 0 else np.zeros_like(mask)


def ellipse(scene: Scene, spot: Spot, angle: float = 0.0) -> np.ndarray:
    """Distance from a spot's center in units of its half axes: (H, W) float32."""
    column, row = scene.coordinates()
    x, y = column - np.float32(spot.column), row - np.float32(spot.row)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    across = (cosine * x + sine * y) / np.float32(max(spot.half_width, 0.7))
    along = (cosine * y - sine * x) / np.float32(max(spot.half_height, 0.7))
    return np.sqrt(across**2 + along**2)


def blob(scene: Scene, spot: Spot, rng: Rng, *, rough: float, edge: float) -> np.ndarray:
    """A cloud-like region around a spot: (H, W) in [0, 1], 1 in its core.

    Relative to the half axes its border strays by `rough` and is `edge` wide.
    """
    scale = max(spot.half_width, spot.half_height) * 1.1
    angle = rng.uniform(-0.5, 0.5) if spot.half_width != spot.half_height else 0.0
    stray = cloud(rng, scene.size, max(scale, 3.0), rough=0.35)
    distance = ellipse(scene, spot, angle) - rough * stray
    return np.clip((1 - distance) / edge + 0.5, 0, 1)


def between(rng: Rng, severity: float, low: float, high: float) -> float:
    """A strength for a severity: from `low` (barely visible) to `high` (gross), with spread."""
    return float((low + (high - low) * severity) * np.exp(rng.normal(0, 0.12)))
