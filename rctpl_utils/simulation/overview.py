"""What notebook 00 shows: versions, data, sources, and the contact sheet."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import pandas as pd
from IPython.display import Image

import rctpl_utils
from rctpl_utils.datasets import DATASETS
from rctpl_utils.datasets.availability import absent
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.errors import InputError
from rctpl_utils.reporting.skipped import FILMS, Omission, omissions, write_skipped
from rctpl_utils.simulation.anatomy import load_anatomy
from rctpl_utils.simulation.manifest import SPLITS, concept_table, manifest_table
from rctpl_utils.simulation.sheet import contact_sheet
from rctpl_utils.simulation.world import build_world
from rctpl_utils.workspace import Workspace

Manifest = Mapping[str, Any]
PACKAGES = (
    "torch",
    "transformers",
    "spacy",
    "negspacy",
    "numpy",
    "pandas",
    "scikit-learn",
    "opencv-python-headless",
    "torchxrayvision",
)
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
