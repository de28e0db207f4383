"""One patient on one film: the warped anatomy of an image, and coordinates inside its lungs."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from rctpl_utils.simulation.anatomy import Anatomy
from rctpl_utils.simulation.volume import LOBES, MU_WATER

MU_LUNG = 0.16 * MU_WATER  # aerated lung, about -840 HU; per mm
MU_FILL = MU_WATER - MU_LUNG  # what a millimetre of lung gains when it fills with fluid or cells
SIDES = ("right", "left")


@dataclass
class Lung:
    """One lung on the film.

    Attributes:
        side: "right" or "left" (the patient's).
        mask: (H, W) bool, the visible lung field, heart shadow included.
        path: (H, W) float32, lung along the ray in mm, also behind heart and diaphragm.
        u: (H, W) float32, 0 at the mediastinal border, 1 at the chest wall.
        v: (H, W) float32, 0 at the apex, 1 at the costophrenic angle.
        hilum: (column, row) in pixels.
    """

    side: str
    mask: np.ndarray
    path: np.ndarray
    u: np.ndarray
    v: np.ndarray
    hilum: tuple[float, float]
    height: float
    width: float

    @property
    def outward(self) -> int:
        """The direction of the chest wall along a row: -1 or +1."""
        return -1 if self.side == "right" else 1


@dataclass
class Scene:
    """The warped anatomy; channels are warped when first asked for.

    Attributes:
        anatomy, pose: where the maps come from.
        size: side of the image in pixels.
        grids: {layer: (H, W, 2) float32}, where each output pixel lies in the base map; "bone",
            "lung" and "body" differ by a small elastic displacement.
        spacing: mm a pixel in the plane of the lungs.
    """

    anatomy: Anatomy
    pose: int
    size: int
    grids: dict[str, np.ndarray]
    spacing: float
    lungs: dict[str, Lung] = field(init=False)
    _cache: dict[str, np.ndarray] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Find the lungs."""
        self.lungs = {side: self._lung(k, side) for k, side in enumerate(SIDES)}

    def channel(self, name: str) -> np.ndarray:
        """One channel on the film, (H, W) float32: a line integral, or a path in mm."""
        if name not in self._cache:
            layer = self.anatomy.maps[self.pose, self.anatomy.channels.index(name)]
            self._cache[name] = self.warp(layer, _layer_of(name))
        return self._cache[name]

    def mix(self, weights: dict[str, float]) -> np.ndarray:
        """A weighted sum of channels of one layer on the film, (H, W) float32; one warp for all."""
        maps, index = self.anatomy.maps[self.pose], self.anatomy.channels.index
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
        lobes = [n for n in LOBES if n.startswith(side)]
        path = self.mix(dict.fromkeys(lobes, 1.0))
        u, v, height, width = _lung_coordinates(mask, outward=-1 if side == "right" else 1)
        rows = np.flatnonzero(mask.any(1))
        row = rows[0] + 0.46 * height
        inside = np.flatnonzero(mask[min(int(row), self.size - 1)])
        column = (inside[-1] if side == "right" else inside[0]) if inside.size else self.size / 2
        return Lung(side, mask, path, u, v, (float(column), float(row)), height, width)


def _layer_of(name: str) -> str:
    if name.startswith("ribs") or name in ("shoulder", "axial"):
        return "bone"
    return "lung" if name == "lung" or name in LOBES else "body"


def _lung_coordinates(
    mask: np.ndarray, outward: int
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Relative position across (u) and along (v) the lung, with its height and width in pixels."""
    size = mask.shape[0]
    rows = np.flatnonzero(mask.any(1))
    left = np.argmax(mask, 1)
    right = size - 1 - np.argmax(mask[:, ::-1], 1)
    line = np.arange(size)
    left = np.interp(line, rows, left[rows])
    right = np.interp(line, rows, right[rows])
    low = min(rows[0] + round(0.7 * (rows[-1] - rows[0])), size - 1)
    inner = left if outward > 0 else right
    inner[low:] = inner[low]  # below, the dome would pull the mediastinal border outwards
    wide = np.maximum(right - left, 1.0)
    across = (line[None] - left[:, None]) / wide[:, None]
    u = across if outward > 0 else 1 - across
    tall = float(max(rows[-1] - rows[0], 1))
    v = np.broadcast_to(((line - rows[0]) / tall)[:, None], mask.shape)
    return u.astype(np.float32), v.astype(np.float32), tall, float(np.median(wide[rows]))
