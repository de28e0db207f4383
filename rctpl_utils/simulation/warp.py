"""Landmarks of a pair of lungs, and smooth warps between two such pairs that do not fold."""

import cv2
import numpy as np

LEVELS = (0.05, 0.15, 0.28, 0.42, 0.56, 0.7)  # heights of border landmarks, apex to base
COLUMNS = (0.08, 0.3, 0.52, 0.75, 0.95)  # base landmarks, from medial to lateral
PER_LUNG = 1 + 2 * len(LEVELS) + len(COLUMNS)
COARSE = 25  # nodes of the grid on which a warp is computed
_REACH = 0.3  # correlation length of the residual displacement, in frame widths
_NOISE = 0.004  # relative variance of a landmark: the outlines were drawn by hand
_MEDIAL = 0.4  # of one on the mediastinum, which must not be stretched with each patient's gap


def lung_landmarks(right: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Corresponding points of two lung masks in one image.

    Args:
        right, left: (H, W) bool, the patient's right lung (on the image's left) and left lung.

    Returns:
        (2 * PER_LUNG, 2) float64, (column, row) relative to the image frame.
    """
    return np.concatenate([_one_lung(right, medial=1), _one_lung(left, medial=-1)])


def _one_lung(mask: np.ndarray, *, medial: int) -> np.ndarray:
    """Apex, (lateral, medial) at each level, base: (PER_LUNG, 2). `medial`: +1 at larger x."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, tall = rows[0], rows[-1] - rows[0]
    points = [(np.flatnonzero(mask[top : top + max(1, tall // 40)].any(0)).mean(), top)]
    for level in LEVELS:
        y = round(top + level * tall)
        inside = np.flatnonzero(mask[y])
        ends = (inside[0], inside[-1]) if inside.size else (points[-2][0], points[-1][0])
        points += [(x, y) for x in ends[::medial]]
    wide = columns[-1] - columns[0]
    for part in COLUMNS:
        x = round(columns[-1] - part * wide if medial > 0 else columns[0] + part * wide)
        inside = np.flatnonzero(mask[:, x])
        points.append((x, inside[-1] if inside.size else rows[-1]))
    return (np.array(points, dtype=float) + 0.5) / (width, height)


def warp_grid(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Inverse warp on a coarse grid: for each place of the output, where it lies in the source.

    An affine fit, plus kriging of what it leaves over (Rasmussen and Williams, Gaussian Processes
    for Machine Learning, 2006, Eq. 2.25, Matern 5/2): smooth, and zero far from the landmarks.
    The second part is weakened until the Jacobian is positive everywhere.

    Args:
        target: (N, 2) landmarks in the output frame, (column, row) in [0, 1].
        source: (N, 2) the same landmarks in the source frame.

    Returns:
        (COARSE, COARSE, 2) float64, source (column, row) in [0, 1].
    """
    line = np.linspace(0, 1, COARSE)
    nodes = np.stack(np.meshgrid(line, line), -1)  # (G, G, 2)
    affine = np.linalg.lstsq(_homogeneous(target), source, rcond=None)[0]  # (3, 2)
    straight = _homogeneous(nodes) @ affine  # (G, G, 2)
    rest = source - _homogeneous(target) @ affine  # (N, 2)
    kernel = _matern(target, target) + np.diag(_landmark_noise(len(target)))
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


def elastic(rng: np.random.Generator, strength: float, nodes: int = 5) -> np.ndarray:
    """A smooth random displacement on the coarse grid, (COARSE, COARSE, 2); `strength` = SD."""
    knots = rng.normal(0, strength, (nodes, nodes, 2)).astype(np.float32)
    return cv2.resize(knots, (COARSE, COARSE), interpolation=cv2.INTER_CUBIC).astype(float)


def _homogeneous(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, np.ones((*points.shape[:-1], 1))], -1)


def _landmark_noise(count: int) -> np.ndarray:
    noise = np.full(PER_LUNG, _NOISE)
    noise[2 : 1 + 2 * len(LEVELS) : 2] = _MEDIAL
    noise[1 + 2 * len(LEVELS)] = _MEDIAL
    return np.resize(noise, count)


def _matern(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The Matern covariance of smoothness 5/2 between points (N, 2) and (M, 2): (N, M)."""
    square = (a**2).sum(-1)[:, None] + (b**2).sum(-1) - 2 * a @ b.T
    r = np.sqrt(5 * np.maximum(square, 0)) / _REACH
    return (1 + r + r * r / 3) * np.exp(-r)
