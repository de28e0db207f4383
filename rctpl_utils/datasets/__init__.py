"""The paper's data sets (4.1.2 and 4.1.3) in their official layouts, behind one small protocol.

Here live the loaders, what they share (tables, images, masks, screening of bad rows), and what a
column of Table 1 asks of them. No method is known here.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.datasets.chexpert import open_chexpert, open_chexpert5x200, open_mimic_cxr
from rctpl_utils.datasets.covid import open_covid_rural, open_covidx
from rctpl_utils.datasets.nih import open_chestxray14, open_rsna, open_siim
from rctpl_utils.datasets.openi_films import open_openi
from rctpl_utils.errors import InputError

__all__ = ["DATASETS", "ChestXrayDataset", "open_dataset", "present_datasets"]

_HELD_OUT = ("validation", "test")
# name -> (folder below the data root, splits, function that opens it)
DATASETS: dict[str, tuple[str, tuple[str, ...], Callable[..., ChestXrayDataset]]] = {
    "chestxray14": ("chestxray14", _HELD_OUT, open_chestxray14),
    "chexpert": ("chexpert", _HELD_OUT, open_chexpert),
    "chexpert5x200": ("chexpert", _HELD_OUT, open_chexpert5x200),
    "covidx": ("covidx", _HELD_OUT, open_covidx),
    "rsna": ("rsna", _HELD_OUT, open_rsna),
    "siim": ("siim", _HELD_OUT, open_siim),
    "covid-rural": ("covid-rural", _HELD_OUT, open_covid_rural),
    "mimic-cxr": ("mimic-cxr", ("train", *_HELD_OUT), open_mimic_cxr),
    "openi": ("openi", _HELD_OUT, open_openi),
}


def open_dataset(
    name: str, data_root: str | Path, split: str, **options: bool | int
) -> ChestXrayDataset:
    """Open a split of a key of `DATASETS`; tables are read and checked now, images when asked for.

    Each image listed must be there; whether the lists are the official ones in full is for
    `official.require_complete`, since simulated and sample data are smaller. `allow_partial` leaves
    out, and counts, images whose file is missing; `skip_bad` leaves out, counts and lists bad rows
    and images (and decodes every image once); for CheXpert `per_class` is the size of 5x200.

    Raises:
        InputError: an unknown name or split, an absent folder; a file or column that is missing, a
            label, number or path that is none, a duplicate, a patient on both sides of the split.
    """
    if name not in DATASETS:
        known = ", ".join(DATASETS)
        raise InputError(f"there is no data set {name!r}", f"Choose one of: {known}.")
    folder, splits, opener = DATASETS[name]
    if split not in splits:
        problem = f"data set {name!r} has no split {split!r}"
        raise InputError(problem, f"Choose one of: {', '.join(splits)}.")
    root = Path(data_root) / folder
    if not root.is_dir():
        cure = f"Put {name} there in its official layout, or leave it out."
        raise InputError(f"data set {name!r} is absent", cure, file=root)
    return opener(root, split, **options)


def present_datasets(names: Iterable[str], data_root: str | Path) -> tuple[str, ...]:
    """Those of `names` (keys of `DATASETS`) whose folder is there, in their order."""
    return tuple(name for name in names if (Path(data_root) / DATASETS[name][0]).is_dir())
