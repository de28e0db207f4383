"""Air-space disease: consolidation, pneumonia, infiltration, non-specific opacity, COVID-19.

Appearances after Hansell et al., "Fleischner Society: Glossary of terms for thoracic imaging",
Radiology 246 (2008), and Wong et al., "Frequency and distribution of chest radiographic findings in
patients positive for COVID-19", Radiology 296 (2020).
"""

from dataclasses import dataclass

import numpy as np

from rctpl_utils.simulation.body import Body
from rctpl_utils.simulation.cases import Lesion
from rctpl_utils.simulation.effect import Effect, between, blob, combine, fill
from rctpl_utils.simulation.places import Spot, lesion_sides, spot
from rctpl_utils.simulation.scene import MU_FILL, SIDES, Lung, Scene
from rctpl_utils.simulation.texture import cloud, network, strokes, vessel_tree


def consolidation(scene: Scene, body: Body, lesion: Lesion, rng: np.random.Generator) -> Effect:
    """Homogeneous opacity in a lobe, ended by fissure and pleura, with air bronchograms."""
    drawn = []
    for side in lesion_sides(scene, lesion, rng):
        lung, severity = scene.lungs[side], lesion.severity
        lobe = _lobe_path(scene, lung, lesion, rng)
        weight = np.clip(lobe / 40, 0, 1)
        half = between(rng, severity, 24, 68)
        place = spot(scene, lung, lesion, rng, (half, half * rng.uniform(0.8, 1.1)), weight=weight)
        region = blob(scene, place, rng, rough=0.22, edge=rng.uniform(0.25, 0.55))
        texture = 1 + 0.1 * cloud(rng, scene.size, scene.pixels(12))
        density = min(between(rng, severity, 0.25, 0.95), 0.97)
        depth = np.minimum(lobe, 1.7 * place.half_height * scene.spacing)
        effect = fill(body, lung, density * region * depth * texture)
        air = _air_bronchograms(scene, lung, place, rng) * region * (density * 0.05)
        drawn.append(Effect(effect.change - air, effect.mask & (region > 0.4)))
    return combine(drawn)


def pneumonia(scene: Scene, body: Body, lesion: Lesion, rng: np.random.Generator) -> Effect:
    """Patchy, ill-defined alveolar opacities, often confluent, one to four a lung."""
    drawn = []
    for side in lesion_sides(scene, lesion, rng):
        lung, count = scene.lungs[side], int(rng.integers(1, 5))
        texture = _alveolar(scene, rng, grain=0.25)
        kind = _Patches((14, 38), (0.16, 0.66), texture, np.ones_like(texture))
        for _ in range(1 if lesion.box else count):
            drawn.append(_patch(scene, body, lung, lesion, kind, rng))
    return combine(drawn)


def infiltration(scene: Scene, body: Body, lesion: Lesion, rng: np.random.Generator) -> Effect:
    """Faint streaks and fine reticulation along the bronchovascular bundles."""
    drawn = []
    for side in lesion_sides(scene, lesion, rng):
        lung = scene.lungs[side]
        half = between(rng, lesion.severity, 30, 58)
        place = spot(scene, lung, lesion, rng, (half, half))
        region = blob(scene, place, rng, rough=0.4, edge=0.9)
        net = network(rng, scene.size, scene.pixels(rng.uniform(7, 12)))
        streaks = _streaks(scene, lung, place, rng)
        texture = 0.35 + 0.8 * net + 0.8 * streaks + 0.25 * cloud(rng, scene.size, scene.pixels(9))
        depth = between(rng, lesion.severity, 7, 34)
        effect = fill(body, lung, depth * region * np.clip(texture, 0, None), fade=0.2)
        drawn.append(Effect(effect.change, _seen_in(lung, region)))
    return combine(drawn)


def lung_opacity(scene: Scene, body: Body, lesion: Lesion, rng: np.random.Generator) -> Effect:
    """A hazy opacity of no specific kind: ground glass or a vague density."""
    drawn = []
    for side in lesion_sides(scene, lesion, rng):
        lung = scene.lungs[side]
        half = rng.uniform(20, 50)
        place = spot(scene, lung, lesion, rng, (half, half * rng.uniform(0.5, 1.3)))
        region = blob(scene, place, rng, rough=rng.uniform(0.15, 0.4), edge=rng.uniform(0.5, 1.1))
        texture = 1 + rng.uniform(0.05, 0.2) * cloud(rng, scene.size, scene.pixels(14))
        depth = between(rng, lesion.severity, 14, 68)
        effect = fill(body, lung, depth * region * texture)
        drawn.append(Effect(effect.change, effect.mask & lung.mask))
    return combine(drawn)


