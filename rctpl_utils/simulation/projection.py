"""Cone-beam projection of a volume: line integrals along the rays of a point source.

Joseph's method (IEEE Trans. Med. Imaging 1, 1982): one bilinear sample where a ray meets each plane
of voxels, here the frontal planes, which every ray crosses steeply.
"""

from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import cv2
import numpy as np

from rctpl_utils.simulation.volume import Volume

FIELD = 432.0  # mm, side of the square field at the isocenter


@dataclass(frozen=True)
class Pose:
    """How patient, source and detector stand to each other.

    Attributes:
        yaw: rotation about the patient's long axis, degrees.
        tilt: about the left-right axis, degrees; positive lifts the front (lordotic view).
        roll: in the image plane, degrees.
        source: distance from source to isocenter, mm.
        frontal: the beam enters in front (AP) instead of at the back (PA).
    """

    yaw: float
    tilt: float
    roll: float
    source: float
    frontal: bool


def sample_pose(rng: np.random.Generator) -> Pose:
    """A pose as in daily work: PA at about 1.8 m, or AP (bedside) at about 1 m."""
    frontal = bool(rng.random() < 0.4)
    spread = 1.4 if frontal else 1.0
    yaw, tilt, roll = rng.normal(0, (2.6, 3.2, 0.9)) * spread
    distance = rng.uniform(850, 1150) if frontal else rng.uniform(1550, 1800)
    return Pose(float(yaw), float(tilt), float(roll), float(distance), frontal)


def project(volume: Volume, pose: Pose, pixels: int, *, field: float = FIELD) -> np.ndarray:
    """Integrate every channel along each ray.

    The image lies in the plane through the isocenter, so that its scale is that of the patient:
    `field / pixels` millimetres a pixel. The patient's right is on the image's left.

    Args:
        volume: the channels.
        pose: source and patient.
        pixels: side of the square image.
        field: side of the image in mm.

    Returns:
        (C, pixels, pixels) float32: line integrals (attenuation) or path lengths (mm).
    """
    source, ray = _rays(pose, pixels, field)
    step_z, step_y, step_x = volume.spacing
    middle_z, middle_y, middle_x = volume.center
    total = np.zeros((len(volume.values), pixels, pixels), np.float32)
    for k, planes in groupby(volume.planes, key=itemgetter(0)):
        reach = ((k - middle_y) * step_y - source[1]) / ray[..., 1]  # where the ray meets it
        x = np.float32((source[0] + reach * ray[..., 0]) / step_x + middle_x)
        z = np.float32((source[2] + reach * ray[..., 2]) / step_z + middle_z)
        for _, group, plane in planes:
            image = cv2.remap(plane, x, z, cv2.INTER_LINEAR).reshape(pixels, pixels, -1)
            total[group] += image.transpose(2, 0, 1)
    lengths = step_y * np.linalg.norm(ray, axis=-1) / np.abs(ray[..., 1])
    return (total * lengths).astype(np.float32)


def _rays(pose: Pose, pixels: int, field: float) -> tuple[np.ndarray, np.ndarray]:
    """Source (3,) and ray directions (P, P, 3) in patient axes (x, y, z), mm."""
    line = (np.arange(pixels) + 0.5) / pixels * field - field / 2
    x, z = np.meshgrid(line, -line)  # (P, P) mm
    target = np.stack([x, np.zeros_like(x), z], -1)  # (P, P, 3)
    source = np.array([0.0, pose.source if pose.frontal else -pose.source, 0.0])
    turn = rotation(pose)
    return source @ turn, (target - source) @ turn


def rotation(pose: Pose) -> np.ndarray:
    """Matrix R with `patient = room @ R`, axes (x, y, z): (3, 3)."""
    yaw, tilt, roll = np.radians([pose.yaw, pose.tilt, pose.roll])
    about_z = np.array([[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    about_x = np.array(
        [[1, 0, 0], [0, np.cos(tilt), np.sin(tilt)], [0, -np.sin(tilt), np.cos(tilt)]]
    )
    about_y = np.array(
        [[np.cos(roll), 0, np.sin(roll)], [0, 1, 0], [-np.sin(roll), 0, np.cos(roll)]]
    )
    return about_z @ about_x @ about_y


def project_points(points: np.ndarray, pose: Pose, *, field: float = FIELD) -> np.ndarray:
    """Where patient points fall on the image.

    Args:
        points: (..., 3) in (z, y, x) mm from the isocenter.

    Returns:
        (..., 2) in (column, row), each in [0, 1] of the field.
    """
    room = points[..., ::-1] @ rotation(pose).T
    side = 1.0 if pose.frontal else -1.0
    scale = pose.source / (pose.source - side * room[..., 1])
    column = 0.5 + room[..., 0] * scale / field
    row = 0.5 - room[..., 2] * scale / field
    return np.stack([column, row], -1)
