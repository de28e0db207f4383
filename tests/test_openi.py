import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rctpl_utils.datasets.openi import (
    OpenIReport,
    mesh_findings,
    openi_archive,
    parse_openi,
    read_openi,
)
from rctpl_utils.errors import InputError

XML = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="CXR{number}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText>
<AbstractText Label="INDICATION">Cough</AbstractText>
<AbstractText Label="FINDINGS">Opacity in the   left base.</AbstractText>
<AbstractText Label="IMPRESSION"/></Abstract></Article></MedlineCitation>
<MeSH><major>Opacity/lung/base/left/mild</major><automatic>opacity</automatic></MeSH>
</eCitation>"""


def report(*codes):
    return OpenIReport("CXR1", "", "", "", "", codes)


def archive_of(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_a_report_is_read_whole():
    parsed = parse_openi(XML.format(number=7).encode(), "7.xml")
    assert parsed == OpenIReport(
        uid="CXR7",
        findings="Opacity in the left base.",
        impression="",
        indication="Cough",
        comparison="None.",
        mesh=("Opacity/lung/base/left/mild",),
    )


def test_an_archive_is_read_in_numeric_order_and_not_unpacked(tmp_path):
    texts = {f"../../{n}.xml": XML.format(number=n).encode() for n in (10, 9, 1)}
    archive = archive_of(tmp_path / "r.tgz", texts)
    assert [r.uid for r in read_openi(archive)] == ["CXR1", "CXR9", "CXR10"]
    assert [p.name for p in tmp_path.rglob("*")] == ["r.tgz"]


def test_a_bad_archive_is_refused(tmp_path):
    whole = XML.format(number=1).encode()
    archive = archive_of(tmp_path / "r.tgz", {"ecgen/1.xml": whole[:300]})
    with pytest.raises(InputError, match=r"ecgen/1\.xml"):
        read_openi(archive)
    archive = archive_of(tmp_path / "r.tgz", {"1.xml": whole + bytes(range(256)) * 400})
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(InputError, match="damaged"):
        read_openi(archive)
    with pytest.raises(InputError, match="no Open-I report"):
        read_openi(archive_of(tmp_path / "r.tgz", {"1.txt": whole}))


def test_an_entity_bomb_is_refused():
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><eCitation><uId id="CXR1"/>&a;</eCitation>'
    with pytest.raises(InputError, match=r"bomb\.xml"):
        parse_openi(bomb, "bomb.xml")


@pytest.mark.parametrize("xml", [b"<eCitation/>", b'<eCitation><uId id=""/></eCitation>', b""])
def test_a_report_without_identifier_is_refused(xml):
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


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("Opacity/lung/base/left/mild", [("Lung Opacity", "left", "base", "mild")]),
        ("Pleural Effusion/bilateral/small", [("Pleural Effusion", "bilateral", None, "small")]),
        ("Pleural Effusion/right/left", [("Pleural Effusion", "bilateral", None, None)]),
        ("Cardiac Shadow/enlarged", [("Cardiomegaly", None, None, None)]),
        ("Cardiac Shadow/borderline", []),
        (
            "Hydropneumothorax/right",
            [("Pneumothorax", "right", None, None), ("Pleural Effusion", "right", None, None)],
        ),
        ("Cicatrix/lung/apex/right", [("Fibrosis", "right", "apex", None)]),
        ("Cicatrix/pleura/left", [("Pleural Other", "left", None, None)]),
        ("Density/breast", []),
        ("normal", []),
        ("Spine/degenerative", []),
    ],
)
def test_codes_become_findings(code, expected):
    found = mesh_findings(report(code))
    assert [(f.concept, f.side, f.zone, f.severity) for f in found] == expected
    assert all(f.code == code for f in found)


def test_the_real_archive_holds_the_published_number_of_reports():
    reports = read_openi(openi_archive())
    assert len(reports) == len({r.uid for r in reports}) == 3955  # Demner-Fushman et al. 2016
    assert sum(bool(r.mesh) for r in reports) == 3955
