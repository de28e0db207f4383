"""Diffuse and volume-changing lung disease: edema, emphysema, fibrosis, atelectasis.

Appearances after Hansell et al., Radiology 246 (2008), and Gluecker et al., "Clinical and
radiologic features of pulmonary edema", RadioGraphics 19 (1999).
"""

import cv2
import numpy as np

from rctpl_utils.simulation.body import Body
from rctpl_utils.simulation.cases import Lesion
from rctpl_utils.simulation.effect import Effect, between, combine, fill, outlined
from rctpl_utils.simulation.places import draw_place, lesion_sides, spot, zone_weight
from rctpl_utils.simulation.scene import MU_FILL, Lung, Scene
from rctpl_utils.simulation.texture import cells, cloud, curve, network, noise, strokes, vessel_tree
from rctpl_utils.simulation.volume import MU_WATER


def edema(scene: Scene, body: Body, lesion: Lesion, rng: np.random.Generator) -> Effect:
    """Perihilar (bat-wing) to diffuse haze, thick upper vessels, Kerley B lines, cuffing."""
    drawn = []
    spread = rng.uniform(0.24, 0.5) + 0.2 * lesion.severity
    haze, interstitial = rng.uniform(0.5, 1.0), rng.uniform(0.6, 1.4)
    for side in ("right", "left"):
        lung = scene.lungs[side]
        severity = lesion.severity * rng.uniform(0.75, 1.1)
        if lesion.side in ("right", "left") and lesion.side != side:
            severity *= 0.35
        column, row = scene.coordinates()
        far = np.hypot((column - lung.hilum[0]) / lung.width, (row - lung.hilum[1]) / lung.height)
        region = np.exp(-((far / spread) ** 2)) * (1 - 0.5 * np.clip(lung.u - 0.75, 0, 1))
        texture = 1 + 0.28 * cloud(rng, scene.size, scene.pixels(14))
        net = network(rng, scene.size, scene.pixels(9))
        depth = between(rng, severity, 8, 105) * haze
        amount = region * (depth * np.clip(texture, 0.1, None) + 5 * interstitial * severity * net)
        effect = fill(body, lung, amount, fade=0.35)
        lines = _congestion(scene, lung, severity * interstitial, rng)
        drawn.append(Effect(effect.change + lines, (region > 0.32) & lung.mask))
    return combine(drawn)


