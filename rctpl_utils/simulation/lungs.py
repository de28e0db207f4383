"""Diseases of the lungs: round lesions, air-space disease, diffuse and volume-changing disease.

Appearances after Hansell et al., "Fleischner Society: Glossary of terms for thoracic imaging",
Radiology 246 (2008), Wong et al., "Frequency and distribution of chest radiographic findings in
patients positive for COVID-19", Radiology 296 (2020), and Gluecker et al., "Clinical and radiologic
features of pulmonary edema", RadioGraphics 19 (1999).
"""

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np

from rctpl_utils.simulation.cases import Lesion, Rng
from rctpl_utils.simulation.ct import MU_WATER
from rctpl_utils.simulation.scene import (
    MU_FILL,
    SIDES,
    Effect,
    Lung,
    Scene,
    Spot,
    between,
    curve,
    draw_place,
    each_side,
    outlined,
)


def nodule(scene: Scene, lesion: Lesion, rng: Rng) -> Iterator[Effect]:
    """One (sometimes several) rounded opacity of 6 to 30 mm with a sphere's thickness profile."""
    several = lesion.box is None and rng.random() < 0.3
    for side in scene.sides(lesion, rng):
        for _ in range(int(rng.integers(2, 6)) if several else 1):
            place = _round_spot(scene, side, lesion, rng, (10, 29), (6, 30))
            yield _ball(scene, place, rng, density=rng.uniform(1.2, 2.3), rough=0.12)


def mass(scene: Scene, lesion: Lesion, rng: Rng) -> Iterator[Effect]:
    """A lobulated or spiculated opacity of 30 to 80 mm."""
    for side in scene.sides(lesion, rng)[: 2 if lesion.side == "bilateral" else 1]:
        place = _round_spot(scene, side, lesion, rng, (30, 68), (30, 80))
        density = between(rng, lesion.severity, 0.55, 1.1)
        effect = _ball(scene, place, rng, density=density, rough=rng.uniform(0.15, 0.32))
        if rng.random() < 0.45:
            effect = Effect(effect.change + _spicules(scene, place, rng) * density, effect.mask)
        yield effect


def lung_lesion(scene: Scene, lesion: Lesion, rng: Rng) -> Iterator[Effect]:
    """A nodule or mass of unclear kind; some are cavities with a fluid level."""
    side = scene.sides(lesion, rng)[0]
    place = _round_spot(scene, side, lesion, rng, (18, 58), (12, 65))
    if rng.random() < 0.45:
        yield _cavity(scene, place, rng, lesion.severity)
    else:
        density = between(rng, lesion.severity, 0.8, 1.3)
        yield _ball(scene, place, rng, density=density, rough=rng.uniform(0.1, 0.3))


Span = tuple[float, float]


def _round_spot(
    scene: Scene, side: str, lesion: Lesion, rng: Rng, diameters: Span, limits: Span
) -> Spot:
    """Place a round lesion of a diameter (mm, mild to gross) within limits; so is that of a box."""
    half = np.clip(between(rng, lesion.severity, *diameters), *limits) / 2
    margin = float(np.clip(half * 0.6, 5, 14))
    place = scene.spot(scene.lungs[side], lesion, rng, (half, half), margin=margin)
    mean = scene.spacing * (place.half_width + place.half_height)  # diameter, mm
    scale = np.clip(mean, *limits) / max(mean, 1e-6)
    ratio = np.clip(place.half_width / max(place.half_height, 1e-6), 0.75, 1.33)
    half = scene.pixels(mean * scale / 2)
    return Spot(place.column, place.row, half * ratio**0.5, half / ratio**0.5)


