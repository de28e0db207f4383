"""What a lesion does to the film, and the common ways to build one."""

from dataclasses import dataclass

import numpy as np

from rctpl_utils.simulation.body import Body
from rctpl_utils.simulation.places import Spot
from rctpl_utils.simulation.scene import MU_FILL, Lung, Scene
from rctpl_utils.simulation.texture import cloud

_SEEN = 0.3  # of its largest thickness: what an annotator would still outline


@dataclass(frozen=True)
class Effect:
    """A drawn lesion.

    Attributes:
        change: (H, W) float32, attenuation added (or, for air, removed).
        mask: (H, W) bool, where the lesion lies.
    """

    change: np.ndarray
    mask: np.ndarray


def combine(effects: list[Effect]) -> Effect:
    """Several lesions of one concept as one."""
    change = np.sum([effect.change for effect in effects], axis=0, dtype=np.float32)
    return Effect(change, np.logical_or.reduce([effect.mask for effect in effects]))


def fill(body: Body, lung: Lung, thickness: np.ndarray, *, fade: float = 0.7) -> Effect:
    """Replace `thickness` millimetres of aerated lung by fluid or cells.

    Vessels lose their contrast where the air around them is gone.

    Args:
        body: the patient.
        lung: where; nothing is added outside of its path.
        thickness: (H, W) mm, at most the lung's path is used.
        fade: share of the vessels' contrast lost where the lung is wholly filled.
    """
    thickness = np.minimum(thickness, lung.path)
    share = thickness / np.maximum(lung.path, 1.0)
    change = MU_FILL * thickness - fade * share * np.clip(body.vessels, 0, None)
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


def blob(
    scene: Scene,
    spot: Spot,
    rng: np.random.Generator,
    *,
    rough: float = 0.3,
    edge: float = 0.4,
) -> np.ndarray:
    """A cloud-like region around a spot: (H, W) in [0, 1], 1 in its core.

    Args:
        rough: how far the border strays, relative to the half axes.
        edge: width of the border, relative to the half axes.
    """
    scale = max(spot.half_width, spot.half_height) * 1.1
    angle = rng.uniform(-0.5, 0.5) if spot.half_width != spot.half_height else 0.0
    stray = cloud(rng, scene.size, max(scale, 3.0), rough=0.35)
    distance = ellipse(scene, spot, angle) - rough * stray
    return np.clip((1 - distance) / edge + 0.5, 0, 1)


def between(rng: np.random.Generator, severity: float, low: float, high: float) -> float:
    """A strength for a severity: from `low` (barely visible) to `high` (gross), with spread."""
    return float((low + (high - low) * severity) * np.exp(rng.normal(0, 0.12)))