def covid(scene: Scene, body: Body, lesion: Lesion, rng: np.random.Generator) -> Effect:
    """Bilateral, peripheral, lower-zone predominant, multifocal ground glass; no effusion."""
    drawn = []
    uneven = rng.uniform(0.45, 1.0)
    strong = lesion.side if lesion.side in SIDES else SIDES[int(rng.integers(2))]
    for side in SIDES:
        lung = scene.lungs[side]
        share = lesion.severity * (1.0 if side == strong else uneven)
        outer = np.exp(-0.5 * ((lung.u - 0.88) / 0.17) ** 2)
        lower = np.exp(-0.5 * ((lung.v - 0.66) / 0.2) ** 2)
        kind = _Patches((13, 32), (0.16, 0.6), _alveolar(scene, rng, grain=0.15), outer * lower)
        part = Lesion("COVID-19", side, None, max(share, 0.02))
        for _ in range(2 + rng.poisson(1 + 3 * share)):
            drawn.append(_patch(scene, body, lung, part, kind, rng))
    return combine(drawn)


@dataclass(frozen=True)
class _Patches:
    """A kind of ill-defined opacity.

    Attributes:
        size, density: half axes (mm) and filled share, from mild to gross.
        texture: (H, W), shared by all patches of a lung.
        weight: (H, W) where they prefer to lie.
    """

    size: tuple[float, float]
    density: tuple[float, float]
    texture: np.ndarray
    weight: np.ndarray


def _alveolar(scene: Scene, rng: np.random.Generator, *, grain: float) -> np.ndarray:
    """The uneven filling of acini, mean about 1: (H, W)."""
    texture = 1 + grain * cloud(rng, scene.size, scene.pixels(rng.uniform(9, 16)), rough=0.4)
    texture += 0.4 * grain * network(rng, scene.size, scene.pixels(8))
    return np.clip(texture, 0.1, None)


def _patch(
    scene: Scene,
    body: Body,
    lung: Lung,
    lesion: Lesion,
    kind: _Patches,
    rng: np.random.Generator,
) -> Effect:
    """One ill-defined alveolar opacity."""
    half = between(rng, lesion.severity, *kind.size) * rng.uniform(0.75, 1.25)
    stretch = rng.uniform(0.7, 1.4)
    axes = half / stretch, half * stretch
    place = spot(scene, lung, lesion, rng, axes, weight=kind.weight)
    region = blob(scene, place, rng, rough=0.45, edge=rng.uniform(0.6, 1.0))
    depth = np.minimum(lung.path, 1.6 * max(place.half_width, place.half_height) * scene.spacing)
    amount = between(rng, lesion.severity, *kind.density) * region * depth
    effect = fill(body, lung, amount * kind.texture)
    return Effect(effect.change, _seen_in(lung, region))


def _seen_in(lung: Lung, region: np.ndarray) -> np.ndarray:
    """The mask of a hazy region: its core, within the visible lung."""
    mask = (region > 0.35) & lung.mask
    return mask if mask.any() else (region > 0.35) & (lung.path > 1)


def _lobe_path(scene: Scene, lung: Lung, lesion: Lesion, rng: np.random.Generator) -> np.ndarray:
    """Path through the lobe that a lesion's zone means, (H, W) mm; by chance where it is open."""
    zone = lesion.zone or ""
    lower = any(key in zone for key in ("lower", "bas", "costophren", "retrocard"))
    upper = any(key in zone for key in ("upper", "ap"))
    middle = any(key in zone for key in ("mid", "lingula"))
    if not (lower or upper or middle) and lesion.box is not None:
        lower = lesion.box[1] + lesion.box[3] / 2 > 0.5
        upper = not lower
    if not (lower or upper or middle):
        lower = bool(rng.random() < 0.6)
    if lung.side == "right" and middle and not lower:
        return scene.channel("right middle") * 1.4
    return scene.channel(f"{lung.side} {'lower' if lower else 'upper'}")


def _air_bronchograms(
    scene: Scene, lung: Lung, place: Spot, rng: np.random.Generator
) -> np.ndarray:
    """Dark branching lines that point from the hilum into the opacity, (H, W) in [0, 1]."""
    toward = np.arctan2(place.row - lung.hilum[1], place.column - lung.hilum[0])
    start = (place.column + 0.35 * (lung.hilum[0] - place.column),)
    start += (place.row + 0.35 * (lung.hilum[1] - place.row),)
    angles = toward + rng.normal(0, 0.5, 3)
    paths, widths = vessel_tree(rng, start, angles, place.half_height * 0.8, scene.pixels(3.0))
    return strokes(scene.size, paths, widths) * MU_FILL * 160


def _streaks(scene: Scene, lung: Lung, place: Spot, rng: np.random.Generator) -> np.ndarray:
    """Thickened bronchovascular bundles through a place, (H, W) in [0, 1]."""
    toward = np.arctan2(place.row - lung.hilum[1], place.column - lung.hilum[0])
    angles = toward + rng.normal(0, 0.4, 5)
    reach = np.hypot(place.row - lung.hilum[1], place.column - lung.hilum[0]) + place.half_height
    paths, widths = vessel_tree(rng, lung.hilum, angles, 0.5 * reach, scene.pixels(3.2))
    return strokes(scene.size, paths, widths)