def _ball(scene: Scene, place: Spot, rng: Rng, *, density: float, rough: float) -> Effect:
    """A deformed sphere of tissue: thickness 2 sqrt(r^2 - d^2)."""
    radius = (place.half_width + place.half_height) / 2
    stray = scene.noise(rng, max(1.1 * radius, 3.0))
    ratio = scene.ellipse(place, rng.uniform(-0.7, 0.7)) * (1 - rough * stray).clip(0.65, 1.5)
    profile = np.sqrt(np.clip(1 - ratio**2, 0, 1))
    near = np.clip((1.08 - ratio) * radius, 0, 1)  # partial pixels at the border
    thickness = 2 * radius * scene.spacing * np.maximum(profile, 0.12 * near)
    texture = 1 + 0.07 * scene.cloud(rng, max(0.5 * radius, 2.0))
    change = MU_FILL * density * thickness * texture
    return Effect(change.astype(np.float32), ratio < 1)


def _spicules(scene: Scene, place: Spot, rng: Rng) -> np.ndarray:
    """Fine strands that radiate from a mass, (H, W) attenuation."""
    radius, paths = (place.half_width + place.half_height) / 2, []
    for angle in rng.uniform(0, 2 * np.pi, int(rng.integers(9, 18))):
        reach = radius * rng.uniform(1.15, 1.7)
        steps = [(0.7 * radius, angle), (reach, angle + rng.normal(0, 0.12))]
        ends = [(place.column + r * np.cos(a), place.row + r * np.sin(a)) for r, a in steps]
        paths.append(np.array(ends))
    return scene.strokes(paths, scene.pixels(1.4)) * MU_FILL * 10


def _cavity(scene: Scene, place: Spot, rng: Rng, severity: float) -> Effect:
    """A thick wall around air, with or without fluid in its lower part."""
    outer = scene.ellipse(place, 0.0) * (1 - 0.12 * scene.cloud(rng, place.half_width + 2))
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


def granulomas(scene: Scene, rng: Rng) -> np.ndarray:
    """Small calcified dots of no consequence, (H, W) attenuation; not labelled."""
    change = np.zeros((scene.size, scene.size), np.float32)
    lung = scene.lungs[SIDES[int(rng.integers(2))]]
    column, row = scene.coordinates()
    for _ in range(int(rng.integers(1, 4))):
        x, y = draw_place(lung.mask.astype(np.float32), rng)
        radius = scene.pixels(rng.uniform(1.2, 2.8))
        far = np.hypot(column - x, row - y)
        change += rng.uniform(0.08, 0.28) * np.exp(-((far / radius) ** 2))
    return change


def old_scar(scene: Scene, rng: Rng) -> np.ndarray:
    """A faint fibrous strand, most often at an apex, (H, W) attenuation; not labelled."""
    lung = scene.lungs[SIDES[int(rng.integers(2))]]
    chance = lung.mask * np.exp(-lung.v / 0.25)
    x, y = draw_place(chance.astype(np.float32), rng)
    reach = scene.pixels(rng.uniform(8, 20))
    angle = rng.uniform(0, np.pi)
    middle = (x + rng.normal(0, 1.5), y + rng.normal(0, 1.5))
    ends = [(x + s * reach * np.cos(angle), y + s * reach * np.sin(angle)) for s in (-0.5, 0.5)]
    line = scene.strokes([curve([ends[0], middle, ends[1]])], scene.pixels(1.6))
    return line * MU_WATER * rng.uniform(2, 5) * lung.mask


@each_side
def consolidation(scene: Scene, lung: Lung, lesion: Lesion, rng: Rng) -> Effect:
    """Homogeneous opacity in a lobe, ended by fissure and pleura, with air bronchograms."""
    severity = lesion.severity
    lobe = _lobe_path(scene, lung, lesion, rng)
    weight = np.clip(lobe / 40, 0, 1)
    half = between(rng, severity, 24, 68)
    place = scene.spot(lung, lesion, rng, (half, half * rng.uniform(0.8, 1.1)), weight=weight)
    region = scene.blob(place, rng, rough=0.22, edge=rng.uniform(0.25, 0.55))
    texture = 1 + 0.1 * scene.cloud(rng, scene.pixels(12))
    density = min(between(rng, severity, 0.25, 0.95), 0.97)
    depth = np.minimum(lobe, 1.7 * place.half_height * scene.spacing)
    effect = scene.fill(lung, density * region * depth * texture)
    # air bronchograms: dark branching lines that point from the hilum into the opacity
    toward, _ = _from_hilum(lung, place)
    center = np.array([place.column, place.row])
    start = center + 0.35 * (np.array(lung.hilum) - center)
    angles = toward + rng.normal(0, 0.5, 3)
    tree = scene.tree(rng, start, angles, place.half_height * 0.8, scene.pixels(3.0))
    air = tree * MU_FILL * 160 * region * (density * 0.05)
    return Effect(effect.change - air, effect.mask & (region > 0.4))


