"""Round lesions: nodule, mass, lesion of unclear kind; and unlabelled old scars and granulomas."""

import numpy as np

from rctpl_utils.simulation.body import Body
from rctpl_utils.simulation.cases import Lesion
from rctpl_utils.simulation.effect import Effect, between, combine, ellipse
from rctpl_utils.simulation.places import Spot, draw_place, lesion_sides, spot
from rctpl_utils.simulation.scene import MU_FILL, Lung, Scene
from rctpl_utils.simulation.texture import cloud, curve, noise, strokes
from rctpl_utils.simulation.volume import MU_WATER


def nodule(scene: Scene, body: Body, lesion: Lesion, rng: np.random.Generator) -> Effect:
    """One (sometimes several) rounded opacity of 6 to 30 mm with a sphere's thickness profile."""
    drawn = []
    several = lesion.box is None and rng.random() < 0.3
    for side in lesion_sides(scene, lesion, rng):
        for _ in range(int(rng.integers(2, 6)) if several else 1):
            diameter = np.clip(between(rng, lesion.severity, 10, 29), 6, 30)
            place = _round_spot(scene, scene.lungs[side], lesion, rng, diameter, (6, 30))
            drawn.append(_ball(scene, place, rng, density=rng.uniform(1.2, 2.3), rough=0.12))
    return combine(drawn)


def mass(scene: Scene, body: Body, lesion: Lesion, rng: np.random.Generator) -> Effect:
    """A lobulated or spiculated opacity of 30 to 80 mm."""
    drawn = []
    for side in lesion_sides(scene, lesion, rng)[: 2 if lesion.side == "bilateral" else 1]:
        diameter = np.clip(between(rng, lesion.severity, 30, 68), 30, 80)
        place = _round_spot(scene, scene.lungs[side], lesion, rng, diameter, (30, 80))
        density = between(rng, lesion.severity, 0.55, 1.1)
        effect = _ball(scene, place, rng, density=density, rough=rng.uniform(0.15, 0.32))
        if rng.random() < 0.45:
            effect = Effect(effect.change + _spicules(scene, place, rng) * density, effect.mask)
        drawn.append(effect)
    return combine(drawn)


def lung_lesion(scene: Scene, body: Body, lesion: Lesion, rng: np.random.Generator) -> Effect:
    """A nodule or mass of unclear kind; some are cavities with a fluid level."""
    side = lesion_sides(scene, lesion, rng)[0]
    diameter = np.clip(between(rng, lesion.severity, 18, 58), 12, 65)
    place = _round_spot(scene, scene.lungs[side], lesion, rng, diameter, (12, 65))
    if rng.random() < 0.45:
        return _cavity(scene, place, rng, lesion.severity)
    density = between(rng, lesion.severity, 0.8, 1.3)
    return _ball(scene, place, rng, density=density, rough=rng.uniform(0.1, 0.3))


def _round_spot(
    scene: Scene,
    lung: Lung,
    lesion: Lesion,
    rng: np.random.Generator,
    diameter: float,
    limits: tuple[float, float],
) -> Spot:
    """Place a round lesion; a box sets its size within the concept's limits (mm)."""
    half = diameter / 2
    place = spot(scene, lung, lesion, rng, (half, half), margin=float(np.clip(half * 0.6, 5, 14)))
    mean = scene.spacing * (place.half_width + place.half_height)  # diameter, mm
    scale = np.clip(mean, *limits) / max(mean, 1e-6)
    ratio = np.clip(place.half_width / max(place.half_height, 1e-6), 0.75, 1.33)
    half = scene.pixels(mean * scale / 2)
    return Spot(lung, place.column, place.row, half * ratio**0.5, half / ratio**0.5)


