"""One patient on one film: the anatomy warped to a real lung outline, and what drawing is made of.

Textures, strokes, places in the lungs, and the shapes of lesions.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import wraps

import cv2
import numpy as np

from rctpl_utils.files import read_json
from rctpl_utils.simulation.anatomy import LEVELS, PER_LUNG, Anatomy
from rctpl_utils.simulation.cases import Lesion, Rng
from rctpl_utils.simulation.ct import CHANNELS, LOBES, MU_WATER
from rctpl_utils.workspace import PACKAGE_DATA

COARSE = 25  # nodes of the grid on which a warp is computed
_REACH = 0.3  # correlation length of the residual displacement, in frame widths
_NOISE = 0.004  # relative variance of a landmark: the outlines were drawn by hand
_MEDIAL = 0.4  # of one on the mediastinum, which must not be stretched with each patient's gap


def warp_grid(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Inverse warp on a coarse grid: the source of each output place, (COARSE, COARSE, 2) float64.

    An affine fit of landmarks (N, 2), plus kriging of what it leaves over (Rasmussen and Williams,
    Gaussian Processes for Machine Learning, 2006, Eq. 2.25, Matern 5/2): smooth, zero far from the
    landmarks, weakened until the Jacobian is positive everywhere. All (column, row) in [0, 1].
    """
    line = np.linspace(0, 1, COARSE)
    nodes = np.stack(np.meshgrid(line, line), -1)  # (G, G, 2)
    affine = np.linalg.lstsq(_homogeneous(target), source, rcond=None)[0]  # (3, 2)
    straight = _homogeneous(nodes) @ affine  # (G, G, 2)
    rest = source - _homogeneous(target) @ affine  # (N, 2)
    noise = np.full(PER_LUNG, _NOISE)
    noise[2 : 1 + 2 * len(LEVELS) : 2] = _MEDIAL
    noise[1 + 2 * len(LEVELS)] = _MEDIAL
    kernel = _matern(target, target) + np.diag(np.resize(noise, len(target)))
    bend = _matern(nodes.reshape(-1, 2), target) @ np.linalg.solve(kernel, rest)
    bend = bend.reshape(nodes.shape)
    for share in (1.0, 0.8, 0.6, 0.4, 0.2):
        if smallest_jacobian(straight + share * bend) > 0.12:
            return straight + share * bend
    return straight


def smallest_jacobian(grid: np.ndarray) -> float:
    """The smallest area ratio of a warp on a grid, relative to its median: <= 0 means folding."""
    dx, dy = np.diff(grid, axis=1)[:-1], np.diff(grid, axis=0)[:, :-1]
    area = dx[..., 0] * dy[..., 1] - dx[..., 1] * dy[..., 0]
    middle = np.median(area)
    return float(area.min() / middle) if middle > 0 else -1.0


def dense(grid: np.ndarray, size: int, pixels: int) -> np.ndarray:
    """A coarse warp as cv2.remap wants it: (size, size, 2) float32 in source pixels."""
    place = (np.arange(size, dtype=np.float32) + 0.5) / size * (COARSE - 1)
    column, row = np.meshgrid(place, place)
    fine = cv2.remap(np.float32(grid), column, row, cv2.INTER_LINEAR)
    return fine * pixels - 0.5


def elastic(rng: Rng, strength: float) -> np.ndarray:
    """A smooth random displacement on the coarse grid, (COARSE, COARSE, 2); `strength` = SD."""
    knots = rng.normal(0, strength, (5, 5, 2)).astype(np.float32)
    return cv2.resize(knots, (COARSE, COARSE), interpolation=cv2.INTER_CUBIC).astype(float)


def _homogeneous(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, np.ones((*points.shape[:-1], 1))], -1)