def pneumonia(scene: Scene, lesion: Lesion, rng: Rng) -> Iterator[Effect]:
    """Patchy, ill-defined alveolar opacities, often confluent, one to four a lung."""
    for side in scene.sides(lesion, rng):
        lung, count = scene.lungs[side], int(rng.integers(1, 5))
        texture = _alveolar(scene, rng, grain=0.25)
        for _ in range(1 if lesion.box else count):
            yield _patch(scene, lung, lesion, rng, texture, (14, 38), (0.16, 0.66))


@each_side
def infiltration(scene: Scene, lung: Lung, lesion: Lesion, rng: Rng) -> Effect:
    """Faint streaks and fine reticulation along the bronchovascular bundles."""
    half = between(rng, lesion.severity, 30, 58)
    place = scene.spot(lung, lesion, rng, (half, half))
    region = scene.blob(place, rng, rough=0.4, edge=0.9)
    net = scene.network(rng, scene.pixels(rng.uniform(7, 12)))
    toward, reach = _from_hilum(lung, place)  # bronchovascular bundles, thickened
    angles, length = toward + rng.normal(0, 0.4, 5), 0.5 * (reach + place.half_height)
    streaks = scene.tree(rng, lung.hilum, angles, length, scene.pixels(3.2))
    texture = 0.35 + 0.8 * net + 0.8 * streaks + 0.25 * scene.cloud(rng, scene.pixels(9))
    depth = between(rng, lesion.severity, 7, 34)
    effect = scene.fill(lung, depth * region * np.clip(texture, 0, None), fade=0.2)
    return Effect(effect.change, _seen_in(lung, region))


@each_side
def lung_opacity(scene: Scene, lung: Lung, lesion: Lesion, rng: Rng) -> Effect:
    """A hazy opacity of no specific kind: ground glass or a vague density."""
    half = rng.uniform(20, 50)
    place = scene.spot(lung, lesion, rng, (half, half * rng.uniform(0.5, 1.3)))
    region = scene.blob(place, rng, rough=rng.uniform(0.15, 0.4), edge=rng.uniform(0.5, 1.1))
    texture = 1 + rng.uniform(0.05, 0.2) * scene.cloud(rng, scene.pixels(14))
    depth = between(rng, lesion.severity, 14, 68)
    effect = scene.fill(lung, depth * region * texture)
    return Effect(effect.change, effect.mask & lung.mask)


def covid(scene: Scene, lesion: Lesion, rng: Rng) -> Iterator[Effect]:
    """Bilateral, peripheral, lower-zone predominant, multifocal ground glass; no effusion."""
    uneven = rng.uniform(0.45, 1.0)
    strong = lesion.side if lesion.side in SIDES else SIDES[int(rng.integers(2))]
    for side in SIDES:
        lung = scene.lungs[side]
        share = lesion.severity * (1.0 if side == strong else uneven)
        outer = np.exp(-0.5 * ((lung.u - 0.88) / 0.17) ** 2)
        lower = np.exp(-0.5 * ((lung.v - 0.66) / 0.2) ** 2)
        texture = _alveolar(scene, rng, grain=0.15)
        part = Lesion("COVID-19", side, None, max(share, 0.02))
        for _ in range(2 + rng.poisson(1 + 3 * share)):
            yield _patch(scene, lung, part, rng, texture, (13, 32), (0.16, 0.6), outer * lower)


