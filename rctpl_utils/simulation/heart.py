"""Heart, mediastinum and what lies behind the heart: cardiomegaly, wide mediastinum, hernia."""

import cv2
import numpy as np

from rctpl_utils.simulation.body import Body, heart_change
from rctpl_utils.simulation.cases import Lesion
from rctpl_utils.simulation.effect import Effect, between
from rctpl_utils.simulation.scene import MU_FILL, SIDES, Scene
from rctpl_utils.simulation.texture import cloud, noise
from rctpl_utils.simulation.volume import MU_WATER


def cardiomegaly(scene: Scene, body: Body, lesion: Lesion, rng: np.random.Generator) -> Effect:
    """A wider heart; the mask is the whole enlarged silhouette."""
    scale = 1.02 + between(rng, lesion.severity, 0.02, 0.5)
    change = heart_change(scene, scale, rng, up=rng.uniform(0.0, 0.6))
    heart = scene.channel("heart") + np.clip(change, 0, None)
    heart = cv2.GaussianBlur(heart, (0, 0), scene.pixels(3))
    mask = heart > 0.22 * heart.max()
    return Effect(change, _largest(mask))


def enlarged_mediastinum(
    scene: Scene, body: Body, lesion: Lesion, rng: np.random.Generator
) -> Effect:
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


def hernia(scene: Scene, body: Body, lesion: Lesion, rng: np.random.Generator) -> Effect:
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
