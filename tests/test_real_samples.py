"""The loaders on real films in the official layouts, where samples lie beside the project.

`test_datasets.py` compares labels, boxes and pixels of the same samples with torchxrayvision's.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torchxrayvision as xrv

from rctpl_utils.datasets import open_dataset
from rctpl_utils.datasets.counts import require_complete
from rctpl_utils.errors import InputError
from rctpl_utils.run.doctor import examine

FILMS = {"chestxray14": 495, "rsna": 170, "siim": 1, "covidx": 232}


@pytest.fixture
def real(tmp_path):
    """A data root that points at the real samples."""
    parents = Path(__file__).resolve().parents
    samples = next((p / "shared" / "data" for p in parents if (p / "shared/data").is_dir()), None)
    if samples is None:
        pytest.skip("no shared/data beside the project")
    for folder in samples.glob("*-mini"):
        (tmp_path / folder.name.removesuffix("-mini")).symlink_to(folder)
    return tmp_path


def splits(name, data_root):
    """The splits that hold films, with every film decoded and every mask drawn."""
    found = []
    for split in ("validation", "test"):
        try:
            found.append(open_dataset(name, data_root, split, allow_partial=True, skip_bad=True))
        except InputError as error:
            assert "no image in its validation split" in str(error) or "train.txt" in str(error)
    return found


@pytest.mark.parametrize("name", FILMS)
def test_every_film_decodes_and_every_mask_lies_inside(real, name):
    sets = splits(name, real)
    assert sum(map(len, sets)) == FILMS[name]
    for dataset in sets:
        assert not dataset.skipped
        for concept in dataset.concepts:
            for index in np.flatnonzero(dataset.annotated(concept)):
                share = dataset.mask(index, concept).mean()
                assert 0 < share < 0.8
                assert dataset.records[concept][index] == 1 or name == "chestxray14"


def test_rsna_labels_agree_with_the_detailed_classes(real):
    table = pd.read_csv(real / "rsna" / "stage_2_detailed_class_info.csv")
    opaque = table.drop_duplicates("patientId").set_index("patientId")["class"] == "Lung Opacity"
    for dataset in splits("rsna", real):
        records = dataset.records.set_index("image_id")
        assert (records["Pneumonia"] == opaque[records.index].astype(float)).all()


def test_siim_agrees_with_torchxrayvision(real):
    """Theirs over the official table; of one row, all "-1", it would make a positive."""
    (dataset,) = splits("siim", real)
    theirs = xrv.datasets.SIIM_Pneumothorax_Dataset(str(real / "siim" / "dicom-images-train"))
    rows = theirs.csv.index[theirs.csv["ImageId"] == dataset.records["image_id"][0]]
    assert dataset.records["Pneumothorax"].tolist() == theirs.labels[rows, 0].tolist() == [0.0]
    pixels = theirs[int(rows[0])]["img"][0] / 2048 + 0.5
    np.testing.assert_allclose(dataset.pixels(0), pixels, atol=1e-6)


@pytest.mark.parametrize("name", FILMS)
def test_a_sample_is_not_taken_for_the_official_release(real, name):
    if name == "covidx":  # the sample has no training list at all
        with pytest.raises(
            InputError, match=r"train\.txt: the file is missing; there are test\.txt"
        ):
            require_complete(name, real / name)
        return
    with pytest.raises(
        InputError, match=r"not the official release: .* of .* \(--allow-partial\)\.$"
    ):
        require_complete(name, real / name)
    require_complete(name, real / name, allow_partial=True)


def test_the_doctor_sees_what_is_there(real):
    states = {finding.name: finding.state for finding in examine(real).datasets}
    assert states["rsna"] == "partial" and states["mimic-cxr"] == "absent"
    assert states["chestxray14"] != "complete" and states["siim"] != "complete"
