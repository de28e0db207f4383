"""Image files as people have them: depths, palettes, alpha, color, turned, foreign, damaged."""

import codecs
import io
import struct
import zlib
from functools import cache
from pathlib import Path

import gdcm
import numpy as np
import pytest
import tifffile
from dicom_films import encapsulated, film, lut, packed, stream
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from rctpl_utils.datasets.film_notes import film_notes
from rctpl_utils.datasets.images import image_size, read_image
from rctpl_utils.errors import InputError

RAMP = np.array([[0, 51, 102], [153, 204, 255]], dtype=np.uint8)
EXPECTED = np.array([[0, 0.2, 0.4], [0.6, 0.8, 1.0]], dtype=np.float32)


def save(tmp_path: Path, image: Image.Image, name: str = "film.png") -> Path:
    image.save(tmp_path / name)
    return tmp_path / name


WIDE = np.kron(RAMP, np.ones((8, 8), np.uint8))  # survives JPEG
DEEP = RAMP.astype(np.uint16) * 257
TWELVE = np.array([[0, 819, 1638], [2457, 3276, 4095]], dtype=np.uint16)


def png(
    bits: int, color: int, rows: list[bytes], *, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG of 3 x 2 pixels with the given stored rows and further chunks."""
    header = struct.pack(">IIBBBBB", 3, 2, bits, color, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + before + data + after + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def rows(values: np.ndarray, kind: str) -> list[bytes]:
    return [row.astype(kind).tobytes() for row in values]


RAW_PNG = {
    "2 bits": (2, 0, [b"\x18", b"\xc0"], [[0, 1 / 3, 2 / 3], [1, 0, 0]]),
    "4 bits": (4, 0, [b"\x03\x60", b"\x9c\xf0"], EXPECTED),
    "16 bits": (16, 0, rows(DEEP, ">u2"), EXPECTED),
    "16 bits and opaque alpha": (
        16, 4, rows(np.stack([DEEP, np.full_like(DEEP, 65535)], -1), ">u2"), EXPECTED,
    ),
    "16 bits of color": (16, 2, rows(np.stack([DEEP] * 3, -1), ">u2"), EXPECTED),
}  # fmt: skip


@pytest.mark.parametrize("name", RAW_PNG)
def test_png_of_each_depth(tmp_path, name):
    bits, color, stored, expected = RAW_PNG[name]
    (tmp_path / "film.png").write_bytes(png(bits, color, stored))
    np.testing.assert_allclose(read_image(tmp_path / "film.png"), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (TWELVE, EXPECTED),  # 12 bits in 16
        (RAMP.astype(np.uint16), EXPECTED),  # 8 bits in 16
        (np.array([[0, 32767]], np.uint16), [[0, 32767 / 65535]]),  # a dark film of 16 bits
        (np.array([[0, 16383]], np.uint16), [[0, 1]]),  # 14 bits in 16
        (np.array([[0, 0]], np.uint16), [[0, 0]]),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif", "pgm", "jp2"])
def test_bits_that_are_never_used_do_not_darken(tmp_path, stored, expected, suffix):
    file = save(tmp_path, Image.fromarray(stored), f"film.{suffix}")
    np.testing.assert_allclose(read_image(file), expected, atol=1e-6)


PNM = {
    "ASCII": (b"P2 3 2 255 0 51 102 153 204 255", EXPECTED),
    "white is 100": (b"P5 3 2 100 " + bytes([0, 20, 40, 60, 80, 100]), EXPECTED),
    "white is 4095": (b"P5 3 2 4095 " + TWELVE.astype(">u2").tobytes(), EXPECTED),
    "dark, white is 4095": (b"P5 2 1 4095 \0\0\1\x2c", [[0, 300 / 4095]]),
    "dark, white is 1023": (b"P2 2 1 1023 0 255", [[0, 255 / 1023]]),
    "bits": (b"P1 3 1 0 1 0", [[1, 0, 1]]),
    "color, white is 4095": (b"P3 2 1 4095 0 0 0 819 819 819", [[0, 0.2]]),
    "float": (b"Pf\n3 2\n-1.0\n" + EXPECTED[::-1].tobytes(), EXPECTED),
}  # fmt: skip


@pytest.mark.parametrize("name", PNM)
def test_a_stated_white_counts(tmp_path, name):
    (tmp_path / "film.pnm").write_bytes(PNM[name][0])
    np.testing.assert_allclose(read_image(tmp_path / "film.pnm"), PNM[name][1], atol=2e-3)


def bare_tiff(bits: int, photometric: int, data: bytes, *more: tuple) -> bytes:
    """A TIFF of 3 x 2 pixels as it stands in the file."""
    tags = [(256, 3), (257, 2), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1)]
    tags = sorted([*tags, (278, 2), (279, len(data)), *more])
    data += b"\0" * (len(data) % 2)
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(tags)) + entries + bytes(4)


BITS = [[0, 1, 0], [1, 0, 1]]
BARE_TIFF = {
    "1 bit": ((1, 1, b"\x40\xa0"), BITS),
    "1 bit, white is 0": ((1, 0, b"\xa0\x40"), BITS),
    "2 bits": ((2, 1, b"\x18\xc0"), [[0, 1 / 3, 2 / 3], [1, 0, 0]]),
    "4 bits, white is 0": ((4, 0, b"\xfc\x90\x63\0"), EXPECTED),
    "12 bits": ((12, 1, b"\0\x03\x33\x66\x60\x99\x9c\xcc\xff\xf0"), EXPECTED),
    "12 bits in 16, white is 0": ((16, 0, (4095 - TWELVE).tobytes()), EXPECTED),
    "16 bits, upside down": ((16, 1, DEEP[::-1].tobytes(), (274, 4)), EXPECTED),
    "bits in the other order": (
        (8, 1, bytes(int(f"{v:08b}"[::-1], 2) for v in RAMP.ravel()), (266, 2)), EXPECTED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BARE_TIFF)
def test_tiff_as_it_stands_in_the_file(tmp_path, name):
    arguments, expected = BARE_TIFF[name]
    (tmp_path / "film.tif").write_bytes(bare_tiff(*arguments))
    np.testing.assert_allclose(read_image(tmp_path / "film.tif"), expected, atol=1e-6)


def bmp(bits: int, data: bytes, *, height: int = 2, packed: int = 0, palette: bytes = b"") -> bytes:
    place = 54 + len(palette)
    head = b"BM" + struct.pack("<IHHI", place + len(data), 0, 0, place)
    info = (40, 3, height, 1, bits, packed, len(data), 0, 0, len(palette) // 4, 0)
    return head + struct.pack("<IiiHHIIiiII", *info) + palette + data


def four(*values: int) -> bytes:
    return b"".join(bytes([v, v, v, 0]) for v in values)


ROWS = [four(0, 51, 102), four(153, 204, 255)]
BMP = {
    "32 bits": bmp(32, ROWS[1] + ROWS[0]),
    "32 bits, from the top": bmp(32, ROWS[0] + ROWS[1], height=-2),
    "a palette": bmp(8, bytes([3, 4, 5, 0, 0, 1, 2, 0]), palette=ROWS[0] + ROWS[1]),
    "run lengths": bmp(8, bytes([1, 3, 1, 4, 1, 5, 0, 0, 1, 0, 1, 1, 1, 2, 0, 1]), packed=1,
                       palette=ROWS[0] + ROWS[1]),
}  # fmt: skip


@pytest.mark.parametrize("name", BMP)
def test_bmp(tmp_path, name):
    (tmp_path / "film.bmp").write_bytes(BMP[name])
    np.testing.assert_allclose(read_image(tmp_path / "film.bmp"), EXPECTED, atol=1e-6)


FORMATS = {  # and the modes that each can store
    "png": ["L", "RGB", "RGBA", "LA", "P"],
    "jpg": ["L", "RGB", "CMYK", "YCbCr"],
    "tif": ["L", "RGB", "RGBA", "LA", "P", "CMYK", "YCbCr"],
    "bmp": ["L", "RGB", "RGBA", "P"],
    "gif": ["L", "RGB", "RGBA", "LA", "P"],
    "webp": ["L", "RGB", "RGBA", "LA", "P", "CMYK", "YCbCr"],
    "jp2": ["L", "RGB", "RGBA", "LA", "YCbCr"],
}


@pytest.mark.parametrize(
    ("suffix", "mode"), [(suffix, mode) for suffix, modes in FORMATS.items() for mode in modes]
)
def test_every_format_and_mode(tmp_path, suffix, mode):
    options = {"jpg": {"quality": 100}, "webp": {"lossless": True}}.get(suffix, {})
    file = tmp_path / f"film.{suffix}"
    Image.fromarray(WIDE).convert(mode).save(file, **options)
    np.testing.assert_allclose(read_image(file), WIDE / 255, atol=2 / 255)


TIFF = {
    "8 bits, white is 0": (255 - RAMP, {"photometric": "miniswhite"}),
    "16 bits": (DEEP, {}),
    "16 bits, white is 0": (65535 - DEEP, {"photometric": "miniswhite"}),
    "16 bits, big-endian": (DEEP, {"byteorder": ">"}),
    "16 bits, signed": (TWELVE.astype(np.int16), {}),
    "32 bits": (TWELVE.astype(np.uint32), {}),
    "float": (EXPECTED, {}),
    "float, white is 0": (1 - EXPECTED, {"photometric": "miniswhite"}),
    "BigTIFF": (DEEP, {"bigtiff": True}),
    "deflated": (DEEP, {"compression": "zlib", "predictor": True}),
    "color in planes": (
        np.stack([RAMP] * 3), {"photometric": "rgb", "planarconfig": "separate"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TIFF)
def test_tiff(tmp_path, name):
    stored, options = TIFF[name]
    tifffile.imwrite(tmp_path / "film.tif", stored, **options)
    np.testing.assert_allclose(read_image(tmp_path / "film.tif"), EXPECTED, atol=1e-6)


@pytest.mark.parametrize(
    "stored",
    [
        RAMP.astype(np.float32),
        EXPECTED - 0.5,
        np.where(EXPECTED > 0.7, np.nan, EXPECTED),
        TWELVE.astype(np.int16) - 1024,
        TWELVE.astype(np.int32) - 1,
        np.array([[-1, 0, 100]], np.int8),
        np.array([[0, np.inf]], np.float32),
        (EXPECTED * (2**32 - 1)).astype(np.uint32),
    ],
)
def test_gray_without_a_known_white_is_refused(tmp_path, stored):
    tifffile.imwrite(tmp_path / "film.tif", stored)
    with pytest.raises(InputError, match=r"film\.tif: gray values from .*: white is not defined"):
        read_image(tmp_path / "film.tif")


def test_color_of_16_bits_of_which_few_are_used_is_refused(tmp_path):
    color, clear = np.stack([TWELVE] * 3, -1), np.full_like(TWELVE, 65535)[..., None]
    file, dim = tmp_path / "film", r"from 0 to 1[56]: white is not defined"
    stored = {2: color, 6: np.append(color, clear, -1), 4: np.append(color[..., :1], clear, -1)}
    contents = [png(16, kind, rows(each, ">u2")) for kind, each in stored.items()]
    contents.append(b"P6 3 2 65535 " + color.astype(">u2").tobytes())
    for more in ({}, {"compression": "zlib"}, {"byteorder": ">"}):
        tifffile.imwrite(file, color, photometric="rgb", **more)
        contents.append(file.read_bytes())
    for content in contents:
        file.write_bytes(content)
        with pytest.raises(InputError, match=dim):
            read_image(file)
    tifffile.imwrite(file, np.moveaxis(color, -1, 0), photometric="rgb", planarconfig="separate")
    with pytest.raises(InputError, match="color of 16 bits in planes"):
        read_image(file)


TURNED = {  # EXIF orientation -> how the upright film is stored
    1: WIDE, 2: WIDE[:, ::-1], 3: WIDE[::-1, ::-1], 4: WIDE[::-1], 5: WIDE.T,
    6: np.rot90(WIDE), 7: np.rot90(WIDE.T, 2), 8: np.rot90(WIDE, -1), 99: WIDE,
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", TURNED)
def test_films_are_read_upright(tmp_path, orientation, suffix):
    tags, file = Image.Exif(), tmp_path / f"film.{suffix}"
    tags[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(TURNED[orientation]))
    stored.save(file, exif=tags, **({"lossless": True} if suffix == "webp" else {}))
    if suffix == "tif" and orientation in (5, 6, 7, 8):
        for read in (read_image, image_size):
            with pytest.raises(InputError, match=r"a TIFF stored on its side.*upright"):
                read(file)
        return
    np.testing.assert_allclose(read_image(file), WIDE / 255, atol=0.05)
    assert image_size(file) == WIDE.shape


def test_the_orientation_may_follow_the_pixels(tmp_path):
    tags = Image.Exif()
    tags[0x0112] = 3
    turned, late = RAMP[::-1, ::-1], chunk(b"eXIf", tags.tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "film.png").write_bytes(png(8, 0, rows(turned, "u1"), after=late))
    np.testing.assert_allclose(read_image(tmp_path / "film.png"), EXPECTED, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "I;16", "RGBA", "LA"])
def test_transparency_counts_only_where_it_is_used(tmp_path, mode):
    see_through, opaque = tmp_path / "film.png", tmp_path / "opaque.png"
    if mode in ("RGBA", "LA"):
        image = Image.fromarray(RAMP).convert(mode)
        image.save(opaque)
        image.putpixel((0, 0), (9, 9, 9, 254) if mode == "RGBA" else (9, 254))
        image.save(see_through)
    elif mode == "I;16":
        for file, value in ((see_through, 0), (opaque, 7)):
            clear = chunk(b"tRNS", struct.pack(">H", value))
            file.write_bytes(png(16, 0, rows(DEEP, ">u2"), before=clear))
    else:
        image = Image.fromarray(RAMP).convert(mode)
        black, none = ((0, 0, 0), (7, 7, 7)) if mode == "RGB" else (0, 7)
        image.save(see_through, transparency=black)
        image.save(opaque, transparency=none)
    with pytest.raises(InputError, match=r"film\.png.*transparent.*grayscale"):
        read_image(see_through)
    np.testing.assert_allclose(read_image(opaque), EXPECTED, atol=1e-6)


def test_a_palette_in_any_order(tmp_path):
    image = Image.fromarray(RAMP // 51).convert("P")
    image.putpalette([v for g in (0, 51, 102, 153, 204, 255) for v in (g, g, g)])
    for suffix in ("png", "gif", "bmp", "tif"):
        file = save(tmp_path, image, f"film.{suffix}")
        np.testing.assert_allclose(read_image(file), EXPECTED, atol=1e-6)


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_several_frames_are_refused(tmp_path, suffix):
    more = {"save_all": True, "append_images": [Image.fromarray(255 - RAMP).convert("RGB")]}
    Image.fromarray(RAMP).convert("RGB").save(tmp_path / f"film.{suffix}", **more)
    with pytest.raises(InputError, match=r"film\..*several frames or pages.*holds the film"):
        read_image(tmp_path / f"film.{suffix}")


def test_the_preview_in_a_photograph_is_no_second_frame(tmp_path):
    more = {"save_all": True, "append_images": [Image.fromarray(RAMP)], "quality": 100}
    Image.fromarray(WIDE).save(tmp_path / "film.jpg", "MPO", **more)
    np.testing.assert_allclose(read_image(tmp_path / "film.jpg"), WIDE / 255, atol=0.02)


@pytest.mark.parametrize("kind", ["JPEG", "progressive", "WEBP", "lossless"])
def test_a_download_that_ends_in_zeros_is_refused(tmp_path, kind):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64)).astype(np.uint8)
    options = {"progressive": {"progressive": True}, "lossless": {"lossless": True}}.get(kind, {})
    content = stream(noise, "WEBP" if kind in ("WEBP", "lossless") else "JPEG", **options)
    half = len(content) // 2
    (tmp_path / "film").write_bytes(content[:half] + bytes(len(content) - half))
    with pytest.raises(InputError, match=r"zero bytes, a download that|truncated"):
        read_image(tmp_path / "film")
    (tmp_path / "film").write_bytes(content)
    assert read_image(tmp_path / "film").shape == noise.shape
    if "WEBP" not in kind and kind != "lossless":  # filled up behind its end
        (tmp_path / "film").write_bytes(content + bytes(500))
        assert read_image(tmp_path / "film").shape == noise.shape


FOREIGN = {
    b"<html>404 not found</html>": "not an image but a web page",
    b"\n <!DOCTYPE html><html>": "not an image but a web page",
    codecs.BOM_UTF8 + b"<?xml version='1.0'?><Error>AccessDenied": "not an image but a web page",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0": "pointer of Git LFS",
    b"%PDF-1.4": "a PDF",
    b"PK\3\4" + bytes(99): "a ZIP archive",
    b"\x1f\x8b\x08" + bytes(99): "a gzip archive",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n": "not a readable image",
    b"\0\0\0\x18ftypheic" + bytes(99): "not a readable image",
    bytes(500): "not a readable image",
    b"\x08": "not a readable image",
    bytes(128) + b"DICM": "DICOM without an image",
    b"\xff\xd8\xff\xe0\0\x10JFIF": "not a readable image",
}


@pytest.mark.parametrize("start", FOREIGN)
@pytest.mark.parametrize("name", ["film.png", "film.dcm"])
@pytest.mark.parametrize("read", [read_image, image_size])
def test_what_is_no_image_is_named(tmp_path, start, name, read):
    (tmp_path / name).write_bytes(start)
    with pytest.raises(InputError, match=rf"{name}: .*{FOREIGN[start]}"):
        read(tmp_path / name)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """A made-up film: gray values all over, up to its edges."""
    return np.random.default_rng(0).random((60, 50)).astype(np.float32)


def notes(tmp_path: Path, stored: np.ndarray) -> list[str]:
    file = save(tmp_path, Image.fromarray(np.round(stored * 255).astype(np.uint8)))
    return film_notes(file, read_image(file))


def test_of_a_film_nothing_is_said(tmp_path, pixels):
    assert notes(tmp_path, pixels) == []
    assert notes(tmp_path, np.stack([pixels] * 3, -1)) == []
    assert notes(tmp_path, np.pad(pixels, 1, constant_values=1)) == []


@pytest.mark.parametrize("border", [0, 0.5, 1])
def test_a_border_is_named(tmp_path, pixels, border):
    framed = np.pad(pixels, ((6, 4), (0, 0)), constant_values=border)
    assert notes(tmp_path, framed) == ["14% of the picture are an even border: crop it"]
    framed = np.pad(pixels, 10, constant_values=border)  # 60 x 50 of 80 x 70
    assert notes(tmp_path, framed) == ["46% of the picture are an even border: crop it"]


def test_a_photograph_and_a_poor_export_are_named(tmp_path, pixels):
    bluish = np.stack([pixels * 0.8, pixels * 0.9, pixels], -1)
    (note,) = notes(tmp_path, bluish)
    assert note.startswith("a picture in color, perhaps a photograph of a film")
    clipped, few = notes(tmp_path, pixels > 0.5)
    assert clipped.startswith("100% of the picture are pure black or white: see the window")
    assert few.startswith("only 2 gray values: see the window")


def test_a_name_that_is_too_long_is_missing(tmp_path):
    with pytest.raises(InputError, match="the image is missing"):
        read_image(tmp_path / ("film" * 100))


@pytest.mark.parametrize("read", [read_image, image_size])
def test_an_image_bomb_is_refused(tmp_path, read):
    """A small file whose header claims 100,000 x 100,000 pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    file = tmp_path / "bomb.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))
    with pytest.raises(InputError, match=r"bomb\.png: not a readable image"):
        read(file)


# --- damaged: gray values in [0, 1], or one kind of error with a name

GRAY = np.random.default_rng(0).integers(0, 256, (20, 24)).astype(np.uint8)
NOISE = GRAY.astype(np.uint16) * 16
PILLOW = {"jpg": "JPEG", "jp2": "JPEG2000", "tif": "TIFF", "pgm": "PPM"}
SUFFIXES = (*FORMATS, "pgm")
DICOM = ("plain", "tables", "signed", "rle", "jpeg", "lossless", "ls", "jp2 in dicom", "bare")


def as_image(kind: str) -> bytes:
    return stream(GRAY, PILLOW.get(kind, kind))


def as_dicom(kind: str) -> bytes:
    data = film(NOISE)
    if kind == "tables":
        data = film(NOISE, VOILUTSequence=lut(np.arange(4096) // 16, 8),
                    ModalityLUTSequence=lut(np.arange(4096), 12), PixelPaddingValue=7)  # fmt: skip
    elif kind == "signed":
        data = film(NOISE - 2048.0, PixelRepresentation=1, RescaleSlope=2, RescaleIntercept=3,
                    WindowCenter=9, WindowWidth=999, VOILUTFunction="SIGMOID")  # fmt: skip
    elif kind == "rle":
        data.compress(RLELossless, generate_instance_uid=False)
    elif kind == "jpeg":
        eight = film(GRAY, bits=8, BitsAllocated=8)
        data = encapsulated(eight, as_image("jpg"), JPEGBaseline8Bit)
    elif kind == "jp2 in dicom":
        data = encapsulated(data, stream(NOISE, "JPEG2000"), JPEG2000Lossless)
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
