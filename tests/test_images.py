"""The image files that the simulation writes: read back and conformant."""

import shutil

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rctpl_utils.datasets.images import image_size, read_image, read_mask
from rctpl_utils.simulation.layouts import to_bytes, uid_of, write_dicom, write_image

UIDS = ("1.2.3.1", "1.2.3.2", "1.2.3.3")


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31), st.booleans())
def test_written_films_are_read_back(tmp_path_factory, height, width, seed, inverted):
    folder = tmp_path_factory.mktemp("films")
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.float32) / 255
    write_image(folder / "film.png", pixels)
    write_dicom(folder / "film.dcm", pixels, UIDS, "p", inverted=inverted)
    for name in ("film.png", "film.dcm"):
        np.testing.assert_allclose(read_image(folder / name), pixels, atol=1e-6)
        assert image_size(folder / name) == (height, width)
    shutil.rmtree(folder)


def test_jpeg_is_close(tmp_path):
    smooth = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    write_image(tmp_path / "film.jpg", smooth)
    assert np.abs(read_image(tmp_path / "film.jpg") - smooth).max() < 3 / 255


def test_pixels_out_of_range_are_not_written(tmp_path):
    for bad in (np.full((2, 2), 1.01), np.full((2, 2), np.nan), np.zeros((2, 2, 3))):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            to_bytes(bad)


def test_mask_file(tmp_path):
    mask = np.random.default_rng(0).random((7, 5)) > 0.5
    write_image(tmp_path / "ours.png", mask)
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "gray.png")
    for name in ("ours.png", "gray.png"):
        assert (read_mask(tmp_path / name) == mask).all()


def test_dicom_file_is_conformant_and_says_that_it_is_simulated(tmp_path):
    write_dicom(tmp_path / "film.dcm", np.zeros((3, 3)), UIDS, "patient", inverted=False)
    raw = (tmp_path / "film.dcm").read_bytes()
    assert raw[128:132] == b"DICM"
    data = pydicom.dcmread(tmp_path / "film.dcm")
    assert data.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert data.file_meta.MediaStorageSOPInstanceUID == data.SOPInstanceUID == "1.2.3.1"
    assert "SIMULATED" in data.ImageComments
    assert len(data.PixelData) % 2 == 0
    assert not data.StudyDate and not data.PatientSex and "PatientAge" not in data
    assert all(pydicom.uid.UID(uid_of(name)).is_valid for name in ("a", "b"))
