"""What notebook 00 shows: versions, data, sources, and a contact sheet of simulated radiographs."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from IPython.display import Image
from PIL import Image as Picture

import rctpl_utils
from rctpl_utils.datasets import DATASETS
from rctpl_utils.datasets.availability import absent
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.errors import InputError
from rctpl_utils.files import atomic_path
from rctpl_utils.reporting.skipped import FILMS, Omission, omissions, write_skipped
from rctpl_utils.simulation.anatomy import Anatomy, load_anatomy
from rctpl_utils.simulation.cases import Case, Lesion
from rctpl_utils.simulation.manifest import SPLITS, concept_table, manifest_table
from rctpl_utils.simulation.radiograph import PAINTERS, render
from rctpl_utils.simulation.world import build_world
from rctpl_utils.workspace import Workspace

_HEAD, _STRIP, _STRIPS = 34, 18, 3  # pixels: title, caption above a strip; strips in a row
_SHEET_STYLES = ("mimic-cxr", "chestxray14", "chexpert", "covidx", "rsna", "siim")
_RED, _INK = (60, 60, 255), (40, 40, 40)


def contact_sheet(
    anatomy: Anatomy,
    path: Path,
    *,
    size: int = 128,
    severities: tuple[float, ...] = (0.1, 0.35, 0.6, 0.85, 1.0),
    concepts: tuple[str, ...] = tuple(PAINTERS),
) -> Path:
    """Draw each concept from subtle to gross, its mask outlined, and save a PNG.

    Args:
        anatomy: `load_anatomy`'s.
        path: where the PNG goes.
        size: side of a film in pixels.
        severities: one film each, from left to right.
        concepts: one strip of films each.
    """
    strips, listed = [], ", ".join(f"{s:g}" for s in severities)
    for k, concept in enumerate(concepts):
        films = [
            _film(anatomy, concept, s, size, 11 + 100 * k + n) for n, s in enumerate(severities)
        ]
        strips.append(_captioned(np.hstack(films), f"{concept}, severity {listed}"))
    while len(strips) % _STRIPS:
        strips.append(np.full_like(strips[0], 255))
    rows = [np.hstack(strips[k : k + _STRIPS]) for k in range(0, len(strips), _STRIPS)]
    title = np.full((_HEAD, rows[0].shape[1], 3), 255, np.uint8)
    text = "Simulated radiographs (real CT anatomy, drawn pathology; red: exact lesion masks)"
    cv2.putText(title, text, (6, 23), cv2.FONT_HERSHEY_SIMPLEX, 0.6, _INK, 1, cv2.LINE_AA)
    sheet = Picture.fromarray(np.vstack([title, *rows])[..., ::-1])  # OpenCV's order is BGR
    with atomic_path(path) as temporary:  # a palette: a third of the size, to the eye the same
        sheet.quantize(128, dither=Picture.Dither.NONE).save(temporary, optimize=True)
    return Path(path)


def _film(anatomy: Anatomy, concept: str, severity: float, size: int, seed: int) -> np.ndarray:
    """One film in color with its mask's outline, (size, size, 3) uint8, BGR."""
    case = Case(str(seed), "sheet", (Lesion(concept, None, None, severity),), "test",
                _SHEET_STYLES[seed % len(_SHEET_STYLES)], seed)  # fmt: skip
    film = render(case, anatomy, size)
    image = cv2.cvtColor(np.uint8(film.pixels * 255), cv2.COLOR_GRAY2BGR)
    mask = film.masks[concept].astype(np.uint8)
    borders, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, borders, -1, _RED, 1)
    return image


def _captioned(strip: np.ndarray, text: str) -> np.ndarray:
    caption = np.full((_STRIP, strip.shape[1], 3), 255, np.uint8)
    cv2.putText(caption, text, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, _INK, 1, cv2.LINE_AA)
    framed = np.vstack([caption, strip])
    return cv2.copyMakeBorder(framed, 0, 2, 0, 6, cv2.BORDER_CONSTANT, value=(255, 255, 255))


Manifest = Mapping[str, Any]
PACKAGES = (
    "torch", "transformers", "spacy", "negspacy", "numpy", "pandas", "scikit-learn",
    "opencv-python-headless", "torchxrayvision",
)  # fmt: skip
_REAL = "The data are real: nothing was simulated."


def versions() -> pd.DataFrame:
    """The versions that the numbers depend on, one row each."""
    rows = [("rctpl_utils", rctpl_utils.__version__), ("Python", platform.python_version())]
    rows += [(name, version(name)) for name in PACKAGES]
    return pd.DataFrame(rows, columns=["what", "version"]).set_index("what")


def lay_out_data(workspace: Workspace) -> Manifest | None:
    """Build the embedded world where the profile has one; None for real data."""
    return build_world(workspace) if workspace.profile.simulated else None


def dataset_table(workspace: Workspace, manifest: Manifest | None) -> pd.DataFrame:
    """Images and patients a data set and split; for real data, what was found and what was not."""
    if manifest is not None:
        return _marked(manifest_table(manifest).set_index(["dataset", "split"]))
    rows, skipped = [], []
    for name, (_, splits, _) in DATASETS.items():
        for split in splits:
            rows.append(_found(workspace, name, split, skipped))
    write_skipped(workspace, FILMS, skipped)
    columns = ["dataset", "split", "images", "patients", "left out", "note"]
    return pd.DataFrame(rows, columns=columns).set_index(["dataset", "split"])


def finding_table(manifest: Manifest | None) -> pd.DataFrame | str:
    """Test images that show each finding, one column a data set."""
    return _REAL if manifest is None else _marked(concept_table(manifest))


def report_table(manifest: Manifest | None) -> pd.DataFrame | str:
    """Real and templated reports a split."""
    if manifest is None:
        return _REAL
    return pd.DataFrame(manifest["datasets"]["mimic-cxr"]["reports"]).T.loc[list(SPLITS)]


def source_table(manifest: Manifest | None) -> pd.DataFrame | str:
    """The sources with their licences."""
    if manifest is None:
        return _REAL
    columns = ["name", "version", "licence", "url"]
    return pd.DataFrame(manifest["sources"])[columns].set_index("name")


def draw_world_sheet(workspace: Workspace) -> Image | str:
    """Draw `world.png`, each finding from subtle to gross with its mask outlined."""
    if workspace.profile.world is None:
        return _REAL
    anatomy = load_anatomy(workspace.cache)
    size = workspace.profile.world.image_size
    path = contact_sheet(anatomy, workspace.figures / "world.png", size=size)
    return Image(filename=str(path))


def _marked(table: pd.DataFrame) -> pd.DataFrame:
    """Say on the table itself what its images are."""
    return table.rename_axis(columns="simulated radiographs")


def _found(
    workspace: Workspace, name: str, split: str, skipped: list[Omission]
) -> tuple[str, str, int, int, int, str]:
    """One line of the table; what was left out of the split is added to `skipped`."""
    if absent(workspace, [name]):
        return name, split, 0, 0, 0, "not found"
    try:
        dataset = open_split(workspace, name, split)
    except InputError as error:
        return name, split, 0, 0, 0, str(error).replace(f"{workspace.data_root}", "DATA_ROOT")
    own = omissions(dataset)
    skipped += own
    note = "; ".join(f"{reason}: {count:,}" for reason, count in dataset.left_out.items())
    records, count = dataset.records, sum(each.count for each in own)
    return name, split, len(records), records["patient_id"].nunique(), count, note