def _ball(
    scene: Scene, place: Spot, rng: np.random.Generator, *, density: float, rough: float
) -> Effect:
    """A deformed sphere of tissue: thickness 2 sqrt(r^2 - d^2)."""
    radius = (place.half_width + place.half_height) / 2
    stray = noise(rng, scene.size, max(1.1 * radius, 3.0))
    ratio = ellipse(scene, place, rng.uniform(-0.7, 0.7)) * (1 - rough * stray).clip(0.65, 1.5)
    profile = np.sqrt(np.clip(1 - ratio**2, 0, 1))
    near = np.clip((1.08 - ratio) * radius, 0, 1)  # partial pixels at the border
    thickness = 2 * radius * scene.spacing * np.maximum(profile, 0.12 * near)
    texture = 1 + 0.07 * cloud(rng, scene.size, max(0.5 * radius, 2.0))
    change = MU_FILL * density * thickness * texture
    return Effect(change.astype(np.float32), ratio < 1)


def _spicules(scene: Scene, place: Spot, rng: np.random.Generator) -> np.ndarray:
    """Fine strands that radiate from a mass, (H, W) attenuation."""
    radius, paths = (place.half_width + place.half_height) / 2, []
    for angle in rng.uniform(0, 2 * np.pi, int(rng.integers(9, 18))):
        reach = radius * rng.uniform(1.15, 1.7)
        steps = [(0.7 * radius, angle), (reach, angle + rng.normal(0, 0.12))]
        ends = [(place.column + r * np.cos(a), place.row + r * np.sin(a)) for r, a in steps]
        paths.append(np.array(ends))
    return strokes(scene.size, paths, scene.pixels(1.4)) * MU_FILL * 10


def _cavity(scene: Scene, place: Spot, rng: np.random.Generator, severity: float) -> Effect:
    """A thick wall around air, with or without fluid in its lower part."""
    outer = ellipse(scene, place, 0.0) * (1 - 0.12 * cloud(rng, scene.size, place.half_width + 2))
    inner = rng.uniform(0.5, 0.8)
    radius = (place.half_width + place.half_height) / 2 * scene.spacing
    shell = np.sqrt(np.clip(1 - outer**2, 0, 1))
    hollow = np.sqrt(np.clip(inner**2 - outer**2, 0, 1))
    if rng.random() < 0.5:
        _, row = scene.coordinates()
        level = place.row + place.half_height * rng.uniform(-0.1, 0.4)
        hollow = hollow * np.clip(level - row + 0.5, 0, 1)
    thickness = 2 * radius * (shell - hollow)
    change = MU_FILL * thickness * between(rng, severity, 0.9, 1.5)
    return Effect(change.astype(np.float32), outer < 1)


def granulomas(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Small calcified dots of no consequence, (H, W) attenuation; not labelled."""
    change = np.zeros((scene.size, scene.size), np.float32)
    lung = scene.lungs[("right", "left")[int(rng.integers(2))]]
    column, row = scene.coordinates()
    for _ in range(int(rng.integers(1, 4))):
        x, y = draw_place(lung.mask.astype(np.float32), rng)
        radius = scene.pixels(rng.uniform(1.2, 2.8))
        far = np.hypot(column - x, row - y)
        change += rng.uniform(0.08, 0.28) * np.exp(-((far / radius) ** 2))
    return change


def old_scar(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A faint fibrous strand, most often at an apex, (H, W) attenuation; not labelled."""
    lung = scene.lungs[("right", "left")[int(rng.integers(2))]]
    chance = lung.mask * np.exp(-lung.v / 0.25)
    x, y = draw_place(chance.astype(np.float32), rng)
    reach = scene.pixels(rng.uniform(8, 20))
    angle = rng.uniform(0, np.pi)
    middle = (x + rng.normal(0, 1.5), y + rng.normal(0, 1.5))
    ends = [(x + s * reach * np.cos(angle), y + s * reach * np.sin(angle)) for s in (-0.5, 0.5)]
    line = strokes(scene.size, [curve([ends[0], middle, ends[1]])], scene.pixels(1.6))
    return line * MU_WATER * rng.uniform(2, 5) * lung.mask
