"""Damaged image files of every kind: gray values in [0, 1], or one kind of error with a name."""

import io
from functools import cache

import gdcm
import numpy as np
import pytest
from dicom_films import encapsulated, film, lut, packed, stream
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from rctpl_utils.datasets.images import image_size, read_image
from rctpl_utils.errors import InputError

GRAY = np.random.default_rng(0).integers(0, 256, (20, 24)).astype(np.uint8)
TWELVE = GRAY.astype(np.uint16) * 16
FORMATS = {"jpg": "JPEG", "jp2": "JPEG2000", "tif": "TIFF", "pgm": "PPM"}
SUFFIXES = ("png", "jpg", "tif", "gif", "bmp", "webp", "jp2", "pgm")
DICOM = ("plain", "tables", "signed", "rle", "jpeg", "lossless", "ls", "jp2 in dicom", "bare")


def as_image(kind: str) -> bytes:
    return stream(GRAY, FORMATS.get(kind, kind))


def as_dicom(kind: str) -> bytes:
    data = film(TWELVE)
    if kind == "tables":
        data = film(TWELVE, VOILUTSequence=lut(np.arange(4096) // 16, 8),
                    ModalityLUTSequence=lut(np.arange(4096), 12), PixelPaddingValue=7)  # fmt: skip
    elif kind == "signed":
        data = film(TWELVE - 2048.0, PixelRepresentation=1, RescaleSlope=2, RescaleIntercept=3,
                    WindowCenter=9, WindowWidth=999, VOILUTFunction="SIGMOID")  # fmt: skip
    elif kind == "rle":
        data.compress(RLELossless, generate_instance_uid=False)
    elif kind == "jpeg":
        eight = film(GRAY, bits=8, BitsAllocated=8)
        data = encapsulated(eight, as_image("jpg"), JPEGBaseline8Bit)
    elif kind == "jp2 in dicom":
        data = encapsulated(data, stream(TWELVE, "JPEG2000"), JPEG2000Lossless)
    elif kind == "lossless":
        data = packed(data, gdcm.TransferSyntax.JPEGLosslessProcess14_1)
    elif kind == "ls":
        data = packed(data, gdcm.TransferSyntax.JPEGLSLossless)
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    whole = buffer.getvalue()
    return whole[132:] if kind == "bare" else whole


WHOLE = cache(lambda kind: as_dicom(kind) if kind in DICOM else as_image(kind))


@pytest.mark.parametrize("kind", [*SUFFIXES, *DICOM])
def test_the_whole_file_is_read(tmp_path, kind):
    (tmp_path / "film").write_bytes(WHOLE(kind))
    assert read_image(tmp_path / "film").shape == image_size(tmp_path / "film") == GRAY.shape


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    st.sampled_from([*SUFFIXES, *DICOM]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12),
    st.floats(0, 1),
    st.booleans(),
)
def test_damaged_bytes_give_gray_or_one_kind_of_error(tmp_path_factory, kind, flips, kept, cut):
    content = bytearray(WHOLE(kind))
    for place, value in flips:
        content[int(place * len(content))] = value
    if cut:
        del content[int(kept * len(content)) + 1 :]
    file = tmp_path_factory.getbasetemp() / "film"
    file.write_bytes(content)
    for read in (image_size, read_image):
        try:
            found = read(file)
        except InputError as error:
            assert str(file) in str(error)
        else:
            assert read is image_size or (found.min() >= 0 and found.max() <= 1)  # false for NaN
            assert read is image_size or (found.dtype == np.float32 and found.ndim == 2)
