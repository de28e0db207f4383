"""From a case to a simulated radiograph with exact lesion masks."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from rctpl_utils.errors import InputError
from rctpl_utils.simulation import lungs, pleura, thorax
from rctpl_utils.simulation.anatomy import Anatomy
from rctpl_utils.simulation.body import Body, compose
from rctpl_utils.simulation.cases import Case, Lesion, Rng
from rctpl_utils.simulation.scene import Scene, set_up
from rctpl_utils.simulation.shapes import Effect
from rctpl_utils.simulation.styles import develop, get_style

Painter = Callable[[Scene, Body, Lesion, Rng], Effect]

PAINTERS: dict[str, Painter] = {
    "Enlarged Cardiomediastinum": thorax.enlarged_mediastinum,
    "Cardiomegaly": thorax.cardiomegaly,
    "Lung Opacity": lungs.lung_opacity,
    "Lung Lesion": lungs.lung_lesion,
    "Edema": lungs.edema,
    "Consolidation": lungs.consolidation,
    "Pneumonia": lungs.pneumonia,
    "Atelectasis": lungs.atelectasis,
    "Pneumothorax": pleura.pneumothorax,
    "Pleural Effusion": pleura.pleural_effusion,
    "Pleural Other": pleura.pleural_other,
    "Fracture": thorax.fracture,
    "Support Devices": thorax.support_devices,
    "Infiltration": lungs.infiltration,
    "Mass": lungs.mass,
    "Nodule": lungs.nodule,
    "Emphysema": lungs.emphysema,
    "Fibrosis": lungs.fibrosis,
    "Pleural Thickening": pleura.pleural_thickening,
    "Hernia": thorax.hernia,
    "COVID-19": lungs.covid,
}


def draw_distractors(scene: Scene, rng: Rng) -> np.ndarray:
    """What many films show and no report counts: granulomas, scars, snaps; (H, W) attenuation."""
    total = np.zeros((scene.size, scene.size), np.float32)
    for chance, draw in ((0.15, lungs.granulomas), (0.15, lungs.old_scar)):
        if rng.random() < chance:
            total += draw(scene, rng)
    if scene.anatomy.frontal[scene.pose] and rng.random() < 0.3:
        total += thorax.electrodes(scene, rng)
    return total


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
    return Radiograph(pixels, {k: _halved(mask) for k, mask in exposure.masks.items()})


def expose(case: Case, anatomy: Anatomy, size: int) -> Exposure:
    """The line integrals of a case: anatomy, distractors, lesions; see `render`.

    Each has random streams of its own, so that the patient without the lesions is the same patient
    (but for the lung volume that atelectasis, fibrosis and emphysema change).
    """
    style = get_style(case.style)
    streams = np.random.default_rng(case.seed).spawn(4)
    scene = set_up(case, anatomy, style, size, streams[0])
    body = compose(scene, style, streams[1])
    patient = body.fixed + body.lung + draw_distractors(scene, streams[1])
    attenuation = np.maximum(patient, 0)
    change, masks = _add_lesions(case, scene, body, streams[2])
    return Exposure(attenuation, np.maximum(change, -attenuation), masks)


def _add_lesions(
    case: Case, scene: Scene, body: Body, rng: Rng
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    change = np.zeros((scene.size, scene.size), np.float32)
    masks: dict[str, np.ndarray] = {}
    for lesion, stream in zip(case.lesions, rng.spawn(len(case.lesions)), strict=True):
        if lesion.concept not in PAINTERS:
            problem = f"the renderer cannot draw {lesion.concept!r}"
            raise InputError(problem, f"Choose one of: {', '.join(PAINTERS)}.")
        drawn = PAINTERS[lesion.concept](scene, body, lesion, stream)
        change += drawn.change
        masks[lesion.concept] = masks.get(lesion.concept, False) | drawn.mask
    return change, masks


def _halved(mask: np.ndarray) -> np.ndarray:
    """A mask at half size: a pixel belongs when a quarter of it does, so thin lines survive."""
    side = mask.shape[0] // 2
    return mask.reshape(side, 2, side, 2).sum((1, 3)) > 0
