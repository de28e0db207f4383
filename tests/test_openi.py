"""Open-I: reports and their codes by hand; views and labels of films against torchxrayvision's."""

import io
import tarfile

import numpy as np
import pandas as pd
import pytest
import torchxrayvision as xrv
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_world import refused, table_of_cases

from rctpl_utils.datasets import open_dataset
from rctpl_utils.datasets.official import count
from rctpl_utils.datasets.openi import (
    OpenIReport,
    mesh_findings,
    openi_archive,
    parse_openi,
    read_openi,
)
from rctpl_utils.datasets.openi_films import CONCEPTS, read_labels, read_views
from rctpl_utils.errors import InputError
from rctpl_utils.vocabulary import CONCEPTS as VOCABULARY

XML = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="CXR{number}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText>
<AbstractText Label="INDICATION">Cough</AbstractText>
<AbstractText Label="FINDINGS">Opacity in the   left base.</AbstractText>
<AbstractText Label="IMPRESSION"/></Abstract></Article></MedlineCitation>
<MeSH><major>Opacity/lung/base/left/mild</major><automatic>opacity</automatic></MeSH>
</eCitation>"""


def archive_of(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_a_report_is_read_whole():
    texts = {"findings": "Opacity in the left base.", "impression": "", "indication": "Cough"}
    parsed = OpenIReport("CXR7", **texts, comparison="None.", mesh=("Opacity/lung/base/left/mild",))
    assert parse_openi(XML.format(number=7).encode(), "7.xml") == parsed


def test_an_archive_is_read_in_numeric_order_and_not_unpacked_or_refused(tmp_path):
    texts = {f"../../{n}.xml": XML.format(number=n).encode() for n in (10, 9, 1)}
    archive, whole = archive_of(tmp_path / "r.tgz", texts), texts["../../1.xml"]
    assert [r.uid for r in read_openi(archive)] == ["CXR1", "CXR9", "CXR10"]
    assert [p.name for p in tmp_path.rglob("*")] == ["r.tgz"]
    with pytest.raises(InputError, match=r"ecgen/1\.xml"):
        read_openi(archive_of(archive, {"ecgen/1.xml": whole[:300]}))
    with pytest.raises(InputError, match="no Open-I report"):
        read_openi(archive_of(archive, {"1.txt": whole}))
    archive_of(archive, {"1.xml": whole + bytes(range(256)) * 400})
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(InputError, match="damaged"):
        read_openi(archive)


BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><eCitation><uId id="CXR1"/>&a;</eCitation>'
NAMELESS = b'<eCitation><uId id=""/></eCitation>'


@pytest.mark.parametrize("xml", [BOMB, b"<eCitation/>", NAMELESS, b""])
def test_an_entity_bomb_and_a_report_without_identifier_are_refused(xml):
    with pytest.raises(InputError, match=r"x\.xml"):
        parse_openi(xml, "x.xml")


@given(st.binary(max_size=200))
def test_any_bytes_give_a_report_or_an_input_error(data):
    try:
        parsed = parse_openi(data, "any.xml")
    except InputError as error:
        assert "any.xml" in str(error)
    else:
        assert parsed.uid


def test_codes_become_findings():
    expected: dict[str, list] = {}
    for code, *finding in table_of_cases("mesh_codes"):
        found = [tuple(cell or None for cell in finding)] if any(finding) else []
        expected[code] = expected.get(code, []) + found
    for code in expected:
        found = mesh_findings(OpenIReport("CXR1", "", "", "", "", (code,)))
        assert [(f.concept, f.side, f.zone, f.severity) for f in found] == expected[code]
        assert all(f.code == code for f in found)


# --- films


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
    lateral = ["LL", "LATERAL", "RL"]
    header = xrv.datasets.Openi_Dataset(views=["PA", "AP", *lateral], **options).csv
    tsne = xrv.datasets.Openi_Dataset(views=["PA"], use_tsne_derived_view=True, **options).csv
    sideways = header["View Position"].isin(lateral)
    both = set(header["imageid"][~sideways]) & set(tsne["imageid"])
    assert len(both) == 2_140 and ours[sorted(both)].all()  # 1,994 PA and 146 AP in the headers
    assert sideways.sum() > 800 and not ours[header["imageid"][sideways]].any()


def test_labels_are_the_human_codes():
    labels, found = read_labels(), read_openi(openi_archive())
    reports = {report.uid: report for report in found}
    assert len(found) == len(reports) == 3955  # as published (Demner-Fushman et al. 2016)
    assert all(report.mesh for report in found)
    assert len(labels) == 3_955 and tuple(labels.columns) == CONCEPTS
    assert set(VOCABULARY) - set(CONCEPTS) == {"COVID-19"}
    normal = [uid for uid, report in reports.items() if report.mesh == ("normal",)]
    assert len(normal) > 1_000 and (labels.loc[normal] == 0).all(axis=None)
    unknown = [uid for uid, report in reports.items() if "No Indexing" in report.mesh]
    assert unknown and labels.loc[unknown].isna().all(axis=None)
    assert labels.isna().any(axis=1).sum() == len(unknown)
    enlarged = [u for u, r in reports.items() if any(c.startswith("Cardiomegaly") for c in r.mesh)]
    names = ["Cardiomegaly", "Enlarged Cardiomediastinum"]  # and its parent
    assert len(enlarged) == 375 and (labels.loc[enlarged, names] == 1).all(axis=None)


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
