"""The official on-disk layouts of the data sets, to be filled with simulated radiographs.

Images can be written by worker processes, one by one; the tables are written at the end, from the
rows that came back. The bytes depend on the cases and pixels alone.

    layout = LAYOUTS["rsna"]
    root = data_root / layout.folder
    rows = [layout.write_image(root, case, render(case, anatomy, size)) for case in cases]
    layout.write_tables(root, rows)
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rctpl_utils.datasets.mimic_cxr import mimic_image_path
from rctpl_utils.simulation import layouts_labels as labels
from rctpl_utils.simulation import layouts_masks as masks
from rctpl_utils.simulation.cases import Case
from rctpl_utils.simulation.image_files import write_jpeg
from rctpl_utils.simulation.layouts_labels import Row

if TYPE_CHECKING:
    from rctpl_utils.simulation.radiograph import Radiograph


@dataclass(frozen=True)
class Layout:
    """How one data set lies on disk.

    Attributes:
        folder: its folder below the data root.
        write_image: (root, case, radiograph) -> row; writes one image, and its mask where the
            data set keeps that beside the image.
        write_tables: (root, rows) -> None; writes the lists and tables.
    """

    folder: str
    write_image: Callable[[Path, Case, "Radiograph"], Row]
    write_tables: Callable[[Path, Iterable[Row]], None]


LAYOUTS = {
    "chestxray14": Layout("chestxray14", labels.chestxray14_image, labels.chestxray14_tables),
    "chexpert": Layout("chexpert", labels.chexpert_image, labels.chexpert_tables),
    "covidx": Layout("covidx", labels.covidx_image, labels.covidx_tables),
    "rsna": Layout("rsna", masks.rsna_image, masks.rsna_tables),
    "siim": Layout("siim", masks.siim_image, masks.siim_tables),
    "covid-rural": Layout("covid-rural", masks.covid_rural_image, masks.covid_rural_tables),
}


@dataclass(frozen=True)
class MimicImages:
    """Writes MIMIC-CXR's films; a `write_image` that knows each film's study.

    The reports and tables of that tree are written by `mimic_tree`.

    Attributes:
        studies: dicom_id -> "sNNNNNNNN", the report that the film belongs to.
    """

    studies: Mapping[str, str]

    def __call__(self, root: Path, case: Case, radiograph: "Radiograph") -> Row:
        """Write `files/pNN/<patient_id>/<study>/<image_id>.jpg`."""
        study = self.studies[case.image_id]
        subject = case.patient_id.removeprefix("p")
        path = mimic_image_path(subject, study.removeprefix("s"), case.image_id)
        write_jpeg(root / path, radiograph.pixels)
        return {"image": case.image_id, "patient": case.patient_id, "study": study, "path": path}
