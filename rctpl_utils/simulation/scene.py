"""One patient on one film: the anatomy warped to a real lung outline, coordinates in its lungs."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from rctpl_utils.simulation.anatomy import FIELD, LEVELS, PER_LUNG, Anatomy
from rctpl_utils.simulation.cases import Case, Rng
from rctpl_utils.simulation.ct import CHANNELS, LOBES, MU_WATER
from rctpl_utils.simulation.styles import Style

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


@dataclass
class Scene:
    """The warped anatomy; channels are warped when first asked for.

    Its layers, "bone", "lung" and "body", differ by a small elastic displacement.
    """

    anatomy: Anatomy
    pose: int
    size: int  # side of the image in pixels
    grids: dict[str, np.ndarray]  # of each layer: where a pixel lies in the base map
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
            self._cache[name] = self.warp(layer, _layer_of(name))
        return self._cache[name]

    def mix(self, weights: dict[str, float]) -> np.ndarray:
        """A weighted sum of channels of one layer on the film, (H, W) float32; one warp for all."""
        maps, index = self.anatomy.maps[self.pose], CHANNELS.index
        total = sum(np.float32(weight) * maps[index(name)] for name, weight in weights.items())
        return self.warp(total, _layer_of(next(iter(weights))))

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


def _layer_of(name: str) -> str:
    if name.startswith("ribs") or name in ("shoulder", "axial"):
        return "bone"
    return "lung" if name == "lung" or name in LOBES else "body"


_BASE = slice(1 + 2 * len(LEVELS), PER_LUNG)  # landmarks on the diaphragm, within one lung
_WIDTHS = (0.6, 0.86)  # both lungs across the frame: less wastes pixels, more cuts the chest wall


def set_up(case: Case, anatomy: Anatomy, style: Style, size: int, rng: Rng) -> Scene:
    """Choose pose and outline from the case's split and warp the anatomy accordingly."""
    pool, outlines = anatomy.pools(case.split)
    fitting = pool[anatomy.frontal[pool] == (rng.random() < style.frontal)]
    pose = int(rng.choice(fitting if fitting.size else pool))
    target = _place(anatomy.outlines[rng.choice(outlines)], style, rng)
    top = target[:, 1].min()  # with the depth of inspiration the lungs move, but not their apices
    target[:, 1] += rng.normal(0, 0.03) * (target[:, 1] - top)
    for index, change in enumerate(_volume_changes(case, rng.spawn(1)[0])):
        _resize_lung(target[index * PER_LUNG : (index + 1) * PER_LUNG], *change)
    source = anatomy.landmarks[pose]
    grid = warp_grid(target, source) + elastic(rng, 0.006)
    shifts = {"body": 0.0, "bone": 0.005, "lung": 0.008}
    pixels = anatomy.maps.shape[-1]
    grids = {name: dense(grid + elastic(rng, s), size, pixels) for name, s in shifts.items()}
    scale = np.ptp(source, axis=0).mean() / np.ptp(target, axis=0).mean()
    return Scene(anatomy, pose, size, grids, spacing=float(FIELD * scale / size))


def _place(outline: np.ndarray, style: Style, rng: Rng) -> np.ndarray:
    """The outline on this film: turned, scaled into the frame, shifted, its width varied."""
    middle = (outline.min(0) + outline.max(0)) / 2
    angle = np.radians(rng.normal(0, style.rotation))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = (outline - middle) @ turn
    points *= np.exp(rng.normal(0, 0.04, 2))
    width, height = np.ptp(points, axis=0)
    wanted = np.clip(width * rng.normal(style.zoom, 0.04), *_WIDTHS)
    points *= min(wanted / width, 0.84 / height)
    width, height = np.ptp(points, axis=0)
    room = np.array([0.5 - width / 2 - 0.03, 0.5 - height / 2 - 0.03])
    shift = np.clip(middle - 0.5 + rng.normal(0, 0.015, 2), -room.clip(0), room.clip(0))
    return points + 0.5 + shift


def _volume_changes(case: Case, rng: Rng) -> list[tuple[float, float]]:
    """How much higher (share of its height) and flatter (0: a dome) each lung's diaphragm is."""
    raised, flat = rng.normal(0, 0.025, 2), np.zeros(2)
    draws = rng.random((len(case.lesions), 2))
    for lesion, (first, second) in zip(case.lesions, draws, strict=True):
        sides = {"right": [0], "left": [1]}.get(lesion.side or "", [0, 1])
        if lesion.concept == "Atelectasis" and lesion.side and first < 0.6:
            raised[sides] += 0.12 * lesion.severity * second
        elif lesion.concept == "Fibrosis":
            raised += 0.12 * lesion.severity * second
        elif lesion.concept == "Emphysema":
            raised -= 0.09 * lesion.severity
            flat += (0.25 + 0.6 * second) * lesion.severity
    return [(float(r), float(min(f, 0.9))) for r, f in zip(raised, flat, strict=True)]


def _resize_lung(points: np.ndarray, raised: float, flat: float) -> None:
    """Move one lung's diaphragm, in place: (PER_LUNG, 2)."""
    top, bottom = points[:, 1].min(), points[:, 1].max()
    share = np.clip((points[:, 1] - top) / (bottom - top), 0, 1) ** 2
    points[:, 1] -= raised * share * (bottom - top)
    base = points[_BASE, 1]
    level = np.linspace(base.max() - 0.02, base.max(), base.size)
    points[_BASE, 1] = (1 - flat) * base + flat * level
