"""From a case to a radiograph with exact lesion masks: the patient, the lesions, the film.

Each data set has its own acquisition style, a distribution from which every image draws; they
overlap but differ in their means.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.simulation import chest, lungs
from rctpl_utils.simulation.anatomy import FIELD, LEVELS, PER_LUNG, Anatomy
from rctpl_utils.simulation.cases import Case, Lesion, Rng
from rctpl_utils.simulation.ct import MU_WATER
from rctpl_utils.simulation.scene import (
    Effect,
    Scene,
    combine,
    dense,
    elastic,
    warp_grid,
)
from rctpl_utils.workspace import PACKAGE_DATA

PAINTERS: dict[str, Callable[[Scene, Lesion, Rng], Iterator[Effect]]] = {
    "Enlarged Cardiomediastinum": chest.enlarged_mediastinum,
    "Cardiomegaly": chest.cardiomegaly,
    "Lung Opacity": lungs.lung_opacity,
    "Lung Lesion": lungs.lung_lesion,
    "Edema": lungs.edema,
    "Consolidation": lungs.consolidation,
    "Pneumonia": lungs.pneumonia,
    "Atelectasis": lungs.atelectasis,
    "Pneumothorax": chest.pneumothorax,
    "Pleural Effusion": chest.pleural_effusion,
    "Pleural Other": chest.pleural_other,
    "Fracture": chest.fracture,
    "Support Devices": chest.support_devices,
    "Infiltration": lungs.infiltration,
    "Mass": lungs.mass,
    "Nodule": lungs.nodule,
    "Emphysema": lungs.emphysema,
    "Fibrosis": lungs.fibrosis,
    "Pleural Thickening": chest.pleural_thickening,
    "Hernia": chest.hernia,
    "COVID-19": lungs.covid,
}


Range = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """The distribution of acquisition parameters of one data set; ranges are uniform."""

    frontal: float = 0.35  # probability of an AP (bedside) exposure
    rotation: float = 1.5  # SD of the film's rotation, degrees
    zoom: float = 1.0  # mean relative size of the thorax in the frame
    bone: Range = (1.0, 1.6)  # gain of bone over soft tissue (lower tube voltage: higher)
    scatter: Range = (0.15, 0.45)  # share of scattered radiation in the signal (smooth veil)
    noise: Range = (0.004, 0.018)  # quantum noise at mean exposure, SD of the log signal
    blur: Range = (1.0, 3.5)  # SD of focal spot and motion blur, 1/1000 of the image side
    sharpen: Range = (0.3, 1.2)  # strength of the unsharp mask of digital processing
    gamma: Range = (0.8, 1.2)  # exponent of the gray scale; above 1 darkens the lungs
    window: Range = (0.9, 1.15)  # width of the gray scale relative to the body's range
    level: Range = (-0.04, 0.04)  # shift of the window relative to its width
    vignette: Range = (0.0, 0.12)  # heel effect and fall-off, relative to the window
    collimation: float = 0.15  # probability of a visible collimator border
    marker: float = 0.6  # probability of a side marker
    marker_text: tuple[str, ...] = ("L", "R")


STYLES = {
    name: Style(**{k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()})
    for name, changes in read_json(PACKAGE_DATA / "drawing.json")["styles"].items()
}


_SMALLEST = 112  # pixels: smaller films are drawn at twice their size, then averaged


@dataclass(frozen=True)
class Radiograph:
    """One simulated film."""

    pixels: np.ndarray  # (size, size) float32, multiples of 1/255; 0 = black (air)
    masks: dict[str, np.ndarray]  # of each drawn concept (size, size) bool


@dataclass(frozen=True)
class Exposure:
    """The physics of one film, before the detector."""

    attenuation: np.ndarray  # (H, W) float32 line integrals without the drawn lesions
    change: np.ndarray  # (H, W) float32, what the lesions add; the beam meets the sum
    masks: dict[str, np.ndarray]  # of each concept (H, W) bool


def render(case: Case, anatomy: Anatomy, size: int) -> Radiograph:
    """Simulate one radiograph, `size` pixels square; the same case gives the same bytes."""
    fine = size if size >= _SMALLEST else 2 * size
    exposure = expose(case, anatomy, fine)
    streams = np.random.default_rng(case.seed).spawn(4)
    pixels = develop(exposure.attenuation + exposure.change, _style_of(case), streams[3])
    if fine == size:
        return Radiograph(pixels, exposure.masks)
    small = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
    pixels = np.round(small * 255).astype(np.float32) / np.float32(255)
    # a pixel belongs to a mask when a quarter of it does, so that thin lines survive
    blocks = {k: mask.reshape(size, 2, size, 2) for k, mask in exposure.masks.items()}
    return Radiograph(pixels, {k: block.any((1, 3)) for k, block in blocks.items()})


def expose(case: Case, anatomy: Anatomy, size: int) -> Exposure:
    """The line integrals of a case: anatomy, distractors, lesions; see `render`.

    Each has random streams of its own, so that the patient without the lesions is the same patient
    (but for the lung volume that atelectasis, fibrosis and emphysema change).
    """
    style = _style_of(case)
    streams = np.random.default_rng(case.seed).spawn(4)
    scene = set_up(case, anatomy, style, size, streams[0])
    patient = _habitus(scene, style, streams[1]) + _distractors(scene, streams[1])
    attenuation, masks = np.maximum(patient, 0), {}
    change = np.zeros(attenuation.shape, np.float32)
    for lesion, rng in zip(case.lesions, streams[2].spawn(len(case.lesions)), strict=True):
        if lesion.concept not in PAINTERS:
            problem = f"the renderer cannot draw {lesion.concept!r}"
            raise InputError(problem, f"Choose one of: {', '.join(PAINTERS)}.")
        drawn = combine(PAINTERS[lesion.concept](scene, lesion, rng))
        change += drawn.change
        masks[lesion.concept] = masks.get(lesion.concept, False) | drawn.mask
    return Exposure(attenuation, np.maximum(change, -attenuation), masks)


def _style_of(case: Case) -> Style:
    if case.style not in STYLES:
        problem = f"there is no acquisition style {case.style!r}"
        raise InputError(problem, f"Choose one of: {', '.join(STYLES)}.")
    return STYLES[case.style]


_BASE = slice(1 + 2 * len(LEVELS), PER_LUNG)  # landmarks on the diaphragm, within one lung
_WIDTHS = (0.6, 0.86)  # both lungs across the frame: less wastes pixels, more cuts the chest wall


def set_up(case: Case, anatomy: Anatomy, style: Style, size: int, rng: Rng) -> Scene:
    """Choose pose and outline from the case's split and warp the anatomy accordingly."""
    pool, outlines = anatomy.pools(case.split)
    fitting = pool[anatomy.frontal[pool] == (rng.random() < style.frontal)]
    pose = int(rng.choice(fitting if fitting.size else pool))
    target = _place(anatomy.outlines[rng.choice(outlines)], style, rng)
    top = target[:, 1].min()  # with the depth of inspiration the lungs move, but not their apices
    target[:, 1] += rng.normal(0, 0.03) * (target[:, 1] - top)
    changes = _volume_changes(case, rng.spawn(1)[0])
    for points, (raised, flat) in zip(np.split(target, 2), changes, strict=True):  # diaphragms
        top, bottom = points[:, 1].min(), points[:, 1].max()
        share = np.clip((points[:, 1] - top) / (bottom - top), 0, 1) ** 2
        points[:, 1] -= raised * share * (bottom - top)
        base = points[_BASE, 1]
        level = np.linspace(base.max() - 0.02, base.max(), base.size)
        points[_BASE, 1] = (1 - flat) * base + flat * level
    source = anatomy.landmarks[pose]
    grid = warp_grid(target, source) + elastic(rng, 0.006)
    shifts = {"body": 0.0, "bone": 0.005, "lung": 0.008}
    pixels = anatomy.maps.shape[-1]
    grids = {name: dense(grid + elastic(rng, s), size, pixels) for name, s in shifts.items()}
    scale = np.ptp(source, axis=0).mean() / np.ptp(target, axis=0).mean()
    return Scene(anatomy, pose, size, grids, spacing=float(FIELD * scale / size))


