"""Geometry of one film: base pose, real lung outline, breathing, small random deformation."""

from dataclasses import dataclass

import numpy as np

from rctpl_utils.simulation.anatomy import Anatomy
from rctpl_utils.simulation.cases import Case
from rctpl_utils.simulation.scene import Scene
from rctpl_utils.simulation.styles import Style
from rctpl_utils.simulation.warp import LEVELS, PER_LUNG, dense, elastic, warp_grid

_BASE = slice(1 + 2 * len(LEVELS), PER_LUNG)  # landmarks on the diaphragm, within one lung
_WIDTHS = (0.6, 0.86)  # both lungs across the frame: less wastes pixels, more cuts the chest wall


@dataclass(frozen=True)
class Volume:
    """How findings change the size of a lung.

    Attributes:
        raised: share of the lung's height by which the diaphragm stands higher.
        flat: 0 = a dome, 1 = a flat diaphragm.
    """

    raised: float = 0.0
    flat: float = 0.0


def set_up(
    case: Case, anatomy: Anatomy, style: Style, size: int, rng: np.random.Generator
) -> Scene:
    """Choose pose and outline from the case's split and warp the anatomy accordingly."""
    pose = _choose_pose(case, anatomy, style, rng)
    outlines = anatomy.outline_pool(case.split)
    target = anatomy.outlines[rng.choice(outlines)]
    target = _place(target, style, rng)
    target = _breathe(target, rng)
    for index, volume in enumerate(_volumes(case, rng.spawn(1)[0])):
        lung = slice(index * PER_LUNG, (index + 1) * PER_LUNG)
        target[lung] = _resize_lung(target[lung], volume)
    source = anatomy.landmarks[pose]
    grid = warp_grid(target, source)
    grid = grid + elastic(rng, 0.006)
    shifts = {"body": 0.0, "bone": 0.005, "lung": 0.008}
    pixels = anatomy.maps.shape[-1]
    grids = {name: dense(grid + elastic(rng, s), size, pixels) for name, s in shifts.items()}
    scale = np.ptp(source, axis=0).mean() / np.ptp(target, axis=0).mean()
    return Scene(anatomy, pose, size, grids, spacing=float(anatomy.field * scale / size))


def _choose_pose(case: Case, anatomy: Anatomy, style: Style, rng: np.random.Generator) -> int:
    pool = anatomy.pool(case.split)
    frontal = rng.random() < style.frontal
    fitting = pool[anatomy.frontal[pool] == frontal]
    return int(rng.choice(fitting if fitting.size else pool))


def _place(outline: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
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


def _breathe(target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Depth of inspiration: the lungs' lower parts move, the apices stay."""
    depth, top = rng.normal(0, 0.03), target[:, 1].min()
    moved = target.copy()
    moved[:, 1] += depth * (target[:, 1] - top)
    return moved


def _volumes(case: Case, rng: np.random.Generator) -> tuple[Volume, Volume]:
    """(right, left) changes: natural asymmetry plus what the findings do."""
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
    return tuple(Volume(float(r), float(min(f, 0.9))) for r, f in zip(raised, flat, strict=True))


def _resize_lung(points: np.ndarray, volume: Volume) -> np.ndarray:
    """Move one lung's diaphragm: (PER_LUNG, 2)."""
    moved = points.copy()
    top, bottom = points[:, 1].min(), points[:, 1].max()
    share = np.clip((points[:, 1] - top) / (bottom - top), 0, 1) ** 2
    moved[:, 1] -= volume.raised * share * (bottom - top)
    base = moved[_BASE, 1]
    moved[_BASE, 1] = (1 - volume.flat) * base + volume.flat * np.linspace(
        base.max() - 0.02, base.max(), base.size
    )
    return moved