def _alveolar(scene: Scene, rng: Rng, *, grain: float) -> np.ndarray:
    """The uneven filling of acini, mean about 1: (H, W)."""
    texture = 1 + grain * scene.cloud(rng, scene.pixels(rng.uniform(9, 16)), rough=0.4)
    texture += 0.4 * grain * scene.network(rng, scene.pixels(8))
    return np.clip(texture, 0.1, None)


def _patch(
    scene: Scene,
    lung: Lung,
    lesion: Lesion,
    rng: Rng,
    texture: np.ndarray,
    sizes: Span,
    shares: Span,
    weight: np.ndarray | float = 1.0,
) -> Effect:
    """One ill-defined alveolar opacity: half axes (mm) and filled shares are from mild to gross."""
    half = between(rng, lesion.severity, *sizes) * rng.uniform(0.75, 1.25)
    stretch = rng.uniform(0.7, 1.4)
    place = scene.spot(lung, lesion, rng, (half / stretch, half * stretch), weight=weight)
    region = scene.blob(place, rng, rough=0.45, edge=rng.uniform(0.6, 1.0))
    depth = np.minimum(lung.path, 1.6 * max(place.half_width, place.half_height) * scene.spacing)
    amount = between(rng, lesion.severity, *shares) * region * depth
    return Effect(scene.fill(lung, amount * texture).change, _seen_in(lung, region))


def _seen_in(lung: Lung, region: np.ndarray) -> np.ndarray:
    """The mask of a hazy region: its core, within the visible lung."""
    mask = (region > 0.35) & lung.mask
    return mask if mask.any() else (region > 0.35) & (lung.path > 1)


def _lobe_path(scene: Scene, lung: Lung, lesion: Lesion, rng: Rng) -> np.ndarray:
    """Path through the lobe that a lesion's zone means, (H, W) mm; by chance where it is open."""
    lower = lesion.in_zone("lower", "bas", "costophren", "retrocard")
    upper, middle = lesion.in_zone("upper", "ap"), lesion.in_zone("mid", "lingula")
    if not (lower or upper or middle) and lesion.box is not None:
        lower = lesion.box[1] + lesion.box[3] / 2 > 0.5
        upper = not lower
    if not (lower or upper or middle):
        lower = bool(rng.random() < 0.6)
    if lung.side == "right" and middle and not lower:
        return scene.channel("right middle") * 1.4
    return scene.channel(f"{lung.side} {'lower' if lower else 'upper'}")


def _from_hilum(lung: Lung, place: Spot) -> tuple[float, float]:
    """Direction and distance of a place from the hilum."""
    right, down = place.column - lung.hilum[0], place.row - lung.hilum[1]
    return np.arctan2(down, right), np.hypot(down, right)


def edema(scene: Scene, lesion: Lesion, rng: Rng) -> Iterator[Effect]:
    """Perihilar (bat-wing) to diffuse haze, thick upper vessels, Kerley B lines, cuffing."""
    spread = rng.uniform(0.24, 0.5) + 0.2 * lesion.severity
    haze, interstitial = rng.uniform(0.5, 1.0), rng.uniform(0.6, 1.4)
    for side in SIDES:
        lung = scene.lungs[side]
        severity = lesion.severity * rng.uniform(0.75, 1.1)
        if lesion.side in SIDES and lesion.side != side:
            severity *= 0.35
        column, row = scene.coordinates()
        far = np.hypot((column - lung.hilum[0]) / lung.width, (row - lung.hilum[1]) / lung.height)
        region = np.exp(-((far / spread) ** 2)) * (1 - 0.5 * np.clip(lung.u - 0.75, 0, 1))
        texture = 1 + 0.28 * scene.cloud(rng, scene.pixels(14))
        net = scene.network(rng, scene.pixels(9))
        depth = between(rng, severity, 8, 105) * haze
        amount = region * (depth * np.clip(texture, 0.1, None) + 5 * interstitial * severity * net)
        effect = scene.fill(lung, amount, fade=0.35)
        lines = _congestion(scene, lung, severity * interstitial, rng)
        yield Effect(effect.change + lines, (region > 0.32) & lung.mask)