def _matern(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The Matern covariance of smoothness 5/2 between points (N, 2) and (M, 2): (N, M)."""
    square = (a**2).sum(-1)[:, None] + (b**2).sum(-1) - 2 * a @ b.T
    r = np.sqrt(5 * np.maximum(square, 0)) / _REACH
    return (1 + r + r * r / 3) * np.exp(-r)


MU_LUNG = 0.16 * MU_WATER  # aerated lung, about -840 HU; per mm
MU_FILL = MU_WATER - MU_LUNG  # what a millimetre of lung gains when it fills with fluid or cells
SIDES = ("right", "left")
# Part of a zone's name, u, its spread, v, its spread (`Lung.u`, `.v`; None: anywhere), in order
ZONES = tuple(map(tuple, read_json(PACKAGE_DATA / "drawing.json")["zones"]))
_BONES = ("ribs right", "ribs left", "shoulder", "axial")
_LAYERS = dict.fromkeys(_BONES, "bone") | dict.fromkeys(("lung", *LOBES), "lung")  # else "body"


@dataclass
class Lung:
    """One lung on the film."""

    side: str  # "right" or "left" (the patient's)
    mask: np.ndarray  # (H, W) bool, the visible lung field, heart shadow included
    path: np.ndarray  # (H, W) float32, lung along the ray in mm, also behind heart and diaphragm
    u: np.ndarray  # (H, W) float32, 0 at the mediastinal border, 1 at the chest wall
    v: np.ndarray  # (H, W) float32, 0 at the apex, 1 at the costophrenic angle
    hilum: tuple[float, float]  # (column, row) in pixels
    height: float
    width: float

    @property
    def outward(self) -> int:
        """The direction of the chest wall along a row: -1 or +1."""
        return -1 if self.side == "right" else 1

    def zone(self, name: str | None) -> np.ndarray:
        """How much a place belongs to a zone: (H, W) float32, 0 outside the lung."""
        anywhere = (None, 1, None, 1)
        u0, su, v0, sv = next((place for key, *place in ZONES if name and key in name), anywhere)
        weight = self.mask.astype(np.float32)
        if not name:  # what hides behind the heart is seldom reported
            weight *= 1 - 0.75 * np.exp(-((self.u / 0.2) ** 2))
        if u0 is not None:
            weight = weight * np.exp(-0.5 * ((self.u - u0) / su) ** 2)
        if v0 is not None:
            weight = weight * np.exp(-0.5 * ((self.v - v0) / sv) ** 2)
        return weight


_SHIFT = 4  # sub-pixel bits of cv2's line drawing
Curve = np.ndarray  # (N, 2) float, (column, row) in pixels


@dataclass(frozen=True)
class Spot:
    """A place in a lung: center (column, row) and half axes in pixels."""

    column: float
    row: float
    half_width: float
    half_height: float


@dataclass(frozen=True)
class Effect:
    """A drawn lesion."""

    change: np.ndarray  # (H, W) float32, attenuation added (or, for air, removed)
    mask: np.ndarray  # (H, W) bool, where the lesion lies


@dataclass
class Scene:
    """The warped anatomy, whose layers differ by a small displacement, and what draws on it."""

    anatomy: Anatomy
    pose: int
    size: int  # side of the image in pixels
    grids: dict[str, np.ndarray]  # of "bone", "lung", "body": where a pixel lies in the base map
    spacing: float  # mm a pixel in the plane of the lungs
    content: np.ndarray | None = None  # (H, W) attenuation of the lungs' content, vessels included
    vessels: np.ndarray | None = None  # its part that is vessels and fine structure
    lungs: dict[str, Lung] = field(init=False)
    _cache: dict[str, np.ndarray] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Find the lungs."""
        self.lungs = {side: self._lung(k, side) for k, side in enumerate(SIDES)}

    def channel(self, name: str) -> np.ndarray:
        """One channel on the film, (H, W) float32: a line integral, or a path in mm."""
        if name not in self._cache:
            layer = self.anatomy.maps[self.pose, CHANNELS.index(name)]
            self._cache[name] = self.warp(layer, _LAYERS.get(name, "body"))
        return self._cache[name]

    def mix(self, weights: dict[str, float]) -> np.ndarray:
        """A weighted sum of channels of one layer on the film, (H, W) float32; one warp for all."""
        maps, index = self.anatomy.maps[self.pose], CHANNELS.index
        total = sum(np.float32(weight) * maps[index(name)] for name, weight in weights.items())
        return self.warp(total, _LAYERS.get(next(iter(weights)), "body"))

    def warp(self, layer: np.ndarray, kind: str = "body") -> np.ndarray:
        """Bring a base map onto the film: (H, W) float32."""
        grid = self.grids[kind]
        mode = cv2.BORDER_REPLICATE
        return cv2.remap(layer, grid[..., 0], grid[..., 1], cv2.INTER_LINEAR, borderMode=mode)

    def pixels(self, mm: float) -> float:
        """A length on the film in pixels."""
        return mm / self.spacing

    def locate(self, points: np.ndarray, kind: str = "bone") -> np.ndarray:
        """Film pixels (N, 2) of base-map points (N, 2) in [0, 1]: the inverse of `warp`."""
        grid = self.grids[kind][::2, ::2].reshape(-1, 2)
        wanted = points * self.anatomy.maps.shape[-1] - 0.5
        nearest = ((grid[None] - wanted[:, None]) ** 2).sum(-1).argmin(1)
        columns = (self.size + 1) // 2
        return np.stack([nearest % columns, nearest // columns], -1) * 2.0

    def coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """(column, row) of every pixel, (H, W) float32 each."""
        if "column" not in self._cache:
            line = np.arange(self.size, dtype=np.float32)
            self._cache["column"], self._cache["row"] = np.meshgrid(line, line)
        return self._cache["column"], self._cache["row"]

    def noise(self, rng: Rng, scale: float) -> np.ndarray:
        """Smooth noise of unit variance with a correlation length of `scale` pixels: (H, W)."""
        step = 1 / max(scale, 1.0)
        knots = int(np.ceil(self.size * step)) + 4
        coarse = rng.standard_normal((knots, knots), dtype=np.float32)
        x, y = 1 + rng.random(2)
        place = np.array([[step, 0, x], [0, step, y]])
        mode = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(coarse, place, (self.size, self.size), flags=mode) * np.float32(1.3)

    def cloud(self, rng: Rng, scale: float, *, rough: float = 0.55) -> np.ndarray:
        """Three octaves of noise, coarsest `scale` pixels, unit variance: (H, W)."""
        total = self.noise(rng, scale)
        gain, weight = 1.0, 1.0
        for octave in (0.45, 0.2):
            weight *= rough
            total = total + weight * self.noise(rng, scale * octave)
            gain += weight**2
        return total / np.sqrt(gain)

    def network(self, rng: Rng, scale: float, sharp: float = 0.3) -> np.ndarray:
        """A net of fine lines (reticulation): (H, W) in [0, 1]."""
        first, second = self.noise(rng, scale), self.noise(rng, scale * 0.7)
        return np.maximum(np.exp(-((first / sharp) ** 2)), 0.8 * np.exp(-((second / sharp) ** 2)))

    def cells(self, rng: Rng, diameter: float) -> np.ndarray:
        """Walls of small cysts (honeycombing): (H, W) in [0, 1], bright walls, dark lumina."""
        count = int(np.ceil(self.size / diameter)) + 1
        line = (np.arange(count) + 0.5) * diameter
        centers = np.stack(np.meshgrid(line, line), -1) + rng.normal(
            0, 0.27 * diameter, (count, count, 2)
        )
        seeds = np.full((self.size, self.size), 255, np.uint8)
        column, row = np.clip(np.round(centers), 0, self.size - 1).astype(int).reshape(-1, 2).T
        seeds[row, column] = 0
        far = cv2.distanceTransform(seeds, cv2.DIST_L2, 3)
        return np.clip(far / (0.5 * diameter) - 0.35, 0, 1)

    def strokes(self, paths: list[Curve], width: float | list[float]) -> np.ndarray:
        """Anti-aliased curves (N, 2) or bundles (B, N, 2), widths in pixels: (H, W) in [0, 1]."""
        canvas = np.zeros((2 * self.size, 2 * self.size), np.uint8)
        widths = width if isinstance(width, list) else [width] * len(paths)
        for path, wide in zip(paths, widths, strict=True):
            points = np.round((np.asarray(path) * 2 + 0.5) * (1 << _SHIFT)).astype(np.int32)
            bundle = list(points) if points.ndim == 3 else [points]
            ink = int(255 * min(1.0, max(2 * wide, 0.25)))
            thick = max(1, round(2 * wide))
            cv2.polylines(canvas, bundle, False, ink, thick, cv2.LINE_AA, _SHIFT)
        small = cv2.resize(canvas, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return small.astype(np.float32) / 255

    def tree(
        self, rng: Rng, root: Curve, angles: np.ndarray, length: float, width: float
    ) -> np.ndarray:
        """Vessels that branch twice from a root (2,), thinner each time: (H, W) in [0, 1]."""
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
        return self.strokes(bundles, widths)

    def sides(self, lesion: Lesion, rng: Rng) -> tuple[str, ...]:
        """The sides a lesion is drawn on: its own, that of its box, or one by chance."""
        if lesion.side == "bilateral":
            return SIDES
        if lesion.side in SIDES:
            return (lesion.side,)
        if lesion.box is not None:
            x, _, width, _ = lesion.box
            middle = (self.lungs["right"].hilum[0] + self.lungs["left"].hilum[0]) / 2
            return ("right" if (x + width / 2) * self.size < middle else "left",)
        return (SIDES[int(rng.integers(2))],)

    def spot(
        self,
        lung: Lung,
        lesion: Lesion,
        rng: Rng,
        half: tuple[float, float],
        *,
        weight: np.ndarray | float = 1.0,
        margin: float = 0.0,
    ) -> Spot:
        """Choose a lesion's center and half axes: its box, moved into the lung.

        Without one the center is drawn from zone and `weight` (H, W), `half` (mm) gives the axes;
        the center keeps `margin` mm from the lung's border where possible.
        """
        if lesion.box is not None:
            x, y, width, height = (part * self.size for part in lesion.box)
            well_inside = lung.mask & (lung.u > 0.1) & (lung.u < 0.95) & (lung.v < 0.95)
            place = np.argwhere(well_inside)[:, ::-1]  # (N, 2), column and row
            far = ((place - (x + width / 2, y + height / 2)) ** 2).sum(1)
            column, row = place[np.argmin(far)].tolist() if far.size else lung.hilum
            return Spot(float(column), float(row), max(width / 2, 1.0), max(height / 2, 1.0))
        chance = lung.zone(lesion.zone) * weight
        if margin:
            inside, step = lung.mask.copy(), max(1, round(self.pixels(margin)))
            inside[:, step:] &= lung.mask[:, :-step]
            inside[:, :-step] &= lung.mask[:, step:]
            inside[step:] &= lung.mask[:-step]
            chance = chance * inside if (chance * inside).sum() > 0 else chance
        return Spot(*draw_place(chance, rng), self.pixels(half[0]), self.pixels(half[1]))

    def ellipse(self, spot: Spot, angle: float = 0.0) -> np.ndarray:
        """Distance from a spot's center in units of its half axes: (H, W) float32."""
        column, row = self.coordinates()
        x, y = column - np.float32(spot.column), row - np.float32(spot.row)
        cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        across = (cosine * x + sine * y) / np.float32(max(spot.half_width, 0.7))
        along = (cosine * y - sine * x) / np.float32(max(spot.half_height, 0.7))
        return np.sqrt(across**2 + along**2)

    def blob(self, spot: Spot, rng: Rng, *, rough: float, edge: float) -> np.ndarray:
        """A cloud-like region, (H, W) in [0, 1]; its border strays by `rough`, is `edge` wide."""
        scale = max(spot.half_width, spot.half_height) * 1.1
        angle = rng.uniform(-0.5, 0.5) if spot.half_width != spot.half_height else 0.0
        stray = self.cloud(rng, max(scale, 3.0), rough=0.35)
        distance = self.ellipse(spot, angle) - rough * stray
        return np.clip((1 - distance) / edge + 0.5, 0, 1)

    def fill(self, lung: Lung, thickness: np.ndarray, *, fade: float = 0.7) -> Effect:
        """Fill `thickness` mm of lung, at most its path; vessels lose up to `fade` of contrast."""
        thickness = np.minimum(thickness, lung.path)
        share = thickness / np.maximum(lung.path, 1.0)
        change = MU_FILL * thickness - fade * share * np.clip(self.vessels, 0, None)
        return Effect(change.astype(np.float32), outlined(thickness))

    def _lung(self, index: int, side: str) -> Lung:
        seen = np.asarray(self.anatomy.fields[self.pose, index], np.float32)
        mask = self.warp(seen, "lung") > 127
        mask[0, 0] |= not mask.any()  # a film cropped beyond one lung still has both entries
        path = self.mix({lobe: 1.0 for lobe in LOBES if lobe.startswith(side)})
        line, rows = np.arange(self.size), np.flatnonzero(mask.any(1))
        left = np.interp(line, rows, np.argmax(mask, 1)[rows])
        right = np.interp(line, rows, (self.size - 1 - np.argmax(mask[:, ::-1], 1))[rows])
        low = min(rows[0] + round(0.7 * (rows[-1] - rows[0])), self.size - 1)
        inner = right if side == "right" else left
        inner[low:] = inner[low]  # below, the dome would pull the mediastinal border outwards
        wide = np.maximum(right - left, 1.0)
        across = (line[None] - left[:, None]) / wide[:, None]
        u = np.float32(1 - across if side == "right" else across)
        tall = float(max(rows[-1] - rows[0], 1))
        v = np.float32(np.broadcast_to(((line - rows[0]) / tall)[:, None], mask.shape))
        row = rows[0] + 0.46 * tall
        inside = np.flatnonzero(mask[min(int(row), self.size - 1)])
        column = (inside[-1] if side == "right" else inside[0]) if inside.size else self.size / 2
        hilum = float(column), float(row)
        return Lung(side, mask, path, u, v, hilum, tall, float(np.median(wide[rows])))


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


def draw_place(chance: np.ndarray, rng: Rng) -> tuple[float, float]:
    """Draw a pixel (column, row) with probability proportional to `chance`."""
    total = np.cumsum(chance, dtype=np.float64)
    if total[-1] <= 0:
        return (chance.shape[1] - 1) / 2, (chance.shape[0] - 1) / 2
    index = min(int(np.searchsorted(total, rng.random() * total[-1])), total.size - 1)
    return float(index % chance.shape[1]), float(index // chance.shape[1])


_SEEN = 0.3  # of its largest thickness: what an annotator would still outline


def combine(effects: Iterable[Effect]) -> Effect:
    """Several lesions of one concept as one."""
    changes, masks = zip(*((effect.change, effect.mask) for effect in effects), strict=True)
    return Effect(np.sum(changes, axis=0, dtype=np.float32), np.logical_or.reduce(masks))


def each_side(draw: Callable[..., Effect]) -> Callable[..., Iterator[Effect]]:
    """A painter of a lesion, from one that draws it in one lung: on each side it is drawn on."""

    @wraps(draw)
    def painter(scene: Scene, lesion: Lesion, rng: Rng) -> Iterator[Effect]:
        for side in scene.sides(lesion, rng):
            yield draw(scene, scene.lungs[side], lesion, rng)

    return painter


def outlined(amount: np.ndarray, seen: float = _SEEN) -> np.ndarray:
    """The mask of a lesion: where it is thicker than a share of its greatest thickness."""
    top = float(amount.max())
    mask = amount > max(seen * top, 1e-6)
    return mask if top > 0 else np.zeros_like(mask)


def between(rng: Rng, severity: float, low: float, high: float) -> float:
    """A strength for a severity: from `low` (barely visible) to `high` (gross), with spread."""
    return float((low + (high - low) * severity) * np.exp(rng.normal(0, 0.12)))
