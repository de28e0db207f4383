"""A small data root in the official layouts, with some data sets absent, and weights for it."""

from pathlib import Path

import pandas as pd
import torch
from released import medclip_shapes, random_state, write_base_model
from tiny_world import FIVE, case, chexpert_path, film, hashed, write, write_mimic_tables

from rctpl_utils.simulation.layouts import write_image
from rctpl_utils.vocabulary import CHEXPERT_CONCEPTS

SENTENCES = {
    "Atelectasis": "There is atelectasis at the left lung base.",
    "Cardiomegaly": "There is cardiomegaly.",
    "Consolidation": "There is consolidation in the right lower lobe.",
    "Edema": "There is mild pulmonary edema.",
    "Pleural Effusion": "There is a small left pleural effusion.",
    "Pneumothorax": "There is a right apical pneumothorax.",
}
SPLITS = ("train",) * 6 + ("validate", "test")
FILMS = [("COVID-19",), ("Pneumonia",), ()]
CASES = {
    "chexpert": [
        *(
            case(chexpert_path("train", number), f"patient{number}", (name,), split)
            for k, split in enumerate(("test", "test", "validation", "validation"))
            for number, name in enumerate(FIVE, start=70000 + 10 * k)
        ),
        *(
            case(chexpert_path("valid", 80000 + k), f"patient{80000 + k}", FIVE[k % 5 :], "test", k)
            for k in range(10)
        ),
    ],
    "covidx": [
        case(f"c-{split}-{k}.png", f"c-{split}-{k}", FILMS[k % 3], split, k)
        for split in ("test", "validation")
        for k in range(12)
    ],
    "rsna": hashed("rsna-", ("Pneumonia",), 30),
    "siim": hashed("1.2.826.0.1.3680043.8.498.", ("Pneumothorax",), 30),
    "covid-rural": hashed("SIM-COVID-", ("COVID-19",), 30),
}


def write_root(data_root: Path, names: tuple[str, ...], studies: int = 48) -> Path:
    """Write MIMIC-CXR and the named data sets; return the data root."""
    for name in names:
        write(name, data_root, CASES)
    write_mimic(data_root / "mimic-cxr", studies)
    return data_root


def write_mimic(root: Path, studies: int) -> None:
    """Studies of two findings each, one film and one report a study, one study a patient."""
    rows, labels, concepts = [], [], list(SENTENCES)
    for k in range(studies):
        patient, study, image = f"{10000000 + k}", f"{50000000 + k}", f"d{k}"
        shown = concepts[k % 6], concepts[(k + 1 + k // 6) % 6]
        text = " ".join(SENTENCES[concept] for concept in dict.fromkeys(shown))
        folder = root / "files" / f"p{patient[:2]}" / f"p{patient}"
        folder.mkdir(parents=True)
        report = f"FINAL REPORT\n\nFINDINGS: {text}\n\nIMPRESSION: No fracture.\n"
        (folder / f"s{study}.txt").write_text(report, encoding="utf-8")
        one = case(image, f"p{patient}", shown, "train", k)
        write_image(folder / f"s{study}" / f"{image}.jpg", film(one).pixels)
        rows.append((image, study, patient, SPLITS[k % len(SPLITS)], "PA"))
        marks = {concept: float(concept in shown) for concept in CHEXPERT_CONCEPTS}
        labels.append({"subject_id": patient, "study_id": study, **marks})
    columns = ["dicom_id", "study_id", "subject_id", "split", "ViewPosition"]
    films = pd.DataFrame(rows, columns=columns)
    split, metadata = films.drop(columns="ViewPosition"), films.drop(columns="split")
    write_mimic_tables(root, split, metadata, pd.DataFrame(labels))


def write_checkpoint(folder: Path) -> Path:
    """MedCLIP with ResNet-50 as released, random weights, a text model of two small layers."""
    write_base_model(folder / "bioclinicalbert", 2, 64)
    torch.save(random_state(medclip_shapes("resnet50", 2, 64), 0), folder / "pytorch_model.bin")
    return folder
