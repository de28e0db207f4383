"""DICOM from stored values to gray, against values computed by hand from PS3.3, C.7 and C.11."""

import subprocess
import sys
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
from dicom_films import CASES, EXPECTED, as_described, encapsulated, film, lut, packed, save, stream
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame

from rctpl_utils.datasets import dicom as reader
from rctpl_utils.datasets.images import film_notes, image_size, read_image
from rctpl_utils.errors import InputError

STEPS = np.array([[0, 1, 2, 3]])
OF = gdcm.TransferSyntax


def reads_as(folder: Path, data: Dataset, expected: object, atol: float = 1e-6) -> Path:
    file = save(folder, data)
    np.testing.assert_allclose(read_image(file), expected, atol=atol)
    return file


def refused(folder: Path, data: Dataset, message: str) -> str:
    with pytest.raises(InputError, match=rf"film\.dcm: .*{message}") as error:
        read_image(save(folder, data))
    return str(error.value)


def named(kind: str) -> dict:
    return {"argvalues": CASES[kind], "ids": [case["film"] for case in CASES[kind]]}


@pytest.mark.parametrize("inverted", [False, True], ids=["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("case", **named("read"))
def test_stored_values_become_gray(tmp_path, case, inverted):
    data, gray = as_described(case), np.array(case.get("gray", EXPECTED))
    if inverted:
        data.PhotometricInterpretation, gray = "MONOCHROME1", 1 - gray
        if "PresentationLUTShape" in data:
            data.PresentationLUTShape = "INVERSE"
    file = reads_as(tmp_path, data, gray, 0.0025 if "up to" in case["film"] else 3e-4)
    assert read_image(file).dtype == np.float32


@pytest.mark.parametrize("case", **named("padded"))
def test_padding_is_black_and_no_part_of_the_range(tmp_path, case):
    reads_as(tmp_path, as_described(case), case["gray"], 3e-4)


@pytest.mark.parametrize("case", **named("color"))
def test_color_becomes_luminance(tmp_path, case):
    reads_as(tmp_path, as_described(case), case["gray"])


@pytest.mark.parametrize("case", **named("refused"))
def test_what_is_refused_says_why(tmp_path, case):
    refused(tmp_path, as_described(case), case["refused"])


@pytest.mark.parametrize("name", ["IM-0001-0001", "film.dcm", "film.png", "a.b.c"])
def test_the_suffix_does_not_count(tmp_path, name):
    np.testing.assert_allclose(read_image(save(tmp_path, film(), name)), EXPECTED, atol=1e-6)
    Image.fromarray((EXPECTED * 255).round().astype(np.uint8)).save(tmp_path / name, "PNG")
    np.testing.assert_allclose(read_image(tmp_path / name), EXPECTED, atol=1e-6)


def header_end(raw: bytes) -> int:
    """Where the file's own header ends: the group length counts what follows it."""
    return 132 + 12 + int.from_bytes(raw[140:144], "little")


@pytest.mark.parametrize(
    "syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian]
)
@pytest.mark.parametrize("start", ["whole", "no preamble", "no header"])
def test_byte_orders_and_bare_files(tmp_path, syntax, start):
    data = film(VOILUTSequence=lut(np.linspace(0, 255, 4096).round(), 8))
    data.file_meta.TransferSyntaxUID = syntax
    file = save(tmp_path, data, "film")
    raw = file.read_bytes()
    file.write_bytes(raw[{"whole": 0, "no preamble": 132, "no header": header_end(raw)}[start] :])
    np.testing.assert_allclose(read_image(file), EXPECTED, atol=0.0025)
    assert image_size(file) == (2, 3)


SMOOTH = np.tile(np.linspace(0, 4095, 64).astype(np.uint16), (32, 1))
EIGHT = (SMOOTH // 16).astype(np.uint8)
BYTES = {"bits": 8, "BitsAllocated": 8}


@pytest.mark.parametrize(
    "kind", [OF.JPEGLosslessProcess14, OF.JPEGLosslessProcess14_1, OF.JPEGLSLossless]
)
@pytest.mark.parametrize("negative", [False, True])
def test_lossless_films_keep_every_value(tmp_path, kind, negative):
    stored = SMOOTH.astype(int) - 2048 * negative
    data = packed(film(stored, PixelRepresentation=int(negative)), kind)
    assert data.file_meta.TransferSyntaxUID.is_encapsulated
    reads_as(tmp_path, data, SMOOTH / 4095)


def jpeg(syntax: str) -> Dataset:
    return encapsulated(film(EIGHT, **BYTES), stream(EIGHT, "JPEG", quality=95), syntax)


def test_further_compressions(tmp_path):
    run_length = film(SMOOTH)
    run_length.compress(uid.RLELossless)
    j2k = encapsulated(film(SMOOTH), stream(SMOOTH, "JPEG2000"), uid.JPEG2000Lossless)
    for data in (run_length, j2k):
        reads_as(tmp_path, data, SMOOTH / 4095)
    for data in map(jpeg, (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit)):
        reads_as(tmp_path, data, EIGHT / 255, 3 / 255)


@pytest.mark.parametrize(
    ("kind", "rows", "columns"),
    [(kind, rows, 2048 // rows) for kind in ("JPEG", "LS", "lossless") for rows in (64, 16)]
    + [("LS", 40, 64), ("LS", 32, 60), ("JPEG", 40, 64), ("lossless", 40, 64)],
)
def test_a_header_with_another_size_is_refused(tmp_path, kind, rows, columns):
    syntax = {"LS": OF.JPEGLSLossless, "lossless": OF.JPEGLosslessProcess14}.get(kind)
    data = packed(film(SMOOTH), syntax) if syntax else jpeg(uid.JPEGBaseline8Bit)
    data.Rows, data.Columns = rows, columns
    refused(tmp_path, data, rf"damaged .*\(32, 64, 1\).*states \({rows}, {columns}, 1")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", [OF.JPEGLosslessProcess14_1, OF.JPEGLSLossless])
def test_a_stream_that_is_cut_off_is_refused(tmp_path, kind, share):
    data = packed(film(SMOOTH * 13 % 4096), kind)
    content = get_frame(data.PixelData, 0, number_of_frames=1)
    data.PixelData = encapsulate([content[: int(share * len(content))]])
    refused(tmp_path, data, "the pixel data are damaged")


@pytest.mark.parametrize(
    ("syntax", "message"),
    [
        (uid.HTJ2K, "High-Throughput JPEG 2000.*no deco.*pip install pylibjpeg pylibjpeg-openjpeg"),
        (uid.JPEGExtended12Bit, "JPEG Extended.*no decoder.*install pylibjpeg pylibjpeg-libjpeg"),
        (uid.JPEGLosslessSV1, "JPEG Lossless.*no decoder.*pip install python-gdcm"),
        (uid.MPEG2MPML, "MPEG2.*not supported.*Save it as"),
    ],
)
def test_a_missing_decoder_is_named_with_its_package(tmp_path, monkeypatch, syntax, message):
    monkeypatch.setattr(reader, "_DECODERS", ())
    said = refused(tmp_path, encapsulated(film(), b"\xff\xd8\xff\xd9", syntax), message)
    assert "Download" not in said


def test_compressed_without_a_header_is_refused(tmp_path):
    file = save(tmp_path, encapsulated(film(), b"\xff\xd8\xff\xd9", uid.JPEGBaseline8Bit))
    raw = file.read_bytes()
    file.write_bytes(raw[header_end(raw) :])
    with pytest.raises(InputError, match="compressed, and the part that names"):
        read_image(file)


COLORS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [51, 51, 51]]])


@pytest.mark.parametrize("kind", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("marked", [True, False])
def test_a_gray_film_in_a_color_jpeg(tmp_path, kind, marked):
    """Said to be RGB and without the marker that says what it is, a JPEG decodes to no gray."""
    content = stream(np.stack([EIGHT] * 3, -1), "JPEG", quality=95)
    if not marked:  # JFIF's segment comes first
        content = content[:2] + content[4 + int.from_bytes(content[4:6], "big") :]
    color = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": kind}
    data = film(np.stack([EIGHT] * 3, -1), **color, **BYTES)
    data = encapsulated(data, content, uid.JPEGBaseline8Bit)
    if kind == "RGB" and not marked:
        refused(tmp_path, data, "red alone varies")
    else:
        reads_as(tmp_path, data, EIGHT / 255, 0.02)


def test_a_palette_becomes_luminance(tmp_path):
    data = film(STEPS, PhotometricInterpretation="PALETTE COLOR", **BYTES)
    for k, name in enumerate(("Red", "Green", "Blue")):
        data.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [4, 0, 16])
        table = (COLORS[0, :, k] * 257).astype("<u2").tobytes()
        data.add_new(f"{name}PaletteColorLookupTableData", "OW", table)
    reads_as(tmp_path, data, [[0.299, 0.587, 0.114, 0.2]])


@pytest.mark.parametrize("stated", [9, 10, 11])
def test_too_few_stated_bits_do_not_wrap(tmp_path, stated):
    message = f"need more than the {stated} bits that the header"
    refused(tmp_path, film(SMOOTH, bits=stated), message)


def test_overlays_other_widths_and_files_packed_or_with_something_behind(tmp_path):
    drawn = SMOOTH.copy()
    drawn[5:9, 10:50] |= 0x8000
    reads_as(tmp_path, film(drawn), SMOOTH / 4095)
    one, wide = film(np.array([range(8)]), bits=1), film(bits=32)
    one.BitsAllocated, one.PixelData = 1, b"\xaa\0"
    reads_as(tmp_path, one, [[0, 1] * 4])
    wide.BitsAllocated, wide.PixelData = 32, (EXPECTED * 4095).round().astype("<u4").tobytes()
    reads_as(tmp_path, wide, EXPECTED)
    deflated = film()
    deflated.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    reads_as(tmp_path, deflated, EXPECTED)
    file = save(tmp_path, film())
    file.write_bytes(file.read_bytes() + bytes(500))
    np.testing.assert_allclose(read_image(file), EXPECTED, atol=1e-6)


def test_what_is_no_image_says_what_it_is(tmp_path):
    data = film(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    del data.Rows, data.PixelData
    refused(tmp_path, data, r"DICOM without an image \(Basic Text SR Storage\)")


def test_raw_detector_values_are_named(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 40))
    for given, said in (({"PresentationIntentType": "FOR PROCESSING"}, ["raw detect"]), ({}, [])):
        file = save(tmp_path, film(pixels, **given))
        assert [note[:10] for note in film_notes(file, read_image(file))] == said


TESTED = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.mark.filterwarnings("ignore")
def test_every_file_that_pydicom_brings_is_read_or_refused():
    found = {True: [], False: []}
    for file in sorted(path for path in TESTED.rglob("*") if path.is_file()):
        try:
            gray = read_image(file)
        except InputError as error:
            assert str(file) in str(error)
            found[False].append(file.name)
        else:
            assert gray.min() >= 0 and gray.max() <= 1 and gray.shape == image_size(file)
            found[True].append(file.name)
    assert len(found[True]) > 70
    images = {"GDCMJ2K_TextGBR", "JPEG2000-embedded-sequence-delimiter", "JPEG-lossy",
              "JPGExtended", "MR_truncated"}  # fmt: skip
    assert images < {Path(name).stem for name in found[False]}


def test_a_decoder_that_dies_takes_one_film_with_it(tmp_path, monkeypatch):
    """GDCM ends the whole process on some damaged JPEG Lossless streams."""
    path = tmp_path / "film.dcm"
    packed(film(SMOOTH), OF.JPEGLosslessProcess14_1).save_as(path)
    assert read_image(path).shape == SMOOTH.shape
    dies = [sys.executable, "-c", "import os; os.abort()"]
    run = subprocess.run
    monkeypatch.setattr(reader.subprocess, "run", lambda _, **options: run(dies, **options))
    with pytest.raises(InputError, match=r"film.dcm.*the decoder died \(-6\)"):
        read_image(path)
