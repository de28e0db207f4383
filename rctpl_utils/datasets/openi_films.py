"""Films of Open-I, labeled by its coders' ("major") MeSH codes, parents included.

What is not coded counts as absent, a report coded "No Indexing" as unknown; a report is a patient,
by a hash 20 % are validation, the rest test. `docs/data/openi.md` says why torchxrayvision's class
is not used, and what is frontal.
"""

from functools import cache
from pathlib import Path

import pandas as pd

from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.datasets.openi import NOT_CODED, mesh_findings, openi_archive, read_openi, xrv_file
from rctpl_utils.datasets.tables import Screen, find_files, hash_split, locate, read_table
from rctpl_utils.errors import InputError
from rctpl_utils.given_files import child
from rctpl_utils.vocabulary import CONCEPTS as VOCABULARY
from rctpl_utils.vocabulary import with_parents

IMAGE_FOLDER = "NLMCXR_png"
HEADERS, TSNE_VIEWS = "nlmcxr_dicom_metadata.csv.gz", "nlmcxr_tsne_pa.csv.gz"
CONCEPTS = tuple(concept for concept in VOCABULARY if concept != "COVID-19")


def open_openi(root: Path, split: str, **options: bool) -> ChestXrayDataset:
    """Open "validation" (20 % of the reports) or "test" (80 %), frontal films only.

    `records` also has `report` ("CXRn").
    """
    screen, folder = Screen(**options), child(root, IMAGE_FOLDER)
    if not folder.is_dir():
        raise InputError("no images", f"Put {IMAGE_FOLDER}/ there.", file=folder)
    views = read_views()
    views["patient_id"] = views["image_id"].str.split("_").str[0]
    views = views[hash_split(views["patient_id"]) == split]
    films = views.loc[views["frontal"], ["image_id", "patient_id"]].reset_index(drop=True)
    films = locate(films, find_files([folder], (".png",), screen), ".png")
    films["report"] = films["patient_id"]
    labels = read_labels().reindex(films["report"]).reset_index(drop=True)
    records = screen.present(pd.concat([films, labels], axis=1), folder)
    left_out = {"not known to be a frontal view": int((~views["frontal"]).sum())}
    return ChestXrayDataset("openi", split, CONCEPTS, records, left_out=left_out, screen=screen)


def read_views() -> pd.DataFrame:
    """Every image of the DICOM header table: image_id, and whether it is known to be frontal."""
    headers = read_table(xrv_file(HEADERS), ["imageid", "View Position"], dtype="str")
    tsne = read_table(xrv_file(TSNE_VIEWS), ["imageid", "tsne-view"], dtype="str")
    guess = headers["imageid"].map(tsne.set_index("imageid")["tsne-view"])
    said = headers["View Position"]
    frontal = (said.isin(["AP", "PA"]) | (said.isna() & (guess == "PA"))) & (guess != "L")
    return pd.DataFrame({"image_id": headers["imageid"], "frontal": frontal.astype(bool)})


@cache  # parsing takes seconds, and every split asks
def read_labels() -> pd.DataFrame:
    """One row a report, index "CXRn": 1.0, 0.0, or NaN where it was not coded."""
    reports = read_openi(openi_archive())
    rows = {}
    for report in reports:
        present = with_parents(finding.concept for finding in mesh_findings(report))
        known = NOT_CODED not in report.mesh
        rows[report.uid] = [float(c in present) if known else float("nan") for c in CONCEPTS]
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(CONCEPTS))
