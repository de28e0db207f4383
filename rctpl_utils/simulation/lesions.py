"""Every drawn concept and its painter: lesions are composited as line integrals, which add."""

from collections.abc import Callable

import numpy as np

from rctpl_utils.errors import InputError
from rctpl_utils.simulation import bones, devices, diffuse, heart, nodules, parenchyma, pleura
from rctpl_utils.simulation.body import Body
from rctpl_utils.simulation.cases import Lesion
from rctpl_utils.simulation.effect import Effect
from rctpl_utils.simulation.scene import Scene

Painter = Callable[[Scene, Body, Lesion, np.random.Generator], Effect]

PAINTERS: dict[str, Painter] = {
    "Enlarged Cardiomediastinum": heart.enlarged_mediastinum,
    "Cardiomegaly": heart.cardiomegaly,
    "Lung Opacity": parenchyma.lung_opacity,
    "Lung Lesion": nodules.lung_lesion,
    "Edema": diffuse.edema,
    "Consolidation": parenchyma.consolidation,
    "Pneumonia": parenchyma.pneumonia,
    "Atelectasis": diffuse.atelectasis,
    "Pneumothorax": pleura.pneumothorax,
    "Pleural Effusion": pleura.pleural_effusion,
    "Pleural Other": pleura.pleural_other,
    "Fracture": bones.fracture,
    "Support Devices": devices.support_devices,
    "Infiltration": parenchyma.infiltration,
    "Mass": nodules.mass,
    "Nodule": nodules.nodule,
    "Emphysema": diffuse.emphysema,
    "Fibrosis": diffuse.fibrosis,
    "Pleural Thickening": pleura.pleural_thickening,
    "Hernia": heart.hernia,
    "COVID-19": parenchyma.covid,
}


def draw_lesion(scene: Scene, body: Body, lesion: Lesion, rng: np.random.Generator) -> Effect:
    """Draw one finding on a patient.

    Returns:
        What it adds to the attenuation, and its mask, both (H, W).

    Raises:
        InputError: a concept that has no painter.
    """
    if lesion.concept not in PAINTERS:
        raise InputError(
            f"the renderer cannot draw {lesion.concept!r}", f"Choose one of: {', '.join(PAINTERS)}."
        )
    return PAINTERS[lesion.concept](scene, body, lesion, rng)


def draw_distractors(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """What many films show and no report counts: granulomas, scars, snaps; (H, W) attenuation."""
    total = np.zeros((scene.size, scene.size), np.float32)
    for chance, draw in ((0.15, nodules.granulomas), (0.15, nodules.old_scar)):
        if rng.random() < chance:
            total += draw(scene, rng)
    if scene.anatomy.frontal[scene.pose] and rng.random() < 0.3:
        total += devices.electrodes(scene, rng)
    return total
