"""The projected anatomy: base poses of the real chest CT and real lung outlines, made once.

The CT is one patient; images differ in pose and outline (517 real ones, the v7labs annotations in
torchxrayvision), disjoint between splits, in habitus, breathing and pathology (`radiograph`).
"""

import zipfile
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import cv2
import numpy as np

from rctpl_utils.datasets.openi import xrv_file
from rctpl_utils.errors import InputError
from rctpl_utils.files import atomic_path, hash_of, read_json, write_json
from rctpl_utils.simulation.cases import SPLITS, Rng
from rctpl_utils.simulation.ct import (
    CHANNELS,
    CT_MEMBERS,
    LOBES,
    SOURCES,
    Volume,
    ct_files,
    load_volume,
)

LEVELS = (0.05, 0.15, 0.28, 0.42, 0.56, 0.7)  # heights of border landmarks, apex to base
COLUMNS = (0.08, 0.3, 0.52, 0.75, 0.95)  # base landmarks, from medial to lateral
PER_LUNG = 1 + 2 * len(LEVELS) + len(COLUMNS)


def lung_landmarks(right: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Corresponding points, (column, row) in [0, 1], of two masks (H, W): (2 * PER_LUNG, 2)."""
    return np.concatenate([_one_lung(right, medial=1), _one_lung(left, medial=-1)])


def _one_lung(mask: np.ndarray, *, medial: int) -> np.ndarray:
    """Apex, (lateral, medial) at each level, base: (PER_LUNG, 2). `medial`: +1 at larger x."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, tall = rows[0], rows[-1] - rows[0]
    points = [(np.flatnonzero(mask[top : top + max(1, tall // 40)].any(0)).mean(), top)]
    for level in LEVELS:
        y = round(top + level * tall)
        inside = np.flatnonzero(mask[y])
        ends = (inside[0], inside[-1]) if inside.size else (points[-2][0], points[-1][0])
        points += [(x, y) for x in ends[::medial]]
    wide = columns[-1] - columns[0]
    for part in COLUMNS:
        x = round(columns[-1] - part * wide if medial > 0 else columns[0] + part * wide)
        inside = np.flatnonzero(mask[:, x])
        points.append((x, inside[-1] if inside.size else rows[-1]))
    return (np.array(points, dtype=float) + 0.5) / (width, height)


FIELD = 432.0  # mm, side of the square field at the isocenter


@dataclass(frozen=True)
class Pose:
    """How patient, source and detector stand to each other."""

    yaw: float  # about the patient's long axis, degrees
    tilt: float  # about the left-right axis; positive lifts the front (lordotic view)
    roll: float  # in the image plane
    source: float  # its distance to the isocenter, mm
    frontal: bool  # the beam enters in front (AP) instead of at the back (PA)


def sample_pose(rng: Rng) -> Pose:
    """A pose as in daily work: PA at about 1.8 m, or AP (bedside) at about 1 m."""
    frontal = bool(rng.random() < 0.4)
    spread = 1.4 if frontal else 1.0
    yaw, tilt, roll = rng.normal(0, (2.6, 3.2, 0.9)) * spread
    distance = rng.uniform(850, 1150) if frontal else rng.uniform(1550, 1800)
    return Pose(float(yaw), float(tilt), float(roll), float(distance), frontal)


def project(volume: Volume, pose: Pose, pixels: int, *, field: float = FIELD) -> np.ndarray:
    """Line integrals or paths in mm of each channel: (C, pixels, pixels) float32.

    Joseph's method (IEEE Trans. Med. Imaging 1, 1982): one bilinear sample where a ray of the point
    source meets each plane of voxels, here the frontal planes, which every ray crosses steeply. The
    image lies in the plane through the isocenter, so that its scale is that of the patient,
    `field / pixels` mm a pixel; the patient's right is on its left.
    """
    line = (np.arange(pixels) + 0.5) / pixels * field - field / 2
    x, z = np.meshgrid(line, -line)  # (P, P) mm
    turn = rotation(pose)
    start = np.array([0.0, pose.source if pose.frontal else -pose.source, 0.0])
    source = start @ turn  # (3,), patient axes (x, y, z) in mm
    ray = (np.stack([x, np.zeros_like(x), z], -1) - start) @ turn  # (P, P, 3)
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


def project_points(points: np.ndarray, pose: Pose) -> np.ndarray:
    """Places (column, row) in [0, 1] of the field of points (z, y, x) in mm from the isocenter."""
    room = points[..., ::-1] @ rotation(pose).T
    side = 1.0 if pose.frontal else -1.0
    scale = pose.source / (pose.source - side * room[..., 1])
    column = 0.5 + room[..., 0] * scale / FIELD
    row = 0.5 - room[..., 2] * scale / FIELD
    return np.stack([column, row], -1)


_SIDE = 256  # outlines are traced at this size
_AREA = (0.1, 0.55)  # both lungs, of the image: less is a crop or a child's film in a large frame
_MARGIN = 2  # pixels: lungs that touch the frame are cut off


def load_outlines(archive: Path) -> np.ndarray:
    """Landmarks of every complete pair of lungs, by file name: (N, L, 2) of the padded square."""
    found = []
    with zipfile.ZipFile(archive) as stored:
        for name in sorted(stored.namelist()):
            if not name.endswith("/"):
                image = cv2.imdecode(np.frombuffer(stored.read(name), np.uint8), 0)
                pair = None if image is None else split_lungs(square(image))
                if pair is not None:
                    found.append(lung_landmarks(*pair))
    return np.array(found)


def square(image: np.ndarray) -> np.ndarray:
    """Pad to a square and resize: (_SIDE, _SIDE) uint8. Annotators' gray boxes are dropped."""
    image = np.where(image > 200, 255, 0).astype(np.uint8)
    height, width = image.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    bottom, right = side - height - top, side - width - left
    padded = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=0)
    return cv2.resize(padded, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)


def split_lungs(image: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The (right, left) lung masks of an outline image, or None where it is not a complete pair."""
    solid = cv2.morphologyEx(image, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 127
    count, parts, stats, middle = cv2.connectedComponentsWithStats(solid.astype(np.uint8))
    if count < 3:
        return None
    two = 1 + np.argsort(stats[1:, cv2.CC_STAT_AREA])[-2:]
    areas = stats[two, cv2.CC_STAT_AREA]
    first, second = sorted(two, key=lambda part: middle[part, 0])
    pair = parts == first, parts == second
    both = np.argwhere(pair[0] | pair[1])
    inside = both.min() >= _MARGIN and both.max() < _SIDE - _MARGIN
    proper = _AREA[0] < areas.sum() / image.size < _AREA[1] and areas.min() > 0.5 * areas.max()
    apart = stats[second, cv2.CC_STAT_LEFT] > middle[first, 0]
    level = abs(middle[first, 1] - middle[second, 1]) < 0.12 * _SIDE
    return pair if inside and proper and apart and level else None


VERSION = 2  # of the projection: raise it when the cached arrays would change
_SMALL = ("ribs", "landmarks", "outlines", "frontal")  # loaded whole
_LARGE, _POOLS = ("maps", "fields"), ("poses", "thoraces")  # `_LARGE` stay on disk
_OUTLINES = "semantic_masks_v7labs_lungs.zip"


@dataclass(frozen=True)
class Plan:
    """How many base poses each split gets, and at what resolution."""

    train: int = 36
    validation: int = 8
    test: int = 16
    pixels: int = 208  # side of a projected map (of 432 mm)
    seed: int = 7  # of the poses and of the outlines' assignment to splits


@dataclass(frozen=True)
class Anatomy:
    """Projected base poses (P) and lung outlines (N)."""

    maps: np.ndarray  # (P, C, H, W) float32, line integrals and path lengths (`ct.CHANNELS`)
    fields: np.ndarray  # (P, 2, H, W) uint8, 255 inside the visible right and left lung
    ribs: np.ndarray  # (P, R, K, 2) float32, right 2-10, left 2-10, from spine to front, of the map
    landmarks: np.ndarray  # (P, L, 2) float64, `lung_landmarks` of each pose's own lungs
    outlines: np.ndarray  # (N, L, 2) float64, landmarks of real patients' lungs
    poses: dict[str, np.ndarray]  # of each split the indices of `maps`, disjoint
    thoraces: dict[str, np.ndarray]  # of each split the indices of `outlines`, disjoint
    frontal: np.ndarray  # (P,) bool, the AP poses

    def pools(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the base poses and of the lung outlines of a split."""
        if split not in self.poses:
            known = ", ".join(self.poses)
            raise InputError(f"there is no split {split!r}", f"Choose one of: {known}.")
        return self.poses[split], self.thoraces[split]


def load_anatomy(cache: Path) -> Anatomy:
    """The anatomy from `cache`, projected first where it is absent (half a minute, from the CT)."""
    plan = Plan()
    sums = {source["name"]: source["sha256"] for source in SOURCES[:3]}
    folder = Path(cache) / f"anatomy-{hash_of(plan, sums, VERSION)[:16]}"
    if not (folder / "complete.json").is_file():
        volume = load_volume(ct_files(Path(cache)))
        _store(folder, build_anatomy(volume, load_outlines(xrv_file(_OUTLINES)), plan), plan)
    return _read(folder)


def build_anatomy(volume: Volume, outlines: np.ndarray, plan: Plan) -> Anatomy:
    """Project the CT in every pose of `plan`, deal the outlines (N, L, 2) out to the splits."""
    rng = np.random.default_rng(plan.seed)
    counts = np.array([plan.train, plan.validation, plan.test])
    ends = np.cumsum(counts)
    poses = [sample_pose(rng) for _ in range(ends[-1])]
    maps = np.empty((len(poses), len(CHANNELS), plan.pixels, plan.pixels), np.float32)
    for k, pose in enumerate(poses):
        maps[k] = project(volume, pose, plan.pixels)
    fields = np.array([visible_lungs(m) for m in maps])  # (P, 2, H, W)
    ribs = np.array([project_points(volume.ribs, pose) for pose in poses], dtype=np.float32)
    cuts = np.round(np.cumsum(counts / len(poses))[:-1] * len(outlines)).astype(int)
    return Anatomy(
        maps=maps,
        fields=fields.astype(np.uint8) * 255,
        ribs=ribs,
        landmarks=np.array([lung_landmarks(*pair) for pair in fields]),
        outlines=outlines,
        poses=dict(zip(SPLITS, np.split(np.arange(len(poses)), ends[:-1]), strict=True)),
        thoraces=dict(zip(SPLITS, np.split(rng.permutation(len(outlines)), cuts), strict=True)),
        frontal=np.array([pose.frontal for pose in poses]),
    )


def visible_lungs(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(right, left) lung fields of one projection, (H, W) bool each; the base is the dome."""
    abdomen, pair = maps[CHANNELS.index("abdomen")], []
    for side in ("right", "left"):
        path = sum(maps[CHANNELS.index(n)] for n in LOBES if n.startswith(side))
        seen = ((path > 12) & (abdomen < 0.006 * path)).astype(np.uint8)
        seen = cv2.morphologyEx(seen, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        _, parts, stats, _ = cv2.connectedComponentsWithStats(seen)
        pair.append(parts == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    return pair[0], pair[1]


def _store(folder: Path, anatomy: Anatomy, plan: Plan) -> None:
    """Write the arrays, then the marker that says they are complete."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*_LARGE, *_SMALL):
        with atomic_path(folder / f"{name}.npy") as temporary:
            np.save(temporary, getattr(anatomy, name))
    pools = {n: {k: v.tolist() for k, v in getattr(anatomy, n).items()} for n in _POOLS}
    write_json(folder / "complete.json", {"plan": plan, "ct": CT_MEMBERS, **pools})


def _read(folder: Path) -> Anatomy:
    stored = read_json(folder / "complete.json")
    pools = {name: {k: np.array(v) for k, v in stored[name].items()} for name in _POOLS}
    modes = dict.fromkeys(_SMALL) | dict.fromkeys(_LARGE, "r")
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode=m) for name, m in modes.items()}
    return Anatomy(**arrays, **pools)
