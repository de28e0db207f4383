"""COVID Rural (Desai et al. 2020, TCIA COVID-19-AR): COVID-19 films with opacities outlined.

The annotations are those of haimingt/opacity_segmentation_covid_chest_X_ray: 221 films, of which
193 have a mask; three more JPEGs lie there without an annotation and are left out. All patients had
COVID-19; a film without an outlined opacity gets NaN, for it is not known whether it shows the
disease. torchxrayvision has no class for this data set.

Layout (in that repository below `covid_rural_annot/`): `jpgs/*.jpg`, `jpgs/jsons/*.json` (labelme,
in a frame that the file states; both lungs are outlined too and left out), `pngs_masks/*.png` (0/1;
preferred where there is one). 20 % of the patients (by a hash) are validation, the rest test; the
patient is the file name up to "_".
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rctpl_utils.datasets.base import Radiographs
from rctpl_utils.datasets.images import read_mask
from rctpl_utils.datasets.masks import polygon_mask, resize_mask
from rctpl_utils.datasets.screening import Screen
from rctpl_utils.datasets.tables import IMAGES, find_files, hash_split
from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.given_files import existing

CONCEPTS = ("COVID-19",)
FOLDERS = (".", "covid_rural_annot")
IMAGE_FOLDER, OUTLINE_FOLDER, MASK_FOLDER = "jpgs", "jpgs/jsons", "pngs_masks"


@dataclass(frozen=True)
class OutlineMasks:
    """Draws the opacities of a film, from its mask image or else from its outlines."""

    root: Path

    def drawn(self, image: str) -> bool:
        """Whether an opacity is outlined in `image`."""
        file = self._mask_file(image)
        return bool(read_mask(file).any()) if file.is_file() else bool(self._outlines(image)[0])

    def __call__(self, record: pd.Series, size: tuple[int, int]) -> np.ndarray:
        """The mask of one record: bool, `size` = (H, W) of its image."""
        file = self._mask_file(record["image_id"])
        if file.is_file():
            return resize_mask(read_mask(file), size)  # the masks may be larger than the JPEGs
        polygons, (height, width) = self._outlines(record["image_id"])
        mask = np.zeros(size, dtype=bool)
        for polygon in polygons:
            mask |= polygon_mask(polygon * [size[1] / width, size[0] / height], size)
        return mask

    def _mask_file(self, image: str) -> Path:
        return _path(self.root / MASK_FOLDER / f"{image}.png")

    def _outlines(self, image: str) -> tuple[list[np.ndarray], tuple[float, float]]:
        """The opacities' polygons and the height and width they refer to."""
        file = _path(self.root / OUTLINE_FOLDER / f"{image}.json")
        if not file.is_file():
            raise InputError("neither mask nor outline of a film", "Complete it.", file=file)
        try:
            content = read_json(file)
            frame = (float(content["imageHeight"]), float(content["imageWidth"]))
            shapes = [(str(s["label"]), np.array(s["points"], float)) for s in content["shapes"]]
        except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
            problem = f"not a labelme file ({error!r})"
            raise InputError(problem, "Download it.", file=file) from error
        polygons = [points for label, points in shapes if "lung" not in label.lower()]
        for polygon in polygons:
            _check(polygon, frame, file)
        return polygons, frame


def open_covid_rural(root: Path, split: str, **options: bool) -> Radiographs:
    """Open "validation" (20 % of the patients) or "test" (80 %).

    `root` is the data set's folder, or the clone of the annotations' repository.
    """
    screen, home = Screen(**options), find_home(root)
    records, unknown = _films(home, split)
    records = screen.present(records, home)
    reader = OutlineMasks(home)
    drawn = [screen.attempt(reader.drawn, image) for image in records["image_id"]]
    sound = np.array([each is not None for each in drawn], dtype=bool)
    records, opaque = records[sound], np.array(drawn, dtype=bool)[sound]
    records["COVID-19"] = np.where(opaque, 1.0, np.nan)
    return Radiographs(
        "covid-rural",
        split,
        CONCEPTS,
        records,
        masks={"COVID-19": reader},
        annotated={"COVID-19": opaque},
        left_out={"film without annotation": unknown},
        screen=screen,
    )


def _films(home: Path, split: str) -> tuple[pd.DataFrame, int]:
    """The annotated films of a split (path NaN where absent), and how many are not annotated."""
    films = {Path(name).stem: path for name, path in _listing(home, IMAGE_FOLDER).items()}
    folders = (OUTLINE_FOLDER, MASK_FOLDER)
    annotated = {Path(name).stem for folder in folders for name in _listing(home, folder)}
    names = [*films, *sorted(annotated - films.keys())]
    records = pd.DataFrame({"image_id": names}, dtype="str")
    records["patient_id"] = [name.split("_")[0] for name in names]
    records["path"] = records["image_id"].map(films)
    records = records[hash_split(records["patient_id"]) == split]
    known = records["image_id"].isin(annotated)
    return records[known].reset_index(drop=True), int((~known).sum())


def _path(file: Path) -> Path:
    return Path(existing(str(file)) or file)


def _listing(home: Path, folder: str) -> dict[str, str]:
    suffixes = {IMAGE_FOLDER: IMAGES, OUTLINE_FOLDER: (".json",)}
    return find_files([home / folder], suffixes.get(folder, (".png",)))


def find_home(root: Path) -> Path:
    """The folder that holds `jpgs/` with its films."""
    for name in FOLDERS:
        if _listing(root / name, IMAGE_FOLDER):
            return root / name
    raise InputError("no images", "Put the data set's jpgs/ there.", file=root / IMAGE_FOLDER)


def _check(polygon: np.ndarray, frame: tuple[float, float], file: Path) -> None:
    if polygon.ndim != 2 or polygon.shape[1] != 2 or len(polygon) < 3:
        raise InputError("an outline of fewer than three points", "Correct it.", file=file)
    slack = 1.0  # pixel: labelme lets an outline touch the border
    inside = (polygon >= -slack) & (polygon <= np.add(frame[::-1], slack))
    if not inside.all():  # false for NaN too
        raise InputError("an outline that leaves the image", "Correct it.", file=file)