def _congestion(scene: Scene, lung: Lung, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Cephalized vessels and septal lines, (H, W) attenuation."""
    up = np.array([-1.35, -0.95, -0.5, 0.1, 0.6]) + rng.normal(0, 0.12, 5)
    angles = up if lung.outward > 0 else np.pi - up
    paths, widths = vessel_tree(rng, lung.hilum, angles, 0.2 * lung.height, scene.pixels(5.5))
    vessels = strokes(scene.size, paths, widths) * MU_WATER * 11 * strength
    place = lung.mask & (lung.u > 0.86) & (lung.v > 0.55) & (lung.v < 0.95)
    septa = []
    for _ in range(int(rng.integers(3, 9))):
        x, y = draw_place(place.astype(np.float32), rng)
        septa.append(
            np.array([(x, y), (x - lung.outward * scene.pixels(rng.uniform(8, 17)), y + 0.5)])
        )
    kerley = strokes(scene.size, septa, scene.pixels(1.2)) * MU_WATER * 9 * strength
    reach = np.clip(lung.path / 40, 0, 1)
    return ((vessels + kerley) * reach).astype(np.float32)


def emphysema(scene: Scene, body: Body, lesion: Lesion, rng: np.random.Generator) -> Effect:
    """Dark, vessel-poor lungs, worst where the zone says (else above), sometimes with bullae.

    The flattened diaphragm is a matter of geometry: see `view`.
    """
    drawn = []
    for side in ("right", "left"):
        lung = scene.lungs[side]
        severity = lesion.severity * rng.uniform(0.8, 1.1)
        if lesion.side in ("right", "left") and lesion.side != side:
            severity *= 0.4
        below = bool(lesion.zone and ("lower" in lesion.zone or "bas" in lesion.zone))
        profile = np.clip(1.25 - lung.v, 0.35, 1) if not below else np.clip(0.25 + lung.v, 0.35, 1)
        patchy = np.clip(1 + 0.3 * cloud(rng, scene.size, scene.pixels(35)), 0.3, 1.6)
        share = np.clip(between(rng, severity, 0.14, 0.7) * profile * patchy, 0, 0.85)
        inside = np.clip(lung.path / 15, 0, 1) * lung.mask
        change = -share * inside * (body.lung - body.vessels)
        change -= np.clip(1.5 * share, 0, 0.9) * inside * body.vessels
        bullae = _bullae(scene, lung, severity, rng)
        change += bullae
        drawn.append(Effect(change.astype(np.float32), lung.mask & (profile > 0.5)))
    return combine(drawn)


def _bullae(scene: Scene, lung: Lung, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Thin-walled air spaces near the apex and the wall, (H, W) attenuation."""
    total = np.zeros((scene.size, scene.size), np.float32)
    chance = zone_weight(lung, "upper") * np.clip(lung.u, 0.1, 1)
    column, row = scene.coordinates()
    for _ in range(rng.poisson(1.6 * severity)):
        x, y = draw_place(chance, rng)
        radius = scene.pixels(rng.uniform(9, 22))
        ratio = np.hypot(column - x, (row - y) * rng.uniform(0.75, 1.1)) / radius
        wall = np.exp(-(((ratio - 1) * radius / max(scene.pixels(1.3), 0.8)) ** 2))
        total += (0.05 * wall - 0.16 * np.sqrt(np.clip(1 - ratio**2, 0, 1))) * lung.mask * severity
    return total


def fibrosis(scene: Scene, body: Body, lesion: Lesion, rng: np.random.Generator) -> Effect:
    """Basal, peripheral reticulation, with honeycombs where gross; other zones on request."""
    drawn = []
    for side in _fibrotic_sides(lesion):
        lung = scene.lungs[side]
        severity = lesion.severity * rng.uniform(0.8, 1.1)
        if lesion.zone and not any(
            key in lesion.zone for key in ("bas", "lower", "periph", "diff")
        ):
            region = zone_weight(lung, lesion.zone)
        else:
            edge = np.exp(-0.5 * (np.clip(0.95 - lung.u, 0, 1) / rng.uniform(0.2, 0.4)) ** 2)
            low = 1 / (1 + np.exp(-(lung.v - rng.uniform(0.5, 0.72)) / 0.07))
            region = lung.mask * np.clip(0.35 + edge, 0, 1) * low
        seen = lung.mask & (region > 0.4 * region.max())
        region = region * np.clip(1 + 0.4 * cloud(rng, scene.size, scene.pixels(22)), 0, 1.7)
        net = network(rng, scene.size, scene.pixels(rng.uniform(5, 8)), sharp=0.28)
        comb = cells(rng, scene.size, scene.pixels(rng.uniform(6, 10)))
        mix = np.clip(severity - 0.35 + rng.normal(0, 0.2), 0, 0.55)
        texture = 0.3 + 1.1 * ((1 - mix) * net + mix * comb)
        amount = between(rng, severity, 8, 42) * region * texture
        effect = fill(body, lung, amount, fade=0.1)
        drawn.append(Effect(effect.change, seen))
    return combine(drawn)


def _fibrotic_sides(lesion: Lesion) -> tuple[str, ...]:
    return (lesion.side,) if lesion.side in ("right", "left") else ("right", "left")


def atelectasis(scene: Scene, body: Body, lesion: Lesion, rng: np.random.Generator) -> Effect:
    """Plates at the base, or a wedge of collapsed lung with volume loss (see `view`)."""
    drawn = []
    for side in lesion_sides(scene, lesion, rng):
        lung = scene.lungs[side]
        wedge = rng.random() < 0.25 + 0.35 * lesion.severity
        draw = _wedge if wedge else _plates
        drawn.append(draw(scene, body, lung, lesion, rng))
    return combine(drawn)


def _plates(
    scene: Scene, body: Body, lung: Lung, lesion: Lesion, rng: np.random.Generator
) -> Effect:
    """One to four linear opacities, level or oblique."""
    change = np.zeros((scene.size, scene.size), np.float32)
    base = Lesion(lesion.concept, lesion.side, lesion.zone or "base", lesion.severity, lesion.box)
    for _ in range(int(rng.integers(1, 3 + round(2 * lesion.severity)))):
        half = between(rng, lesion.severity, 14, 34)
        place = spot(scene, lung, base, rng, (half, half * 0.4))
        tilt = rng.normal(0.1, 0.35) * -lung.outward
        reach = min(place.half_width, scene.pixels(48))
        ends = [(-1.0, 0.0), (-0.3, rng.normal(0, 0.1)), (0.4, rng.normal(0, 0.1)), (1.0, 0.0)]
        path = curve(
            [(place.column + reach * a, place.row + reach * (b + a * tilt)) for a, b in ends]
        )
        width = between(rng, lesion.severity, 2.2, 6.0)
        line = strokes(scene.size, [path], scene.pixels(width))
        line = cv2.GaussianBlur(line, (0, 0), max(scene.pixels(rng.uniform(0.8, 2.2)), 0.6))
        column, row = scene.coordinates()
        far = np.hypot(column - place.column, row - place.row) / reach
        taper = np.clip(1.25 - far**2, 0, 1) * (1 + 0.25 * noise(rng, scene.size, scene.pixels(12)))
        change += line * taper * MU_FILL * between(rng, lesion.severity, 22, 60)
    change *= np.clip(lung.path / 20, 0, 1)
    wide = cv2.GaussianBlur(change, (0, 0), scene.pixels(2.5))
    return Effect(change, outlined(wide, 0.22))


def _wedge(
    scene: Scene, body: Body, lung: Lung, lesion: Lesion, rng: np.random.Generator
) -> Effect:
    """Basal triangle of increased density, apex at the hilum, broad on the diaphragm."""
    zone = lesion.zone or ""
    up = "upper" in zone or "ap" in zone
    depth = (0.62 - lung.v) / 0.62 if up else (lung.v - 0.5) / 0.5
    reach = between(rng, lesion.severity, 0.35, 0.85)
    border = lung.u - reach * np.clip(depth, 0, 1.2) + 0.07 * noise(rng, scene.size, scene.size / 6)
    region = 1 / (1 + np.exp(np.clip(border / rng.uniform(0.03, 0.09), -30, 30)))
    region = region * np.clip(depth * 4, 0, 1)
    lobe = scene.channel(f"{lung.side} {'upper' if up else 'lower'}")
    texture = 1 + 0.12 * cloud(rng, scene.size, scene.pixels(14))
    amount = np.minimum(lobe, 85) * region * texture * between(rng, lesion.severity, 0.28, 0.9)
    effect = fill(body, lung, amount)
    return Effect(effect.change, outlined(amount) & (lung.path > 5))
