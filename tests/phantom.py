"""A chest made of ellipsoids: a stand-in for the CT where the renderer is tested."""

import numpy as np

from rctpl_utils.simulation.anatomy import Anatomy, Plan, build_anatomy, lung_landmarks
from rctpl_utils.simulation.ct import CHANNELS, MU_WATER, Volume

SPACING = (5.0, 5.0, 5.0)  # z, y, x in mm
SHAPE = (90, 50, 80)


def chest() -> Volume:
    """Body, lungs, heart, abdomen, spine and two straight ribs a side, with known geometry."""
    values = np.zeros((len(CHANNELS), *SHAPE), np.float32)
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(SHAPE, SPACING, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")  # mm from the isocenter

    def ball(center: tuple[float, ...], half: tuple[float, ...]) -> np.ndarray:
        return sum(((p - c) / h) ** 2 for p, c, h in zip((z, y, x), center, half, strict=True)) < 1

    body = (y / 105) ** 2 + (x / 165) ** 2 < 1
    heart = ball((-30, 30, 25), (50, 45, 50))
    abdomen = (z < -70) & ((y / 95) ** 2 + (x / 150) ** 2 < 1)
    spine = ((y + 75) / 18) ** 2 + (x / 18) ** 2 < 1
    free = body & ~heart & ~abdomen & ~spine
    right, left = (ball((15, 0, across), (120, 85, 55)) & free for across in (-75, 75))
    ribs = body & (np.abs(z % 40 - 20) < 6)
    channels = {
        "heart": MU_WATER * heart,
        "abdomen": MU_WATER * abdomen,
        "axial": MU_WATER * spine,
        "soft": MU_WATER * (free & ~right & ~left),
        "lung": 0.16 * MU_WATER * (right | left),
        "right upper": right & (z > 50),
        "right middle": right & (z <= 50) & (z > 0),
        "right lower": right & (z <= 0),
        "left upper": left & (z > 10),
        "left lower": left & (z <= 10),
        "ribs right": 1.8 * MU_WATER * (ribs & (x < -120)),
        "ribs left": 1.8 * MU_WATER * (ribs & (x > 120)),
    }
    for name, content in channels.items():
        values[CHANNELS.index(name)] = content
    middle = tuple((n - 1) / 2 for n in SHAPE)
    return Volume(values, SPACING, middle, _ribs())


def _ribs() -> np.ndarray:
    """Nine half circles a side: (18, 20, 3) in (z, y, x) mm."""
    sign, height, turn = np.meshgrid(
        (-1, 1), np.linspace(100, -60, 9), np.linspace(-np.pi / 2, np.pi / 2, 20), indexing="ij"
    )
    lines = np.stack([height, 95 * np.sin(turn), sign * 140 * np.cos(turn)], -1)
    return lines.reshape(18, 20, 3).astype(np.float32)


def outlines(count: int = 12) -> np.ndarray:
    """Landmarks of drawn lungs of varied height and width, (count, L, 2)."""
    row, column = np.mgrid[:128, :128] / 128
    found = []
    for k in range(count):
        tall, wide = 0.26 + 0.006 * k, 0.13 + 0.003 * (k % 4)
        pair = [
            (((column - x) / wide) ** 2 + ((row - 0.45) / tall) ** 2 < 1) & (row < 0.62)
            for x in (0.3, 0.7)
        ]
        found.append(lung_landmarks(*pair))
    return np.array(found)


def small_anatomy() -> Anatomy:
    """The phantom in seven poses at 72 pixels."""
    return build_anatomy(chest(), outlines(), Plan(train=3, validation=2, test=2, pixels=72))
