"""The image files that the simulation writes: read back, conformant, the same every time."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rctpl_utils.datasets.images import image_size, read_image, read_mask
from rctpl_utils.errors import InputError
from rctpl_utils.simulation.image_files import write_jpeg, write_mask_png, write_png
from rctpl_utils.simulation.layouts import to_bytes, uid_of, write_dicom

UIDS = ("1.2.3.1", "1.2.3.2", "1.2.3.3")


@pytest.mark.parametrize("name", ["film.png", "film.jpg", "film.dcm"])
def test_truncated_files(tmp_path, name):
    pixels = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    file = write(tmp_path / name, pixels)
    file.write_bytes(file.read_bytes()[:-1500])
    with pytest.raises(InputError, match=rf"{name}: .*damaged|not a readable"):
        read_image(file)


def write(file: Path, pixels: np.ndarray) -> Path:
    if file.suffix == ".dcm":
        write_dicom(file, pixels, UIDS, "patient", inverted=False)
    else:
        (write_png if file.suffix == ".png" else write_jpeg)(file, pixels)
    return file


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31), st.booleans())
def test_written_films_are_read_back(tmp_path_factory, height, width, seed, inverted):
    folder = tmp_path_factory.mktemp("films")
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.float32) / 255
    write_png(folder / "film.png", pixels)
    write_dicom(folder / "film.dcm", pixels, UIDS, "p", inverted=inverted)
    for name in ("film.png", "film.dcm"):
        np.testing.assert_allclose(read_image(folder / name), pixels, atol=1e-6)
        assert image_size(folder / name) == (height, width)
    shutil.rmtree(folder)


def test_jpeg_is_close(tmp_path):
    smooth = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    write_jpeg(tmp_path / "film.jpg", smooth)
    assert np.abs(read_image(tmp_path / "film.jpg") - smooth).max() < 3 / 255


def test_pixels_out_of_range_are_not_written(tmp_path):
    for bad in (np.full((2, 2), 1.01), np.full((2, 2), np.nan), np.zeros((2, 2, 3))):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            to_bytes(bad)


def test_mask_file(tmp_path):
    mask = np.random.default_rng(0).random((7, 5)) > 0.5
    write_mask_png(tmp_path / "mask.png", mask)
    assert (read_mask(tmp_path / "mask.png") == mask).all()
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    assert (read_mask(tmp_path / "mask.png") == mask).all()


def test_dicom_file_is_conformant_and_says_that_it_is_simulated(tmp_path):
    write(tmp_path / "film.dcm", np.zeros((3, 3), np.float32))
    raw = (tmp_path / "film.dcm").read_bytes()
    assert raw[128:132] == b"DICM"
    data = pydicom.dcmread(tmp_path / "film.dcm")
    assert data.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert data.file_meta.MediaStorageSOPInstanceUID == data.SOPInstanceUID == "1.2.3.1"
    assert "SIMULATED" in data.ImageComments
    assert len(data.PixelData) % 2 == 0
    assert not data.StudyDate and not data.PatientSex and "PatientAge" not in data
    assert all(pydicom.uid.UID(uid_of(name)).is_valid for name in ("a", "b"))


def test_the_same_film_gives_the_same_bytes(tmp_path):
    pixels = np.random.default_rng(0).random((9, 9), dtype=np.float32)
    for name in ("film.png", "film.jpg", "film.dcm"):
        one, two = (write(tmp_path / k / name, pixels).read_bytes() for k in "ab")
        assert one == two