def _congestion(scene: Scene, lung: Lung, strength: float, rng: Rng) -> np.ndarray:
    """Cephalized vessels and septal lines, (H, W) attenuation."""
    up = np.array([-1.35, -0.95, -0.5, 0.1, 0.6]) + rng.normal(0, 0.12, 5)
    angles = up if lung.outward > 0 else np.pi - up
    tree = scene.tree(rng, lung.hilum, angles, 0.2 * lung.height, scene.pixels(5.5))
    vessels = tree * MU_WATER * 11 * strength
    place = lung.mask & (lung.u > 0.86) & (lung.v > 0.55) & (lung.v < 0.95)
    septa = []
    for _ in range(int(rng.integers(3, 9))):
        x, y = draw_place(place.astype(np.float32), rng)
        inward = lung.outward * scene.pixels(rng.uniform(8, 17))
        septa.append(np.array([(x, y), (x - inward, y + 0.5)]))
    kerley = scene.strokes(septa, scene.pixels(1.2)) * MU_WATER * 9 * strength
    reach = np.clip(lung.path / 40, 0, 1)
    return ((vessels + kerley) * reach).astype(np.float32)


def emphysema(scene: Scene, lesion: Lesion, rng: Rng) -> Iterator[Effect]:
    """Dark, vessel-poor lungs, worst where the zone says (else above), under flat domes."""
    for side in SIDES:
        lung = scene.lungs[side]
        severity = lesion.severity * rng.uniform(0.8, 1.1)
        if lesion.side in SIDES and lesion.side != side:
            severity *= 0.4
        below = lesion.in_zone("lower", "bas")
        profile = np.clip(0.25 + lung.v if below else 1.25 - lung.v, 0.35, 1)
        patchy = np.clip(1 + 0.3 * scene.cloud(rng, scene.pixels(35)), 0.3, 1.6)
        share = np.clip(between(rng, severity, 0.14, 0.7) * profile * patchy, 0, 0.85)
        inside = np.clip(lung.path / 15, 0, 1) * lung.mask
        change = -share * inside * (scene.content - scene.vessels)
        change -= np.clip(1.5 * share, 0, 0.9) * inside * scene.vessels
        change += _bullae(scene, lung, severity, rng)
        yield Effect(change.astype(np.float32), lung.mask & (profile > 0.5))


def _bullae(scene: Scene, lung: Lung, severity: float, rng: Rng) -> np.ndarray:
    """Thin-walled air spaces near the apex and the wall, (H, W) attenuation."""
    total = np.zeros((scene.size, scene.size), np.float32)
    chance = lung.zone("upper") * np.clip(lung.u, 0.1, 1)
    column, row = scene.coordinates()
    for _ in range(rng.poisson(1.6 * severity)):
        x, y = draw_place(chance, rng)
        radius = scene.pixels(rng.uniform(9, 22))
        ratio = np.hypot(column - x, (row - y) * rng.uniform(0.75, 1.1)) / radius
        wall = np.exp(-(((ratio - 1) * radius / max(scene.pixels(1.3), 0.8)) ** 2))
        total += (0.05 * wall - 0.16 * np.sqrt(np.clip(1 - ratio**2, 0, 1))) * lung.mask * severity
    return total


