"""What the official releases hold, under which terms, and whether a folder holds it all.

`data/official.json` states the facts, each with its source; `docs/data/` has a card for each data
set. `open_dataset` checks that every image that a table lists is there, always; here the tables are
held to the official ones in full, for the doctor and a run on real data. The embedded world, whose
`manifest.json` states how small it is, is not held to the official numbers.
"""

from dataclasses import dataclass
from pathlib import Path

from rctpl_utils.datasets import chexpert, covid, nih, openi_films
from rctpl_utils.datasets.masks import NO_RUNS
from rctpl_utils.datasets.tables import find_files, read_lines, read_table
from rctpl_utils.errors import InputError, naming
from rctpl_utils.files import read_json
from rctpl_utils.given_files import child
from rctpl_utils.workspace import PACKAGE_DATA

MANIFEST = "manifest.json"  # of the embedded world, in its data root


@dataclass(frozen=True)
class Official:
    """A data set as its owners distribute it."""

    title: str
    counts: dict[str, int]  # what `count` finds in a complete release
    source: str  # where the counts were read
    licence: str  # terms in short, and where they were read
    apply: str  # where to get it
    tree: tuple[str, ...]  # the layout below the data set's folder


_FACTS = read_json(PACKAGE_DATA / "official.json")["data_sets"]
OFFICIAL = {name: Official(**facts) for name, facts in _FACTS.items()}


def read_world(data_root: str | Path) -> dict | None:
    """The manifest of the embedded world in a data root; None where the data are real.

    Its "size" tells how many films a class its CheXpert-5x200 has. Another JSON is an `InputError`.
    """
    path = Path(data_root) / MANIFEST
    if not path.is_file():
        return None
    cure = "Make the embedded world anew, or remove this file."
    with naming(path, "not a JSON file", cure):
        manifest = read_json(path)
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


def require_complete(name: str, root: Path, *, allow_partial: bool = False) -> None:
    """Refuse tables that are not the official ones in full: what is there, and what should be.

    With `allow_partial` only a table that cannot be read is refused.
    """
    found, official = count(name, root), OFFICIAL[name].counts
    differing = [f"{key} {found[key]:,} of {n:,}" for key, n in official.items() if found[key] != n]
    if differing and not allow_partial:
        cure = "Complete the download, or accept a partial data set (--allow-partial)."
        problem = f"not the official release: {', '.join(differing)}"
        raise InputError(problem, cure, file=root)


def count(name: str, root: Path) -> dict[str, int]:
    """What the tables of a data set in `OFFICIAL` hold, under the names of its `counts`."""
    return dict(zip(OFFICIAL[name].counts, _counted(name, root), strict=True))


def _counted(name: str, root: Path) -> tuple[int, ...]:
    """The numbers in the order of `counts` in data/official.json."""
    match name:
        case "chestxray14":
            entries = read_table(child(root, *nih.ENTRY_TABLES), ["Image Index"])
            path = child(root, *nih.BOX_TABLES)
            boxes = read_table(path, ["Image Index"]) if path.is_file() else entries.head(0)
            listed = read_lines(child(root, nih.TEST_LIST))
            return len(entries), len(listed), len(boxes), boxes["Image Index"].nunique()
        case "chexpert":
            home = chexpert.find_home(root)
            parts = (read_table(child(home, f"{part}.csv"), ["Path"]) for part in chexpert.PARTS)
            return tuple(map(len, parts))
        case "covidx":
            return tuple(len(read_lines(child(root, f"{part}.txt"))) for part in ("train", "test"))
        case "rsna":
            table = read_table(child(root, nih.RSNA_TABLE), ["patientId", "Target"])
            boxed = table[table["Target"] == 1]
            positive = boxed["patientId"].nunique()
            return len(table), table["patientId"].nunique(), positive, len(boxed)
        case "siim":
            columns = ["ImageId", "EncodedPixels"]
            table = read_table(child(root, *nih.SIIM_TABLES), columns, dtype="str")
            images = table["ImageId"].value_counts()
            positive = table.loc[table["EncodedPixels"].str.strip() != NO_RUNS, "ImageId"].nunique()
            return len(table), len(images), positive, int((images > 1).sum())
        case "covid-rural":
            home = covid.find_rural(root)
            kinds = {
                covid.FILMS: ".jpg",
                covid.OUTLINES: ".json",
                covid.MASKS: ".png",
            }
            return tuple(len(find_files([home / name], (kind,))) for name, kind in kinds.items())
        case "mimic-cxr":
            table = read_table(child(root, chexpert.SPLIT_TABLE), ["dicom_id"])
            return len(table), sum(1 for _ in root.glob("files/p*/p*/s*.txt"))
        case "openi":
            return (len(find_files([child(root, openi_films.IMAGE_FOLDER)], (".png",))),)
    raise ValueError(name)
