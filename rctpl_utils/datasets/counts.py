"""Is a data set complete? Its tables counted and compared with the official numbers.

`open_dataset` checks that every image that a table lists is there, always; `require_complete` that
the tables are the official ones in full, for the doctor and a run on real data. The embedded world,
whose `manifest.json` states how small it is, is not held to the official numbers.
"""

from collections.abc import Callable
from pathlib import Path

from rctpl_utils.datasets import (
    chestxray14,
    chexpert,
    covid_rural,
    mimic_cxr,
    openi_films,
    rsna,
    siim,
)
from rctpl_utils.datasets.masks import NO_RUNS
from rctpl_utils.datasets.official import OFFICIAL
from rctpl_utils.datasets.tables import find_files, read_lines, read_table
from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.given_files import child

MANIFEST = "manifest.json"  # of the embedded world, in its data root


def read_world(data_root: str | Path) -> dict | None:
    """The manifest of the embedded world in a data root; None where the data are real.

    Its "size" tells how many films a class its CheXpert-5x200 has. Another JSON is an `InputError`.
    """
    path = Path(data_root) / MANIFEST
    if not path.is_file():
        return None
    cure = "Make the embedded world anew, or remove this file."
    try:
        manifest = read_json(path)
    except ValueError as error:
        raise InputError(f"not a JSON file ({error})", cure, file=path) from error
    size = manifest.get("size") if isinstance(manifest, dict) else None
    if not isinstance(size, dict) or "chexpert_5x200" not in size:
        raise InputError("not the manifest of an embedded world", cure, file=path)
    return manifest


def require_complete_root(data_root: str | Path, *, allow_partial: bool = False) -> None:
    """Hold every data set that is there to its official numbers; an embedded world to none."""
    if read_world(data_root) is None:
        for name in OFFICIAL:
            root = Path(data_root) / name
            if root.is_dir():
                require_complete(name, root, allow_partial=allow_partial)


def count(name: str, root: Path) -> dict[str, int]:
    """What the tables of a data set in `OFFICIAL` hold, under the names of its `counts`."""
    return _COUNTERS[name](root)


def shortfall(name: str, root: Path) -> dict[str, tuple[int, int]]:
    """The counts that are not the official ones: name -> (found, official)."""
    found, official = count(name, root), OFFICIAL[name].counts
    return {key: (found[key], number) for key, number in official.items() if found[key] != number}


def require_complete(name: str, root: Path, *, allow_partial: bool = False) -> None:
    """Refuse tables that are not the official ones in full: what is there, and what should be.

    With `allow_partial` only a table that cannot be read is refused.
    """
    differing = shortfall(name, root)
    if differing and not allow_partial:
        shown = ", ".join(f"{key} {a:,} of {b:,}" for key, (a, b) in differing.items())
        cure = "Complete the download, or accept a partial data set (--allow-partial)."
        raise InputError(f"not the official release: {shown}", cure, file=root)


def _chestxray14(root: Path) -> dict[str, int]:
    entries = read_table(child(root, *chestxray14.ENTRY_TABLES), ["Image Index"])
    path = child(root, *chestxray14.BOX_TABLES)
    boxes = read_table(path, ["Image Index"]) if path.is_file() else entries.head(0)
    return {
        "images": len(entries),
        "test images": len(read_lines(child(root, chestxray14.TEST_LIST))),
        "boxes": len(boxes),
        "boxed images": boxes["Image Index"].nunique(),
    }


def _chexpert(root: Path) -> dict[str, int]:
    home = chexpert.find_home(root)
    return {
        "training images": len(read_table(child(home, "train.csv"), ["Path"])),
        "validation images": len(read_table(child(home, "valid.csv"), ["Path"])),
    }


def _covidx(root: Path) -> dict[str, int]:
    return {
        "training images": len(read_lines(child(root, "train.txt"))),
        "test images": len(read_lines(child(root, "test.txt"))),
    }


def _rsna(root: Path) -> dict[str, int]:
    table = read_table(child(root, rsna.LABEL_TABLE), ["patientId", "Target"])
    boxed = table[table["Target"] == 1]
    return {
        "rows": len(table),
        "images": table["patientId"].nunique(),
        "positive images": boxed["patientId"].nunique(),
        "boxes": len(boxed),
    }


def _siim(root: Path) -> dict[str, int]:
    columns = ["ImageId", "EncodedPixels"]
    table = read_table(child(root, *siim.RUN_TABLES), columns, dtype="str")
    images = table["ImageId"].value_counts()
    positive = table["EncodedPixels"].str.strip() != NO_RUNS
    return {
        "rows": len(table),
        "images": len(images),
        "positive images": table.loc[positive, "ImageId"].nunique(),
        "images with several rows": int((images > 1).sum()),
    }


def _covid_rural(root: Path) -> dict[str, int]:
    home = covid_rural.find_home(root)
    return {
        "films": len(find_files([home / covid_rural.IMAGE_FOLDER], (".jpg",))),
        "outlined films": len(find_files([home / covid_rural.OUTLINE_FOLDER], (".json",))),
        "masks": len(find_files([home / covid_rural.MASK_FOLDER], (".png",))),
    }


def _mimic_cxr(root: Path) -> dict[str, int]:
    table = read_table(child(root, mimic_cxr.SPLIT_TABLE), ["dicom_id"])
    return {"images": len(table), "reports": sum(1 for _ in root.glob("files/p*/p*/s*.txt"))}


def _openi(root: Path) -> dict[str, int]:
    return {"images": len(find_files([child(root, openi_films.IMAGE_FOLDER)], (".png",)))}


_COUNTERS: dict[str, Callable[[Path], dict[str, int]]] = {
    "chestxray14": _chestxray14,
    "chexpert": _chexpert,
    "covidx": _covidx,
    "rsna": _rsna,
    "siim": _siim,
    "covid-rural": _covid_rural,
    "mimic-cxr": _mimic_cxr,
    "openi": _openi,
}
