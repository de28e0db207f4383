"""From a case to a simulated radiograph with exact lesion masks."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from rctpl_utils.errors import InputError
from rctpl_utils.simulation import chest, lungs
from rctpl_utils.simulation.anatomy import Anatomy
from rctpl_utils.simulation.cases import Case, Lesion, Rng
from rctpl_utils.simulation.ct import MU_WATER
from rctpl_utils.simulation.scene import Scene, set_up
from rctpl_utils.simulation.shapes import Effect, noise, strokes, vessel_tree
from rctpl_utils.simulation.styles import Style, develop, get_style

Painter = Callable[[Scene, Lesion, Rng], Effect]

PAINTERS: dict[str, Painter] = {
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
    pixels = develop(exposure.attenuation + exposure.change, get_style(case.style), streams[3])
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
    style = get_style(case.style)
    streams = np.random.default_rng(case.seed).spawn(4)
    scene = set_up(case, anatomy, style, size, streams[0])
    patient = _habitus(scene, style, streams[1]) + _distractors(scene, streams[1])
    attenuation, masks = np.maximum(patient, 0), {}
    change = np.zeros(attenuation.shape, np.float32)
    for lesion, rng in zip(case.lesions, streams[2].spawn(len(case.lesions)), strict=True):
        if lesion.concept not in PAINTERS:
            problem = f"the renderer cannot draw {lesion.concept!r}"
            raise InputError(problem, f"Choose one of: {', '.join(PAINTERS)}.")
        drawn = PAINTERS[lesion.concept](scene, lesion, rng)
        change += drawn.change
        masks[lesion.concept] = masks.get(lesion.concept, False) | drawn.mask
    return Exposure(attenuation, np.maximum(change, -attenuation), masks)


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
    uneven = 1 + 0.05 * noise(rng, scene.size, scene.size / 4)
    tree = np.zeros_like(lung)
    for side in scene.lungs.values():
        fan = np.linspace(-1.25, 1.35, 6) + rng.normal(0, 0.15, 6)
        angles = fan if side.outward > 0 else np.pi - fan
        length, width = 0.2 * side.height, scene.pixels(rng.uniform(3.0, 4.6))
        ink = strokes(scene.size, *vessel_tree(rng, side.hilum, angles, length, width))
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
