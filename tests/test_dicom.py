"""DICOM from stored values to gray, against values computed by hand from PS3.3, C.7 and C.11."""

import subprocess
import sys
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
from dicom_films import RAMP, encapsulated, film, lut, packed, save, stream
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame

from rctpl_utils.datasets import decode_apart
from rctpl_utils.datasets import dicom as reader
from rctpl_utils.datasets.film_notes import film_notes
from rctpl_utils.datasets.images import image_size, read_image
from rctpl_utils.errors import InputError

EXPECTED = np.array([[0, 0.2, 0.4], [0.6, 0.8, 1.0]])
STEPS = np.array([[0, 1, 2, 3]])
MODALITY = np.array([[0, 100, 1000, 4095]]) / 4095


def line(top: int) -> np.ndarray:
    return np.linspace(0, top, 4096).round()


def values(*row: float) -> np.ndarray:
    return np.array([row])


def rescale(slope: float, intercept: float) -> dict:
    return {"RescaleSlope": slope, "RescaleIntercept": intercept}


def window(center: object, width: object, function: str = "LINEAR") -> dict:
    return {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": function}


def modality(*entries: int, bits: int, first: int = 0) -> dict:
    return {"ModalityLUTSequence": lut([*entries], bits, first)}


def voi(*table: object, **options: bool) -> dict:
    return {"VOILUTSequence": lut(*table, **options)}


SIGNED, FULL = {"PixelRepresentation": 1}, window(2048, 4096)
INVERTED = {"PhotometricInterpretation": "MONOCHROME1"}
FIVE = [0, 51, 204, 255]
READ = {
    # rescale and modality tables
    "as stored": ({}, RAMP, EXPECTED),
    "rescale empty": (rescale(None, None), RAMP, EXPECTED),
    "slope alone": ({"RescaleSlope": 2}, RAMP, EXPECTED),
    "intercept alone": ({"RescaleIntercept": -1024}, RAMP, EXPECTED),
    "slope and empty intercept": (rescale(2, None) | window(4096, 8191), RAMP, RAMP * 2 / 8190),
    "rescaled to fractions": (rescale(1 / 4096, 0), RAMP, EXPECTED),
    "slope and intercept twice": (rescale([1, 1], [0, 0]), RAMP, EXPECTED),
    "negative slope, signed": (
        SIGNED | rescale(-1, 0), values(-2048, 0, 2047), [[1, 2047 / 4095, 0]],
    ),
    "intercept and window": (
        rescale(1, -1024) | window(0, 2048, "LINEAR_EXACT"),
        values(0, 1024, 2047), values(0, 1024, 2047) / 2048,
    ),
    "negative slope": (rescale(-1, 4095), RAMP, 1 - EXPECTED),
    "negative slope, window": (rescale(-1, 4095) | FULL, RAMP, 1 - EXPECTED),
    "modality table": (modality(0, 100, 1000, 4095, bits=12), STEPS, MODALITY),
    "falling modality table": (modality(4095, 1000, 100, 0, bits=12), STEPS, MODALITY[:, ::-1]),
    "modality table from 2 on": (modality(0, 255, bits=8, first=2), STEPS, [[0, 0, 0, 1]]),
    "modality table, 12 bits said to be 16": (
        modality(0, 819, 1638, 4095, bits=16), STEPS, [[0, 0.2, 0.4, 1]],
    ),
    "modality table and window": (
        modality(0, 100, 1000, 4095, bits=12) | window(500, 1000, "LINEAR_EXACT"),
        STEPS, [[0, 0.1, 1, 1]],
    ),
    "modality table beside a rescale": (
        modality(0, 100, 1000, 4095, bits=12) | rescale(5, 5), STEPS, MODALITY,
    ),
    "modality and VOI table": (
        modality(0, 1, 2, 3, bits=8) | voi(FIVE, 8), STEPS, [[0, 0.2, 0.8, 1]],
    ),
    "empty modality table": ({"ModalityLUTSequence": []}, RAMP, EXPECTED),
    # VOI tables
    **{
        f"VOI table of {bits} bits up to {top}": (voi(line(top), bits), RAMP, EXPECTED)
        for bits, top in [(8, 255), (10, 1023), (12, 4095), (16, 65535), (16, 4095), (8, 4095)]
    },
    "VOI table, two entries a word": (
        voi([0, 51, 102, 255], 8, packed=True), STEPS, [[0, 0.2, 0.4, 1]],
    ),
    "VOI table of 4 bits": (voi(FIVE, 4), STEPS, [[0, 0.2, 0.8, 1]]),
    "VOI table after a rescale": (rescale(1, -2) | voi(FIVE, 8, -2), STEPS, [[0, 0.2, 0.8, 1]]),
    "falling VOI table": (voi(line(4095)[::-1], 12), RAMP, 1 - EXPECTED),
    "VOI table of 14 bits": (voi(line(16383), 14), RAMP, EXPECTED),
    "VOI table of 3 entries, two a word": (
        voi([0, 51, 255, 0], 8, packed=True), values(0, 1, 2), [[0, 0.2, 1]],
    ),
    "VOI table from 100 on": (
        voi([0, 51, 255], 8, 100), values(0, 100, 101, 102, 4095), [[0, 0, 0.2, 1, 1]],
    ),
    "VOI table of 65,536 entries": (
        voi(np.arange(65536) * 16 % 65536, 16), STEPS * 1365, STEPS * 1365 * 16 / 65535,
    ),
    "VOI table before window": (voi(line(255), 8) | window(1, 1), RAMP, EXPECTED),
    "VOI table without data": ({"VOILUTSequence": [Dataset()]} | FULL, RAMP, EXPECTED),
    "the first of two VOI tables": (
        {"VOILUTSequence": lut(line(255), 8) + lut(line(0), 8)}, RAMP, EXPECTED,
    ),
    # windows
    "LINEAR": (FULL, RAMP, EXPECTED),
    "LINEAR, narrow": (  # from 150 - 0.5 - 50 to 150 - 0.5 + 50
        window(150, 101), values(0, 100, 150, 200, 4095), [[0, 0.005, 0.505, 1, 1]],
    ),
    "LINEAR_EXACT": (window(2048, 4096, "LINEAR_EXACT"), RAMP, RAMP / 4096),
    "LINEAR_EXACT narrower than 1": (
        rescale(1 / 4095, 0) | window(0.5, 0.5, "LINEAR_EXACT"),
        RAMP, np.clip(EXPECTED * 2 - 0.5, 0, 1),
    ),
    "SIGMOID": (  # 1 / (1 + exp(-4 (x - c) / w)): 1 / (1 + e^2), 1/2, 1 / (1 + e^-1)
        window(2048, 4096, "SIGMOID"), values(0, 2048, 3072), [[0.119203, 0.5, 0.731059]],
    ),
    "SIGMOID after a rescale": (
        rescale(1, -1024) | window(0, 1024, "SIGMOID"), values(0, 1024), [[0.017986, 0.5]],
    ),
    "LINEAR_EXACT of width 1": (
        window(2048, 1, "LINEAR_EXACT"), values(0, 2047, 2048, 2049), [[0, 0, 0.5, 1]],
    ),
    "window wider than the film": (
        window(4096, 8193, "LINEAR_EXACT"), RAMP, (RAMP + 0.5) / 8193,
    ),
    "function in small letters": (window(2048, 4096, "linear"), RAMP, EXPECTED),
    "function twice": (window([2048, 9], [4096, 9], ["LINEAR", "SIGMOID"]), RAMP, EXPECTED),
    "first of two windows empty": (window(["", 9], ["", 9]), RAMP, EXPECTED),
    "SIGMOID, steep": (window(2048, 1, "SIGMOID"), values(0, 2048, 4095), [[0, 0.5, 1]]),
    "the first of two windows": (window([2048, 9], [4096, 9]), RAMP, EXPECTED),
    "two centers, one width": (window([2048, 9], 4096), RAMP, EXPECTED),
    "no function": ({"WindowCenter": 2048, "WindowWidth": 4096}, RAMP, EXPECTED),
    "empty function": (window(2048, 4096, None), RAMP, EXPECTED),
    "center alone": ({"WindowCenter": 2048}, RAMP, EXPECTED),
    "width alone": ({"WindowWidth": 10}, RAMP, EXPECTED),
    "window empty": (window(None, None), RAMP, EXPECTED),
    "width 0": (window(0, 0), RAMP, EXPECTED),
    # black up to 2047.5, white above
    "width 1": (window(2048, 1), values(0, 2047, 2048, 4095), [[0, 0, 1, 1]]),
    # bits
    "signed": (SIGNED, values(-2048, 0, 2047), [[0, 2048 / 4095, 1]]),
    "signed and rescaled": (
        SIGNED | rescale(2, -1000), values(-2048, 0, 2047), [[0, 2048 / 4095, 1]],
    ),
    "signed and windowed": (
        SIGNED | window(0, 2001),
        values(-2048, -1000.5, 0, 999.5, 2047), [[0, 0, 1000.5 / 2000, 0.99975, 1]],
    ),
    "signed, VOI table from -2 on": (
        SIGNED | voi(FIVE, 8, -2), values(-9, -2, -1, 0, 1, 9), [[0, 0, 0.2, 0.8, 1, 1]],
    ),
    "signed, VOI table from -2 on, no value below 0": (
        SIGNED | voi([0, 0, 0, 51, 255], 8, -2), values(0, 1, 2), [[0, 0.2, 1]],
    ),
    "14 bits": ({"bits": 14}, values(0, 16383), [[0, 1]]),
    "signed 16 bits, 12 unsigned used": (SIGNED | {"bits": 16}, RAMP, EXPECTED),
    "signed 16 bits, 12 used": (
        SIGNED | {"bits": 16}, values(-2048, 0, 2047), [[0, 2048 / 4095, 1]],
    ),
    "16 bits, 12 used": ({"bits": 16}, RAMP, EXPECTED),
    "16 bits, 15 used": ({"bits": 16}, values(0, 32767), [[0, 32767 / 65535]]),
    "12 bits, 11 used": ({}, values(0, 2047), [[0, 2047 / 4095]]),
    "16 bits, 8 used": ({"bits": 16}, values(0, 51, 255), [[0, 0.2, 1]]),
    "8 bits, 6 used": ({"bits": 8, "BitsAllocated": 8}, values(0, 51, 63), [[0, 0.2, 63 / 255]]),
    "10 bits": ({"bits": 10}, values(0, 1023), [[0, 1]]),
    "overlay in the high bits": ({}, RAMP | 0xA000, EXPECTED),
    "overlay in the high bits, signed": (
        SIGNED, values(-2048, 0, 2047) & 0xFFF | 0x5000, [[0, 2048 / 4095, 1]],
    ),
    "one gray value": ({}, values(4095, 4095), [[1, 1]]),
    "black": (FULL, values(0, 0), [[0, 0]]),
    "shape that agrees": ({"PresentationLUTShape": "IDENTITY"}, RAMP, EXPECTED),
    "one frame": ({"NumberOfFrames": 1}, RAMP, EXPECTED),
    "no high bit": ({"HighBit": None}, RAMP, EXPECTED),
}  # fmt: skip


@pytest.mark.parametrize("inverted", [False, True], ids=["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("name", READ)
def test_stored_values_become_gray(tmp_path, name, inverted):
    attributes, stored, expected = READ[name]
    if inverted:
        shape = {"PresentationLUTShape": "INVERSE"} if "PresentationLUTShape" in attributes else {}
        attributes = attributes | INVERTED | shape
        expected = 1 - np.asarray(expected)
    gray = read_image(save(tmp_path, film(stored, **attributes)))
    assert gray.dtype == np.float32
    np.testing.assert_allclose(gray, expected, atol=0.0025 if "up to" in name else 3e-4)


@pytest.mark.parametrize(
    ("padding", "attributes", "stored", "expected"),
    [
        ((65535, None), {}, values(0, 819, 4095, 65535), [0, 0.2, 1, 0]),
        ((60000, 65535), {}, values(0, 819, 4095, 61234), [0, 0.2, 1, 0]),
        ((65535, None), INVERTED, values(0, 819, 4095, 65535), [1, 0.8, 0, 0]),
        # -2000, written as the unsigned number that it is in the pixels
        ((63536, None), SIGNED, values(-2000, 0, 819, 4095), [0, 0, 0.2, 1]),
        ((4095, None), FULL | {"bits": 12}, values(0, 819, 3276, 4095), [0, 0.2, 0.8, 0]),
        ((None, None), {}, values(0, 819, 3276, 65535), [0, 0.0125, 0.05, 1]),
        # a padding beyond the stored bits is none of their values
        ((65535, None), {"bits": 12}, values(0, 819, 4095, 65535), [0, 0.2, 1, 0]),
        ((65535, None), {"bits": 12}, values(0, 819, 3276, 4095), [0, 0.2, 0.8, 1]),
        ((63536, None), {"bits": 12}, values(0, 819, 2096, 4095), [0, 0.2, 0.511844, 1]),
        (
            (32768, None),
            SIGNED | {"bits": 12},
            values(-2048, 0, 1, 2047),
            [0, 0.500122, 0.500366, 1],
        ),
        (
            (63536, None),
            SIGNED | {"bits": 12},
            values(-2000, 0, 1, 2047),
            [0, 0.500122, 0.500366, 1],
        ),
        ((4095, 3900), {"bits": 12}, values(0, 819, 3276, 4000), [0, 0.2, 0.8, 0]),
        ((0, None), INVERTED | {"bits": 12}, values(0, 819, 3276, 4095), [0, 0.8, 0.2, 0]),
        ((65535, None), rescale(2, -5), values(0, 819, 1023, 65535), [0, 819 / 1023, 1, 0]),
        ((3, None), modality(0, 51, 255, 0, bits=8), values(0, 1, 2, 3), [0, 0.2, 1, 0]),
        (
            (65535, None),
            INVERTED | voi(np.arange(4096) // 16, 8),
            values(0, 819, 4095, 65535),
            [1, 0.8, 0, 0],
        ),
    ],
)
def test_padding_is_black_and_no_part_of_the_range(tmp_path, padding, attributes, stored, expected):
    attributes = {"bits": 16, "PixelPaddingValue": padding[0], **attributes}
    if padding[1]:
        attributes["PixelPaddingRangeLimit"] = padding[1]
    gray = read_image(save(tmp_path, film(stored, **attributes)))
    np.testing.assert_allclose(gray[0], expected, atol=3e-4)


FLAT = r"give the whole film one gray value\. Save it as"
REFUSED = {
    "slope 0": (rescale(0, 7), FLAT),
    "slopes that differ": (rescale([1, -1], 0), "RescaleSlope has several values"),
    "sigmoid of negative width": (window(9, -5, "SIGMOID"), "window cannot be applied"),
    "exact window of negative width": (window(9, -5, "LINEAR_EXACT"), "window cannot be applied"),
    "presentation in densities": ({"PresentationLUTShape": "LIN OD"}, "contradict each other"),
    "slope no number": (rescale("NaN", 0), FLAT),
    "window beside the film": (window(9000, 10), FLAT),
    "window no number": (window("NaN", 10), FLAT),
    "flat VOI table": (voi([9] * 4096, 12), FLAT),
    "flat modality table": (modality(*[9] * 4096, bits=12), FLAT),
    "short VOI table": (voi([0, 1], 16), "cannot be applied .*VOILUTSequence: 2 of 9 entries"),
    "negative width": (window(9, -5), "window cannot be applied"),
    "width below 1": (window(9, 0.5), "window cannot be applied"),
    "unknown function": (window(9, 9, "SPLINE"), "applied .*SPLINE"),
    "all padding": ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095}, "cannot be applied"),
    "high bit": ({"HighBit": 15}, "high bit 15 does not fit 12 stored bits"),
    "shapes that contradict": (
        {"PresentationLUTShape": "INVERSE"}, "MONOCHROME2 and presentation INVERSE contradict",
    ),
    "and the other way": (
        INVERTED | {"PresentationLUTShape": "IDENTITY"},
        "MONOCHROME1 and presentation IDENTITY contradict",
    ),
    "frames": ({"NumberOfFrames": 2}, "several frames .* not supported.*Export one frame"),
    "enhanced": ({"SharedFunctionalGroupsSequence": [Dataset()]}, "several frames"),
    "three samples": ({"SamplesPerPixel": 3}, "3 samples a pixel do not fit MONOCHROME2"),
    "one sample": ({"PhotometricInterpretation": "RGB"}, "1 samples a pixel do not fit RGB"),
    "no interpretation": ({"PhotometricInterpretation": None}, "interpretation '' is not"),
    "unknown interpretation": ({"PhotometricInterpretation": "HSV"}, "'HSV' is not supported"),
    "fewer pixels": ({"Rows": 3}, "the pixel data are damaged"),
    "undeclared frames": ({"Rows": 1}, "more of them than the header states"),
    "huge": ({"Rows": 60000, "Columns": 60000}, "60000 x 60000 pixels, which no film has"),
    "no rows": ({"Rows": 0}, "0 x 3 pixels, which no film has"),
    "no size": ({"Rows": None}, "not a readable DICOM image"),
    "bits": ({"BitsAllocated": 13}, "the pixel data are damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why(tmp_path, name):
    attributes, message = REFUSED[name]
    data = film(**({"BitsAllocated": 16} | attributes))
    if name == "short VOI table":
        data.VOILUTSequence[0].LUTDescriptor = [9, 0, 16]
    if name == "bits":
        data.BitsAllocated = 13
    with pytest.raises(InputError, match=rf"film\.dcm: .*{message}"):
        read_image(save(tmp_path, data))


@pytest.mark.parametrize("name", ["IM-0001-0001", "film.dcm", "film.png", "a.b.c"])
def test_the_suffix_does_not_count(tmp_path, name):
    np.testing.assert_allclose(read_image(save(tmp_path, film(), name)), EXPECTED, atol=1e-6)
    Image.fromarray((EXPECTED * 255).round().astype(np.uint8)).save(tmp_path / name, "PNG")
    np.testing.assert_allclose(read_image(tmp_path / name), EXPECTED, atol=1e-6)


@pytest.mark.parametrize(
    "syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian]
)
@pytest.mark.parametrize("start", ["whole", "no preamble", "no header"])
def test_byte_orders_and_bare_files(tmp_path, syntax, start):
    data = film(VOILUTSequence=lut(line(255), 8))
    data.file_meta.TransferSyntaxUID = syntax
    file = save(tmp_path, data, "film")
    raw = file.read_bytes()
    meta = 12 + int.from_bytes(raw[140:144], "little")  # the group length and what it counts
    file.write_bytes(raw[{"whole": 0, "no preamble": 132, "no header": 132 + meta}[start] :])
    np.testing.assert_allclose(read_image(file), EXPECTED, atol=0.0025)
    assert image_size(file) == (2, 3)


SMOOTH = np.tile(np.linspace(0, 4095, 64).astype(np.uint16), (32, 1))
EIGHT = (SMOOTH // 16).astype(np.uint8)


@pytest.mark.parametrize(
    "kind", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEGLSLossless"]
)
@pytest.mark.parametrize("negative", [False, True])
def test_lossless_films_keep_every_value(tmp_path, kind, negative):
    stored = SMOOTH.astype(int) - 2048 * negative
    data = film(stored, PixelRepresentation=int(negative))
    data = packed(data, getattr(gdcm.TransferSyntax, kind))
    assert data.file_meta.TransferSyntaxUID.is_encapsulated
    np.testing.assert_allclose(read_image(save(tmp_path, data)), SMOOTH / 4095, atol=1e-6)


def jpeg(syntax: str) -> Dataset:
    data = film(EIGHT, bits=8, BitsAllocated=8)
    return encapsulated(data, stream(EIGHT, "JPEG", quality=95), syntax)


def test_further_compressions(tmp_path):
    run_length = film(SMOOTH)
    run_length.compress(uid.RLELossless)
    j2k = encapsulated(film(SMOOTH), stream(SMOOTH, "JPEG2000"), uid.JPEG2000Lossless)
    for data in (run_length, j2k):
        np.testing.assert_allclose(read_image(save(tmp_path, data)), SMOOTH / 4095, atol=1e-6)
    for data in map(jpeg, (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit)):
        np.testing.assert_allclose(read_image(save(tmp_path, data)), EIGHT / 255, atol=3 / 255)


@pytest.mark.parametrize(
    ("kind", "rows", "columns"),
    [(kind, rows, 2048 // rows) for kind in ("JPEG", "LS", "lossless") for rows in (64, 16)]
    + [("LS", 40, 64), ("LS", 32, 60), ("JPEG", 40, 64), ("lossless", 40, 64)],
)
def test_a_header_with_another_size_is_refused(tmp_path, kind, rows, columns):
    if kind == "JPEG":
        data = jpeg(uid.JPEGBaseline8Bit)
    else:
        of = gdcm.TransferSyntax
        data = packed(film(SMOOTH), of.JPEGLSLossless if kind == "LS" else of.JPEGLosslessProcess14)
    data.Rows, data.Columns = rows, columns
    message = rf"damaged .*\(32, 64, 1\).*states \({rows}, {columns}, 1"
    with pytest.raises(InputError, match=message):
        read_image(save(tmp_path, data))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["JPEGLosslessProcess14_1", "JPEGLSLossless"])
def test_a_stream_that_is_cut_off_is_refused(tmp_path, kind, share):
    data = packed(film(SMOOTH * 13 % 4096), getattr(gdcm.TransferSyntax, kind))
    content = get_frame(data.PixelData, 0, number_of_frames=1)
    data.PixelData = encapsulate([content[: int(share * len(content))]])
    with pytest.raises(InputError, match="the pixel data are damaged"):
        read_image(save(tmp_path, data))


NO_DECODER = {
    uid.HTJ2K: r"High-Throughput JPEG 2000.*no decoder.*pip install pylibjpeg pylibjpeg-openjpeg",
    uid.JPEGExtended12Bit: r"JPEG Extended.*no decoder.*pip install pylibjpeg pylibjpeg-libjpeg",
    uid.JPEGLosslessSV1: r"JPEG Lossless.*no decoder.*pip install python-gdcm",
    uid.MPEG2MPML: r"MPEG2.*not supported.*Save it as",
}


@pytest.mark.parametrize("syntax", NO_DECODER)
def test_a_missing_decoder_is_named_with_its_package(tmp_path, monkeypatch, syntax):
    monkeypatch.setattr(reader, "_DECODERS", ())
    data = encapsulated(film(), b"\xff\xd8\xff\xd9", syntax)
    with pytest.raises(InputError, match=NO_DECODER[syntax]) as refused:
        read_image(save(tmp_path, data))
    assert "Download" not in str(refused.value)


def test_compressed_without_a_header_is_refused(tmp_path):
    data = encapsulated(film(), b"\xff\xd8\xff\xd9", uid.JPEGBaseline8Bit)
    raw = save(tmp_path, data).read_bytes()
    (tmp_path / "film.dcm").write_bytes(raw[132 + 12 + int.from_bytes(raw[140:144], "little") :])
    with pytest.raises(InputError, match="compressed, and the part that names"):
        read_image(tmp_path / "film.dcm")


COLORS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [51, 51, 51]]])
LUMINANCES = [[0.299, 0.587, 0.114, 0.2]]


@pytest.mark.parametrize(("bits", "factor"), [(8, 1), (16, 257)])
def test_color_becomes_luminance(tmp_path, bits, factor):
    color = {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    data = film(COLORS * factor, bits=bits, BitsAllocated=bits, **color)
    np.testing.assert_allclose(read_image(save(tmp_path, data)), LUMINANCES, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "planes", "pixels", "expected"),
    [
        ("RGB", 1, [255, 0, 0, 51, 0, 255, 0, 51, 0, 0, 255, 51], LUMINANCES),
        (
            "YBR_FULL",
            0,
            [0, 128, 128, 51, 128, 128, 102, 128, 128, 255, 128, 128],
            [[0, 0.2, 0.4, 1]],
        ),
        ("YBR_FULL", 1, [0, 51, 102, 255, *[128] * 8], [[0, 0.2, 0.4, 1]]),
        ("YBR_FULL_422", 0, [0, 51, 128, 128, 102, 255, 128, 128], [[0, 0.2, 0.4, 1]]),
        ("RGB", 0, [0, 128, 128, 51, 129, 128, 102, 128, 127, 255, 128, 128], None),
    ],
)
def test_color_in_planes_and_as_brightness(tmp_path, kind, planes, pixels, expected):
    color = {"PhotometricInterpretation": kind, "SamplesPerPixel": 3, "PlanarConfiguration": planes}
    data = film(COLORS, bits=8, BitsAllocated=8, **color)
    data.PixelData = bytes(pixels)
    file = save(tmp_path, data)
    if expected is None:
        with pytest.raises(InputError, match="red alone varies"):
            read_image(file)
    else:
        np.testing.assert_allclose(read_image(file), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("marked", [True, False])
def test_a_gray_film_in_a_color_jpeg(tmp_path, kind, marked):
    """Said to be RGB and without the marker that says what it is, a JPEG decodes to no gray."""
    content = stream(np.stack([EIGHT] * 3, -1), "JPEG", quality=95)
    if not marked:  # JFIF's segment comes first
        content = content[:2] + content[4 + int.from_bytes(content[4:6], "big") :]
    color = {"PhotometricInterpretation": kind, "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    data = film(np.stack([EIGHT] * 3, -1), bits=8, BitsAllocated=8, **color)
    file = save(tmp_path, encapsulated(data, content, uid.JPEGBaseline8Bit))
    if kind == "RGB" and not marked:
        with pytest.raises(InputError, match="red alone varies"):
            read_image(file)
    else:
        np.testing.assert_allclose(read_image(file), EIGHT / 255, atol=0.02)


def test_a_palette_becomes_luminance(tmp_path):
    data = film(STEPS, bits=8, BitsAllocated=8, PhotometricInterpretation="PALETTE COLOR")
    for k, name in enumerate(("Red", "Green", "Blue")):
        data.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [4, 0, 16])
        table = (COLORS[0, :, k] * 257).astype("<u2").tobytes()
        data.add_new(f"{name}PaletteColorLookupTableData", "OW", table)
    np.testing.assert_allclose(read_image(save(tmp_path, data)), LUMINANCES, atol=1e-6)


@pytest.mark.parametrize("stated", [9, 10, 11])
def test_too_few_stated_bits_do_not_wrap(tmp_path, stated):
    with pytest.raises(InputError, match=f"need more than the {stated} bits that the header"):
        read_image(save(tmp_path, film(SMOOTH, bits=stated)))


def test_an_overlay_beside_the_film_is_dropped(tmp_path):
    drawn = SMOOTH.copy()
    drawn[5:9, 10:50] |= 0x8000
    np.testing.assert_allclose(read_image(save(tmp_path, film(drawn))), SMOOTH / 4095, atol=1e-6)


@pytest.mark.parametrize("width", [32, 1])
def test_pixels_of_other_widths(tmp_path, width):
    if width == 1:
        data, expected = film(values(*range(8)), bits=1), [[0, 1] * 4]
        data.BitsAllocated, data.PixelData = 1, b"\xaa\0"
    else:
        data, expected = film(bits=32), EXPECTED
        data.BitsAllocated, data.PixelData = 32, RAMP.astype("<u4").tobytes()
    np.testing.assert_allclose(read_image(save(tmp_path, data)), expected, atol=1e-6)


def test_a_deflated_file_and_one_with_something_behind(tmp_path):
    data = film()
    data.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    np.testing.assert_allclose(read_image(save(tmp_path, data)), EXPECTED, atol=1e-6)
    file = save(tmp_path, film())
    file.write_bytes(file.read_bytes() + bytes(500))
    np.testing.assert_allclose(read_image(file), EXPECTED, atol=1e-6)


def test_what_is_no_image_says_what_it_is(tmp_path):
    data = film()
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    del data.Rows, data.PixelData
    with pytest.raises(InputError, match=r"DICOM without an image \(Basic Text SR Storage\)"):
        read_image(save(tmp_path, data))


def test_raw_detector_values_are_named(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 40))
    file = save(tmp_path, film(pixels, PresentationIntentType="FOR PROCESSING"))
    (note,) = film_notes(file, read_image(file))
    assert note.startswith("raw detector values")
    assert film_notes(save(tmp_path, film(pixels)), read_image(file)) == []


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
    packed(film(SMOOTH), gdcm.TransferSyntax.JPEGLosslessProcess14_1).save_as(path)
    assert read_image(path).shape == SMOOTH.shape
    dies = [sys.executable, "-c", "import os; os.abort()"]
    run = subprocess.run
    monkeypatch.setattr(decode_apart.subprocess, "run", lambda _, **options: run(dies, **options))
    with pytest.raises(InputError, match=r"film.dcm.*the decoder died \(-6\)"):
        read_image(path)
