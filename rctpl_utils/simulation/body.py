"""The patient's own attenuation on one film: habitus, bones, vessels, heart; before any lesion."""

from dataclasses import dataclass

import cv2
import numpy as np

from rctpl_utils.simulation.cases import Rng
from rctpl_utils.simulation.ct import MU_WATER
from rctpl_utils.simulation.scene import MU_FILL, MU_LUNG, Lung, Scene
from rctpl_utils.simulation.shapes import noise, strokes, vessel_tree
from rctpl_utils.simulation.styles import Style


@dataclass
class Body:
    """Layers of one patient, (H, W) each."""

    fixed: np.ndarray  # everything but the lungs' content, heart included
    lung: np.ndarray  # attenuation of the lungs' content, vessels included
    vessels: np.ndarray  # the part of `lung` that is vessels and fine structure


def compose(scene: Scene, style: Style, rng: Rng) -> Body:
    """Add up the layers with this patient's habitus."""
    lung, vessels = _lung_content(scene, rng)
    bone = rng.uniform(*style.bone)
    tissue = {
        "soft": np.exp(rng.normal(-0.1, 0.16)),
        "abdomen": rng.uniform(0.85, 1.1),
        "mediastinum": rng.uniform(0.85, 1.15),
        "heart": 1.0,
    }
    skeleton = {
        "ribs right": bone,
        "ribs left": bone,
        "shoulder": bone * rng.uniform(0.5, 0.9),
        "axial": bone * rng.uniform(0.75, 1.0),
    }
    fixed = scene.mix(tissue) + scene.mix(skeleton) + _breasts(scene, rng)
    fixed += heart_change(scene, float(np.clip(rng.normal(1.0, 0.045), 0.9, 1.09)), rng)
    return Body(fixed, lung, vessels)


def _lung_content(scene: Scene, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Parenchyma of varied density; the CT's vessels fade, random trees take over in part."""
    lung = scene.channel("lung")
    smooth = cv2.GaussianBlur(lung, (0, 0), scene.pixels(9))
    own = (lung - smooth) * rng.uniform(0.7, 1.5)
    path = scene.lungs["right"].path + scene.lungs["left"].path
    reach = np.clip(path / 60, 0, 1)
    uneven = 1 + 0.05 * noise(rng, scene.size, scene.size / 4)
    tree = np.zeros_like(lung)
    for side in scene.lungs.values():
        tree += _normal_vessels(scene, side, rng)
    vessels = own + tree * reach * rng.uniform(0.5, 1.1)
    return smooth * rng.uniform(0.85, 1.2) * uneven + vessels, vessels


def _normal_vessels(scene: Scene, lung: Lung, rng: Rng) -> np.ndarray:
    """A random bronchovascular tree of one lung, (H, W) attenuation."""
    fan = np.linspace(-1.25, 1.35, 6) + rng.normal(0, 0.15, 6)
    angles = fan if lung.outward > 0 else np.pi - fan
    length, width = 0.2 * lung.height, scene.pixels(rng.uniform(3.0, 4.6))
    paths, widths = vessel_tree(rng, lung.hilum, angles, length, width)
    ink = strokes(scene.size, paths, widths)
    return ink * MU_WATER * rng.uniform(4.5, 8.0)


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


def _breasts(scene: Scene, rng: Rng) -> np.ndarray:
    """Breast or pectoral shadows of varied size over the lower lungs, (H, W) attenuation."""
    total = np.zeros((scene.size, scene.size), np.float32)
    size = rng.uniform(-12, 38)  # mm thickness; none in most men
    if size <= 2:
        return total
    column, row = scene.coordinates()
    for lung in scene.lungs.values():
        center = lung.hilum[0] + lung.outward * lung.width * rng.uniform(0.45, 0.65)
        middle = lung.hilum[1] + lung.height * rng.uniform(0.22, 0.4)
        wide, tall = lung.width * rng.uniform(0.42, 0.55), lung.height * rng.uniform(0.2, 0.3)
        below = np.where(row > middle, 1.0, 0.55)  # a sharp lower, a soft upper border
        square = ((column - center) / wide) ** 2 + ((row - middle) / tall * below) ** 2
        total += MU_WATER * 0.9 * size * np.sqrt(np.clip(1 - square, 0, 1))
    return total