def _place(outline: np.ndarray, style: Style, rng: Rng) -> np.ndarray:
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


def _volume_changes(case: Case, rng: Rng) -> list[tuple[float, float]]:
    """How much higher (share of its height) and flatter (0: a dome) each lung's diaphragm is."""
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
    return [(float(r), float(min(f, 0.9))) for r, f in zip(raised, flat, strict=True)]


def _habitus(scene: Scene, style: Style, rng: Rng) -> np.ndarray:
    """This patient before any lesion, (H, W) attenuation; gives `scene` its lungs' content."""
    scene.content, scene.vessels = _lung_content(scene, rng)
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
    fixed += chest.heart_change(scene, float(np.clip(rng.normal(1.0, 0.045), 0.9, 1.09)), rng)
    return fixed + scene.content


def _lung_content(scene: Scene, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Parenchyma of varied density; the CT's vessels fade, random trees take over in part."""
    lung = scene.channel("lung")
    smooth = cv2.GaussianBlur(lung, (0, 0), scene.pixels(9))
    own = (lung - smooth) * rng.uniform(0.7, 1.5)
    path = scene.lungs["right"].path + scene.lungs["left"].path
    uneven = 1 + 0.05 * scene.noise(rng, scene.size / 4)
    tree = np.zeros_like(lung)
    for side in scene.lungs.values():
        fan = np.linspace(-1.25, 1.35, 6) + rng.normal(0, 0.15, 6)
        angles = fan if side.outward > 0 else np.pi - fan
        length, width = 0.2 * side.height, scene.pixels(rng.uniform(3.0, 4.6))
        ink = scene.tree(rng, side.hilum, angles, length, width)
        tree += ink * MU_WATER * rng.uniform(4.5, 8.0)
    vessels = own + tree * np.clip(path / 60, 0, 1) * rng.uniform(0.5, 1.1)
    return smooth * rng.uniform(0.85, 1.2) * uneven + vessels, vessels


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


def _distractors(scene: Scene, rng: Rng) -> np.ndarray:
    """What many films show and no report counts: granulomas, scars, snaps; (H, W) attenuation."""
    total = np.zeros((scene.size, scene.size), np.float32)
    for draw in (lungs.granulomas, lungs.old_scar):
        if rng.random() < 0.15:
            total += draw(scene, rng)
    if scene.anatomy.frontal[scene.pose] and rng.random() < 0.3:
        total += chest.electrodes(scene, rng)
    return total


def develop(attenuation: np.ndarray, style: Style, rng: Rng) -> np.ndarray:
    """Attenuation (H, W) to grays in [0, 1]: float32, multiples of 1/255; 1 = white (dense)."""
    values = _detect(attenuation, style, rng)
    # limits of the gray scale from the body's own range, as automatic processing sets them
    body = values[::3, ::3][attenuation[::3, ::3] > 0.6]
    low, high = np.percentile(body if body.size > 20 else values.ravel(), (1.0, 98.5))
    width = max(high - low, 0.5) * rng.uniform(*style.window)
    middle = (low + high) / 2 + width * (rng.uniform(*style.level) - 0.02)
    low, high = float(middle - width / 2), float(middle + width / 2)
    gray = (values - low) / (high - low)
    line = np.linspace(-1, 1, len(gray), dtype=np.float32)
    vignette, tilt = rng.uniform(*style.vignette), rng.normal(0, 0.5, 2).astype(np.float32)
    far = line[None] ** 2 + line[:, None] ** 2
    gray = gray + vignette * (tilt[0] * line[None] + tilt[1] * line[:, None] - 0.4 * far)
    # a film-like curve: linear in the middle, with a toe and a shoulder
    soft = np.log1p(np.exp(np.clip(14 * gray, -60, 60))) / 14  # toe
    soft = 1 - np.log1p(np.exp(np.clip(14 * (1 - soft), -60, 60))) / 14  # shoulder
    gray = np.clip(soft, 0, 1) ** rng.uniform(*style.gamma)
    gray = _mark(_collimate(gray, style, rng), style, rng)
    return np.round(np.clip(gray, 0, 1) * 255).astype(np.float32) / np.float32(255)


def _detect(attenuation: np.ndarray, style: Style, rng: Rng) -> np.ndarray:
    """Scatter, blur, quantum noise, log signal, unsharp mask: (H, W) float32."""
    size = attenuation.shape[0]
    signal = np.exp(-attenuation)
    share = rng.uniform(*style.scatter)
    veil = cv2.resize(signal, (16, 16), interpolation=cv2.INTER_AREA)
    veil = cv2.GaussianBlur(np.minimum(veil, 0.25), (0, 0), 2.0)
    veil = cv2.resize(veil, (size, size), interpolation=cv2.INTER_CUBIC)
    signal = (1 - share) * signal + share * np.maximum(veil, 0)
    signal = cv2.GaussianBlur(signal, (0, 0), max(rng.uniform(*style.blur) * size / 1000, 0.05))
    grain = rng.standard_normal(signal.shape, dtype=np.float32)
    if rng.random() < 0.5:  # detectors with a phosphor correlate neighboring pixels
        grain = cv2.GaussianBlur(grain, (0, 0), 0.7) * 1.8
    mean = np.sqrt(0.06 / np.maximum(signal, 1e-3))
    values = -np.log(np.maximum(signal, 1e-4)) + rng.uniform(*style.noise) * grain * mean
    smooth = cv2.GaussianBlur(values, (0, 0), size * rng.uniform(0.01, 0.03))
    return values + rng.uniform(*style.sharpen) * (values - smooth)


def _collimate(gray: np.ndarray, style: Style, rng: Rng) -> np.ndarray:
    """Darken (rarely whiten) what lies outside of a slightly turned rectangle."""
    if rng.random() >= style.collimation:
        return gray
    size = gray.shape[0]
    edges = rng.uniform(0.0, 0.05, 4) * size
    left, top, right, bottom = edges[0], edges[1], size - edges[2], size - edges[3]
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    corners += rng.normal(0, 0.01 * size, (4, 2))
    inside = np.zeros((size, size), np.uint8)
    cv2.fillConvexPoly(inside, np.round(corners * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    share = inside.astype(np.float32) / 255
    outside = 0.02 if rng.random() < 0.85 else 0.97
    return gray * share + outside * (1 - share)


def _mark(gray: np.ndarray, style: Style, rng: Rng) -> np.ndarray:
    """Burn a side marker into an upper corner; the letter agrees with the patient's side."""
    if rng.random() >= style.marker:
        return gray
    size = gray.shape[0]
    text = str(rng.choice(style.marker_text))
    on_right = {"L": True, "R": False}.get(text, bool(rng.random() < 0.5))
    scale = size / 224 * rng.uniform(0.5, 0.85)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    gap = rng.uniform(0.02, 0.08, 2) * size
    column = size - gap[0] - width if on_right else gap[0]
    ink = np.zeros((size, size), np.uint8)
    place = (int(column), int(gap[1] + height))
    thick = max(1, round(size / 160))
    cv2.putText(ink, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thick, cv2.LINE_AA)
    return np.maximum(gray, ink.astype(np.float32) / 255 * rng.uniform(0.75, 1.0))
