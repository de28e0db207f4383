"""The paper's data sets (4.1.2 and 4.1.3) in their official layouts, behind one small protocol."""

from collections.abc import Callable
from pathlib import Path

from rctpl_utils.datasets.base import ChestXrayDataset, Radiographs
from rctpl_utils.datasets.chestxray14 import open_chestxray14
from rctpl_utils.datasets.chexpert import open_chexpert, open_chexpert5x200
from rctpl_utils.datasets.covid_rural import open_covid_rural
from rctpl_utils.datasets.covidx import open_covidx
from rctpl_utils.datasets.mimic_cxr import open_mimic_cxr
from rctpl_utils.datasets.rsna import open_rsna
from rctpl_utils.datasets.siim import open_siim
from rctpl_utils.errors import InputError

__all__ = ["DATASETS", "ChestXrayDataset", "Radiographs", "open_dataset"]

_HELD_OUT = ("validation", "test")
# name -> (folder below the data root, splits, function that opens it)
DATASETS: dict[str, tuple[str, tuple[str, ...], Callable[..., Radiographs]]] = {
    "chestxray14": ("chestxray14", _HELD_OUT, open_chestxray14),
    "chexpert": ("chexpert", _HELD_OUT, open_chexpert),
    "chexpert5x200": ("chexpert", _HELD_OUT, open_chexpert5x200),
    "covidx": ("covidx", _HELD_OUT, open_covidx),
    "rsna": ("rsna", _HELD_OUT, open_rsna),
    "siim": ("siim", _HELD_OUT, open_siim),
    "covid-rural": ("covid-rural", _HELD_OUT, open_covid_rural),
    "mimic-cxr": ("mimic-cxr", ("train", *_HELD_OUT), open_mimic_cxr),
}


def open_dataset(
    name: str, data_root: str | Path, split: str, **options: bool | int
) -> ChestXrayDataset:
    """Open one split of one data set; tables are read and checked now, images when asked for.

    Args:
        name: a key of `DATASETS`.
        data_root: the folder that holds the data sets' folders.
        split: "validation" or "test"; "train" for mimic-cxr only.
        options: `allow_partial` (leave out, and count, images whose file is missing) and, for
            CheXpert, `per_class`.

    Raises:
        InputError: an unknown name or split, an absent folder, or bad data: with the file, the row
            where there is one, and what to do.
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
