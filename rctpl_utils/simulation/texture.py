"""Textures and strokes: multi-scale noise, networks, cells, branching vessels."""

import cv2
import numpy as np

_SHIFT = 4  # sub-pixel bits of cv2's line drawing
Path = np.ndarray  # (N, 2) float, (column, row) in pixels


def noise(rng: np.random.Generator, size: int, scale: float) -> np.ndarray:
    """Smooth noise of unit variance with a correlation length of `scale` pixels: (size, size)."""
    step = 1 / max(scale, 1.0)
    knots = int(np.ceil(size * step)) + 4
    coarse = rng.standard_normal((knots, knots), dtype=np.float32)
    x, y = 1 + rng.random(2)
    place = np.array([[step, 0, x], [0, step, y]])
    mode = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(coarse, place, (size, size), flags=mode) * np.float32(1.3)


def cloud(rng: np.random.Generator, size: int, scale: float, *, rough: float = 0.55) -> np.ndarray:
    """Three octaves of noise, coarsest `scale` pixels, unit variance: (size, size)."""
    total = noise(rng, size, scale)
    gain, weight = 1.0, 1.0
    for octave in (0.45, 0.2):
        weight *= rough
        total = total + weight * noise(rng, size, scale * octave)
        gain += weight**2
    return total / np.sqrt(gain)


def network(rng: np.random.Generator, size: int, scale: float, sharp: float = 0.3) -> np.ndarray:
    """A net of fine lines (reticulation): (size, size) in [0, 1]."""
    first, second = noise(rng, size, scale), noise(rng, size, scale * 0.7)
    return np.maximum(np.exp(-((first / sharp) ** 2)), 0.8 * np.exp(-((second / sharp) ** 2)))


def cells(rng: np.random.Generator, size: int, diameter: float) -> np.ndarray:
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


def strokes(size: int, paths: list[Path], width: float | list[float]) -> np.ndarray:
    """Anti-aliased curves: (size, size) float32 in [0, 1].

    Args:
        size: side of the image.
        paths: curves (N, 2), or bundles of curves of one width (B, N, 2).
        width: in pixels, one for all or one for each entry of `paths`; may be below one.
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


def curve(points: list[tuple[float, float]], count: int = 24) -> Path:
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
    rng: np.random.Generator,
    root: tuple[float, float],
    angles: np.ndarray,
    length: float,
    width: float,
    generations: int = 3,
) -> tuple[list[Path], list[float]]:
    """Branching curves from `root`: a bundle of paths (B, 6, 2) and a width for each generation.

    Args:
        root: (column, row) in pixels.
        angles: directions of the first branches, radians.
        length, width: of the first branches, pixels; both shrink with each generation.
    """
    start = np.tile(np.asarray(root, float), (len(angles), 1))  # (B, 2)
    reach = length * rng.uniform(0.6, 1.2, len(angles))
    bundles, widths = [], []
    for generation in range(generations):
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
