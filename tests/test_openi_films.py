"""Open-I's films: views and labels, against torchxrayvision's tables and by hand."""

import numpy as np
import pandas as pd
import pytest
import torchxrayvision as xrv
from PIL import Image
from tiny_world import refused

from rctpl_utils.datasets import open_dataset
from rctpl_utils.datasets.counts import count
from rctpl_utils.datasets.openi import openi_archive, read_openi
from rctpl_utils.datasets.openi_films import CONCEPTS, read_labels, read_views
from rctpl_utils.vocabulary import CONCEPTS as VOCABULARY


@pytest.fixture(scope="module")
def views():
    return read_views()


@pytest.fixture
def films(tmp_path, views):
    """Twelve frontal films as PNG below a data root, and one lateral."""
    folder = tmp_path / "openi" / "NLMCXR_png"
    folder.mkdir(parents=True)
    frontal = views.loc[views["frontal"], "image_id"].head(12).tolist()
    for name in [*frontal, views.loc[~views["frontal"], "image_id"].iloc[0]]:
        Image.fromarray(np.full((5, 4), 51, np.uint8)).save(folder / f"{name}.png")
    return tmp_path, frontal


def test_views_agree_with_torchxrayvision_where_both_its_sources_do(views):
    """Header and t-SNE: films that both call frontal, or both lateral, are so here."""
    ours = views.set_index("image_id")["frontal"]
    assert len(ours) == 7_469 and not ours.index.duplicated().any()
    options = {"unique_patients": False, "imgpath": ""}
    header = xrv.datasets.Openi_Dataset(views=["PA", "AP"], **options).csv
    tsne = xrv.datasets.Openi_Dataset(views=["PA"], use_tsne_derived_view=True, **options).csv
    both = set(header["imageid"]) & set(tsne["imageid"])
    assert len(both) == 2_140 and ours[sorted(both)].all()  # 1,994 PA and 146 AP in the headers
    lateral = xrv.datasets.Openi_Dataset(views=["LL", "LATERAL", "RL"], **options).csv["imageid"]
    assert len(lateral) > 800 and not ours[lateral].any()


def test_labels_are_the_human_codes():
    labels = read_labels()
    assert len(labels) == 3_955 and tuple(labels.columns) == CONCEPTS
    assert set(VOCABULARY) - set(CONCEPTS) == {"COVID-19"}
    reports = {report.uid: report for report in read_openi(openi_archive())}
    normal = [uid for uid, report in reports.items() if report.mesh == ("normal",)]
    assert len(normal) > 1_000 and (labels.loc[normal] == 0).all(axis=None)
    unknown = [uid for uid, report in reports.items() if "No Indexing" in report.mesh]
    assert unknown and labels.loc[unknown].isna().all(axis=None)
    assert labels.isna().any(axis=1).sum() == len(unknown)
    enlarged = [u for u, r in reports.items() if any(c.startswith("Cardiomegaly") for c in r.mesh)]
    assert (labels.loc[enlarged, "Cardiomegaly"] == 1).all()
    assert len(enlarged) == 375
    assert (labels.loc[enlarged, "Enlarged Cardiomediastinum"] == 1).all()  # its parent


def test_films_open(films):
    data_root, frontal = films
    sets = [
        open_dataset("openi", data_root, split, allow_partial=True, skip_bad=True)
        for split in ("validation", "test")
    ]
    found = pd.concat([each.records for each in sets])
    assert sorted(found["image_id"]) == sorted(frontal)
    assert (found["report"] == found["image_id"].str.split("_").str[0]).all()
    assert not set(sets[0].records["patient_id"]) & set(sets[1].records["patient_id"])
    labels = read_labels().loc[found["report"]].to_numpy()
    np.testing.assert_array_equal(found[list(CONCEPTS)].to_numpy(float), labels)
    assert abs(sets[1].pixels(0).mean() - 0.2) < 1e-6
    assert sum(each.left_out["not known to be a frontal view"] for each in sets) > 2_000
    assert count("openi", data_root / "openi") == {"images": 13}


def test_missing_and_damaged_films(films, tmp_path):
    data_root, _ = films
    refused("openi", data_root, "test", r"images listed are missing: CXR")
    whole = open_dataset("openi", data_root, "test", allow_partial=True)
    file = data_root / "openi" / "NLMCXR_png" / f"{whole.records['image_id'][0]}.png"
    file.write_bytes(b"")
    dataset = open_dataset("openi", data_root, "test", allow_partial=True, skip_bad=True)
    assert len(dataset) == len(whole) - 1 and dataset.skipped[0].file == str(file)
    file.parent.rename(data_root / "openi" / "elsewhere")
    refused("openi", data_root, "test", "NLMCXR_png: no images")