def fibrosis(scene: Scene, lesion: Lesion, rng: Rng) -> Iterator[Effect]:
    """Basal, peripheral reticulation, with honeycombs where gross; other zones on request."""
    for side in (lesion.side,) if lesion.side in SIDES else SIDES:
        lung = scene.lungs[side]
        severity = lesion.severity * rng.uniform(0.8, 1.1)
        if lesion.zone and not lesion.in_zone("bas", "lower", "periph", "diff"):
            region = lung.zone(lesion.zone)
        else:
            edge = np.exp(-0.5 * (np.clip(0.95 - lung.u, 0, 1) / rng.uniform(0.2, 0.4)) ** 2)
            low = 1 / (1 + np.exp(-(lung.v - rng.uniform(0.5, 0.72)) / 0.07))
            region = lung.mask * np.clip(0.35 + edge, 0, 1) * low
        seen = lung.mask & (region > 0.4 * region.max())
        region = region * np.clip(1 + 0.4 * scene.cloud(rng, scene.pixels(22)), 0, 1.7)
        net = scene.network(rng, scene.pixels(rng.uniform(5, 8)), sharp=0.28)
        comb = scene.cells(rng, scene.pixels(rng.uniform(6, 10)))
        mix = np.clip(severity - 0.35 + rng.normal(0, 0.2), 0, 0.55)
        texture = 0.3 + 1.1 * ((1 - mix) * net + mix * comb)
        amount = between(rng, severity, 8, 42) * region * texture
        effect = scene.fill(lung, amount, fade=0.1)
        yield Effect(effect.change, seen)


@each_side
def atelectasis(scene: Scene, lung: Lung, lesion: Lesion, rng: Rng) -> Effect:
    """Plates at the base, or a wedge of collapsed lung with volume loss (see `radiograph`)."""
    draw = _wedge if rng.random() < 0.25 + 0.35 * lesion.severity else _plates
    return draw(scene, lung, lesion, rng)


def _plates(scene: Scene, lung: Lung, lesion: Lesion, rng: Rng) -> Effect:
    """One to four linear opacities, level or oblique."""
    change = np.zeros((scene.size, scene.size), np.float32)
    column, row = scene.coordinates()
    base = replace(lesion, zone=lesion.zone or "base")
    for _ in range(int(rng.integers(1, 3 + round(2 * lesion.severity)))):
        half = between(rng, lesion.severity, 14, 34)
        place = scene.spot(lung, base, rng, (half, half * 0.4))
        tilt = rng.normal(0.1, 0.35) * -lung.outward
        reach = min(place.half_width, scene.pixels(48))
        ends = [(-1.0, 0.0), (-0.3, rng.normal(0, 0.1)), (0.4, rng.normal(0, 0.1)), (1.0, 0.0)]
        ends = [(place.column + reach * a, place.row + reach * (b + a * tilt)) for a, b in ends]
        width = scene.pixels(between(rng, lesion.severity, 2.2, 6.0))
        line = scene.strokes([curve(ends)], width)
        line = cv2.GaussianBlur(line, (0, 0), max(scene.pixels(rng.uniform(0.8, 2.2)), 0.6))
        far = np.hypot(column - place.column, row - place.row) / reach
        taper = np.clip(1.25 - far**2, 0, 1) * (1 + 0.25 * scene.noise(rng, scene.pixels(12)))
        change += line * taper * MU_FILL * between(rng, lesion.severity, 22, 60)
    change *= np.clip(lung.path / 20, 0, 1)
    wide = cv2.GaussianBlur(change, (0, 0), scene.pixels(2.5))
    return Effect(change, outlined(wide, 0.22))


def _wedge(scene: Scene, lung: Lung, lesion: Lesion, rng: Rng) -> Effect:
    """Basal triangle of increased density, apex at the hilum, broad on the diaphragm."""
    up = lesion.in_zone("upper", "ap")
    depth = (0.62 - lung.v) / 0.62 if up else (lung.v - 0.5) / 0.5
    reach = between(rng, lesion.severity, 0.35, 0.85)
    border = lung.u - reach * np.clip(depth, 0, 1.2) + 0.07 * scene.noise(rng, scene.size / 6)
    region = 1 / (1 + np.exp(np.clip(border / rng.uniform(0.03, 0.09), -30, 30)))
    region = region * np.clip(depth * 4, 0, 1)
    lobe = scene.channel(f"{lung.side} {'upper' if up else 'lower'}")
    texture = 1 + 0.12 * scene.cloud(rng, scene.pixels(14))
    amount = np.minimum(lobe, 85) * region * texture * between(rng, lesion.severity, 0.28, 0.9)
    effect = scene.fill(lung, amount)
    return Effect(effect.change, outlined(amount) & (lung.path > 5))
