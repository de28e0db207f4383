"""What notebook 00 shows: versions, data, sources, and a contact sheet of simulated radiographs."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Image
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import rctpl_utils
from rctpl_utils.datasets import DATASETS
from rctpl_utils.datasets.splits import absent, open_split
from rctpl_utils.errors import InputError
from rctpl_utils.files import atomic_path
from rctpl_utils.plots import COLUMN_WIDTH, MASK_COLOR, TEXT, caption
from rctpl_utils.reporting.skipped import FILMS, Omission, omissions, write_skipped
from rctpl_utils.simulation.anatomy import Anatomy, load_anatomy
from rctpl_utils.simulation.cases import SPLITS, Case, Lesion
from rctpl_utils.simulation.radiograph import PAINTERS, render
from rctpl_utils.simulation.world import build_world
from rctpl_utils.workspace import Workspace

_STRIPS = 2  # strips of films in a row
_SHEET_STYLES = ("mimic-cxr", "chestxray14", "chexpert", "covidx", "rsna", "siim")
_OUTLINE = tuple(round(255 * part) for part in to_rgb(MASK_COLOR))


def contact_sheet(
    anatomy: Anatomy,
    *,
    size: int = 128,
    severities: tuple[float, ...] = (0.1, 0.5, 1.0),
    concepts: tuple[str, ...] = tuple(PAINTERS),
) -> Figure:
    """Draw each concept from subtle to gross, each film beside its twin with the mask outlined."""
    lines = -(-len(concepts) // _STRIPS)
    height = COLUMN_WIDTH / (2 * _STRIPS * len(severities)) + 0.19
    figure, axes = plt.subplots(
        lines, _STRIPS, figsize=(COLUMN_WIDTH, lines * height + 0.6), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for axis in axes.flat:
        axis.set_axis_off()
    for k, (axis, concept) in enumerate(zip(axes.flat, concepts, strict=False)):
        pairs = [_twins(anatomy, concept, s, size, 11 + 100 * k + n)
                 for n, s in enumerate(severities)]  # fmt: skip
        axis.imshow(np.hstack(pairs))
        axis.set_title(concept, fontsize=TEXT, loc="left", pad=2)
    listed = ", ".join(f"{severity:g}" for severity in severities)
    caption(
        figure,
        "Simulated radiographs: real CT anatomy, drawn pathology. Each film stands twice, as it is "
        "and with the exact mask of the lesion outlined in blue: look whether you find it in the "
        f"left one. Severity, from left to right: {listed}.",
    )
    return figure


def _twins(anatomy: Anatomy, concept: str, severity: float, size: int, seed: int) -> np.ndarray:
    """One film, and beside it the same with its mask's outline, (size, 2 * size, 3) uint8."""
    case = Case(str(seed), "sheet", (Lesion(concept, None, None, severity),), "test",
                _SHEET_STYLES[seed % len(_SHEET_STYLES)], seed)  # fmt: skip
    film = render(case, anatomy, size)
    plain = cv2.cvtColor(np.uint8(film.pixels * 255), cv2.COLOR_GRAY2RGB)
    mask = film.masks[concept].astype(np.uint8)
    borders, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return np.hstack([plain, cv2.drawContours(plain.copy(), borders, -1, _OUTLINE, 1)])


Manifest = Mapping[str, Any]
PACKAGES = (
    "torch", "transformers", "spacy", "negspacy", "numpy", "pandas", "scikit-learn",
    "opencv-python-headless", "torchxrayvision",
)  # fmt: skip
_REAL, _SIMULATED = "The data are real: nothing was simulated.", "simulated radiographs"


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
    index = ["dataset", "split"]
    if manifest is not None:
        rows = [
            (name, split, counts["images"], counts["patients"], len(counts["concepts"]))
            for name, dataset in manifest["datasets"].items()
            for split, counts in dataset["counts"].items()
        ]
        columns = [*index, "images", "patients", "findings"]
        table = pd.DataFrame(rows, columns=columns).set_index(index)
        return table.rename_axis(columns=_SIMULATED)
    skipped: list[Omission] = []
    parts = [(name, split) for name, (_, splits, _) in DATASETS.items() for split in splits]
    rows = [_found(workspace, *part, skipped) for part in parts]
    write_skipped(workspace, FILMS, skipped)
    columns = [*index, "images", "patients", "left out", "note"]
    return pd.DataFrame(rows, columns=columns).set_index(index)


def finding_table(manifest: Manifest | None) -> pd.DataFrame | str:
    """Test images that show each finding, one column a data set, 0 where there is none."""
    if manifest is None:
        return _REAL
    counts = {
        name: dataset["counts"]["test"]["concepts"]
        for name, dataset in manifest["datasets"].items()
        if "test" in dataset["counts"]
    }
    table = pd.DataFrame(counts).fillna(0).astype(int).sort_index()
    return table.rename_axis(columns=_SIMULATED)


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
    """Draw `world.png`: each finding from subtle to gross, without and with its mask's outline."""
    if workspace.profile.world is None:
        return _REAL
    figure = contact_sheet(load_anatomy(workspace.cache), size=workspace.profile.world.image_size)
    figure.draw_without_rendering()  # as `save_figure`; this one has no PDF
    path = workspace.figures / "world.png"
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=200, metadata={"Software": None})
    plt.close(figure)
    return Image(filename=str(path))


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
