"""The projected anatomy: base poses of the real chest CT and real lung outlines, made once.

The CT is one patient; what differs between images is the pose (here), the thorax's outline (here,
real ones), habitus, breathing and pathology (`radiograph`). Poses and outlines of the splits are
disjoint.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from rctpl_utils.datasets.openi import xrv_file
from rctpl_utils.errors import InputError
from rctpl_utils.files import atomic_path, hash_of, read_json, write_json
from rctpl_utils.simulation.cases import SPLITS
from rctpl_utils.simulation.outlines import load_outlines
from rctpl_utils.simulation.projection import FIELD, project, project_points, sample_pose
from rctpl_utils.simulation.sources import CT_MEMBERS, SOURCES, ct_files
from rctpl_utils.simulation.volume import CHANNELS, LOBES, Volume, load_volume
from rctpl_utils.simulation.warp import lung_landmarks

VERSION = 2  # of the projection: raise it when the cached arrays would change
_SMALL = ("ribs", "landmarks", "outlines", "frontal")  # loaded whole; the maps stay on disk
_OUTLINES = "semantic_masks_v7labs_lungs.zip"


@dataclass(frozen=True)
class Plan:
    """How many base poses each split gets, and at what resolution.

    Attributes:
        train, validation, test: base poses of each split.
        pixels: side of a projected map (of 432 mm).
        seed: of the poses and of the outlines' assignment to splits.
    """

    train: int = 36
    validation: int = 8
    test: int = 16
    pixels: int = 208
    seed: int = 7


@dataclass(frozen=True)
class Anatomy:
    """Projected base poses and lung outlines.

    Attributes:
        maps: (P, C, H, W) float32, line integrals and path lengths (`volume.CHANNELS`).
        fields: (P, 2, H, W) uint8, 255 inside the visible right and left lung.
        ribs: (P, R, K, 2) float32, center lines of ribs (right 2-10, left 2-10) from spine to
            front, (column, row) relative to the map.
        landmarks: (P, L, 2) float64, `warp.lung_landmarks` of each pose's own lungs.
        outlines: (N, L, 2) float64, landmarks of real patients' lungs.
        poses: {split: indices of `maps`}, disjoint.
        thoraces: {split: indices of `outlines`}, disjoint.
        frontal: (P,) bool, the AP poses.
        field: side of a map in mm.
    """

    maps: np.ndarray
    fields: np.ndarray
    ribs: np.ndarray
    landmarks: np.ndarray
    outlines: np.ndarray
    poses: dict[str, np.ndarray]
    thoraces: dict[str, np.ndarray]
    frontal: np.ndarray
    field: float = FIELD
    channels: tuple[str, ...] = CHANNELS

    def pool(self, split: str) -> np.ndarray:
        """Indices of the base poses of a split: "train", "validation" or "test"."""
        return _of_split(self.poses, split)

    def outline_pool(self, split: str) -> np.ndarray:
        """Indices of the lung outlines of a split."""
        return _of_split(self.thoraces, split)


def load_anatomy(cache: Path, plan: Plan | None = None) -> Anatomy:
    """The anatomy from `cache`, projected first where it is not there (half a minute).

    Args:
        cache: the folder shared by all profiles.
        plan: poses and resolution; the default suits all profiles.

    Raises:
        InputError: the CT is not there, or is another.
    """
    plan = plan or Plan()
    sums = {source.name: source.sha256 for source in SOURCES[:3]}
    folder = Path(cache) / f"anatomy-{hash_of(plan, sums, VERSION)[:16]}"
    if not (folder / "complete.json").is_file():
        volume = load_volume(ct_files(Path(cache)))
        _store(folder, build_anatomy(volume, load_outlines(xrv_file(_OUTLINES)), plan), plan)
    return _read(folder)


def build_anatomy(volume: Volume, outlines: np.ndarray, plan: Plan) -> Anatomy:
    """Project `volume` in every pose of `plan`, and deal the outlines out to the splits.

    Args:
        volume: the CT, or a phantom.
        outlines: (N, L, 2) landmarks.
    """
    rng = np.random.default_rng(plan.seed)
    counts = dict(zip(SPLITS, (plan.train, plan.validation, plan.test), strict=True))
    poses = [sample_pose(rng) for _ in range(sum(counts.values()))]
    maps = np.empty((len(poses), len(volume.channels), plan.pixels, plan.pixels), np.float32)
    for k, pose in enumerate(poses):
        maps[k] = project(volume, pose, plan.pixels)
    fields = np.array([visible_lungs(m, volume.channels) for m in maps])  # (P, 2, H, W)
    ribs = np.array([project_points(volume.ribs, pose) for pose in poses], dtype=np.float32)
    shares = np.array(list(counts.values())) / len(poses)
    return Anatomy(
        maps=maps,
        fields=fields.astype(np.uint8) * 255,
        ribs=ribs,
        landmarks=np.array([lung_landmarks(*pair) for pair in fields]),
        outlines=outlines,
        poses=_deal(np.arange(len(poses)), np.cumsum(list(counts.values()))[:-1]),
        thoraces=_deal(
            rng.permutation(len(outlines)),
            np.round(np.cumsum(shares)[:-1] * len(outlines)).astype(int),
        ),
        frontal=np.array([pose.frontal for pose in poses]),
        channels=volume.channels,
    )


def visible_lungs(
    maps: np.ndarray, channels: tuple[str, ...] = CHANNELS
) -> tuple[np.ndarray, np.ndarray]:
    """(right, left) lung fields of one projection, (H, W) bool each.

    A lung is seen where its path is longer than 12 mm and longer than that of the abdomen in front
    of it; so its base is the dome of the diaphragm.
    """
    index = {name: k for k, name in enumerate(channels)}
    abdomen = maps[index["abdomen"]]
    pair = []
    for side in ("right", "left"):
        path = sum(maps[index[n]] for n in LOBES if n.startswith(side))
        seen = ((path > 12) & (abdomen < 0.006 * path)).astype(np.uint8)
        seen = cv2.morphologyEx(seen, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        _, parts, stats, _ = cv2.connectedComponentsWithStats(seen)
        pair.append(parts == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    return pair[0], pair[1]


def _of_split(pools: dict[str, np.ndarray], split: str) -> np.ndarray:
    if split not in pools:
        raise InputError(f"there is no split {split!r}", f"Choose one of: {', '.join(pools)}.")
    return pools[split]


def _deal(items: np.ndarray, cuts: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(SPLITS, np.split(items, cuts), strict=True))


def _store(folder: Path, anatomy: Anatomy, plan: Plan) -> None:
    """Write the arrays, then the marker that says they are complete."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("maps", "fields", *_SMALL):
        with atomic_path(folder / f"{name}.npy") as temporary:
            np.save(temporary, getattr(anatomy, name))
    pools = {
        "poses": {k: v.tolist() for k, v in anatomy.poses.items()},
        "thoraces": {k: v.tolist() for k, v in anatomy.thoraces.items()},
    }
    write_json(folder / "complete.json", {"plan": plan, "ct": CT_MEMBERS, **pools})


def _read(folder: Path) -> Anatomy:
    pools = read_json(folder / "complete.json")
    arrays = {name: np.load(folder / f"{name}.npy") for name in _SMALL}
    return Anatomy(
        maps=np.load(folder / "maps.npy", mmap_mode="r"),
        fields=np.load(folder / "fields.npy", mmap_mode="r"),
        poses={k: np.array(v) for k, v in pools["poses"].items()},
        thoraces={k: np.array(v) for k, v in pools["thoraces"].items()},
        **arrays,
    )
