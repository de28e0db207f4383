"""Image files as people have them: depths, palettes, alpha, color, turned, foreign, damaged."""

import io
import json
import struct
import zlib
from functools import cache
from pathlib import Path

import gdcm
import numpy as np
import pytest
import tifffile
from dicom_films import EXPECTED, encapsulated, film, lut, packed, stream
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless
from tiny_world import foreign_files, table_of_cases

from rctpl_utils.datasets.images import film_notes, image_size, read_image
from rctpl_utils.errors import InputError

RAMP = np.array([[0, 51, 102], [153, 204, 255]], dtype=np.uint8)  # EXPECTED, in each depth
DEEP = RAMP.astype(np.uint16) * 257
TWELVE = np.array([[0, 819, 1638], [2457, 3276, 4095]], dtype=np.uint16)
WIDE = np.kron(RAMP, np.ones((8, 8), np.uint8))  # survives JPEG
PILLOW = {"jpg": "JPEG", "jp2": "JPEG2000", "tif": "TIFF", "pgm": "PPM"}  # suffix -> its format


def save(folder: Path, content: bytes | np.ndarray | Image.Image, name: str = "film.png") -> Path:
    """A file of these bytes, or of this picture in the format of the name."""
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    else:
        image = Image.fromarray(content) if isinstance(content, np.ndarray) else content
        image.save(folder / name)
    return folder / name


def reads_as(file: Path, expected: object = EXPECTED, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(read_image(file), expected, atol=atol)


def refused(file: Path, message: str) -> None:
    with pytest.raises(InputError, match=rf"{file.name}: .*{message}"):
        read_image(file)


# --- files byte by byte


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(bits: int, color: int, data: bytes, *, before=b"", after=b"", size=(3, 2)) -> bytes:
    """A PNG of two rows as stored, with further chunks."""
    header = struct.pack(">IIBBBBB", *size, bits, color, 0, 0, 0)
    half = len(data) // 2
    data = chunk(b"IDAT", zlib.compress(b"\0" + data[:half] + b"\0" + data[half:]))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + before + data + after + chunk(b"IEND", b"")


def bare_tiff(bits: int, photometric: int, data: bytes, more: tuple = ()) -> bytes:
    """A TIFF of 3 x 2 pixels as it stands in the file."""
    tags = [(256, 3), (257, 2), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1)]
    tags = sorted([*tags, (278, 2), (279, len(data)), *map(tuple, more)])
    data += b"\0" * (len(data) % 2)
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def bmp(bits: int, data: bytes, *, height: int = 2, packed: int = 0, palette: str = "") -> bytes:
    colors = bytes.fromhex(palette)
    place = 54 + len(colors)
    head = b"BM" + struct.pack("<IHHI", place + len(data), 0, 0, place)
    info = (40, 3, height, 1, bits, packed, len(data), 0, 0, len(colors) // 4, 0)
    return head + struct.pack("<IiiHHIIiiII", *info) + colors + data


def tiff(stored: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, stored, **options)
    return buffer.getvalue()


def made(by: str, given: str, content: str, gray: str) -> tuple[bytes, object]:
    """A file of `cases/image_films.csv`, and the gray that it holds."""
    options, expected = json.loads(given or "{}"), json.loads(gray) if gray else EXPECTED
    if by == "pnm":
        return content.encode().decode("unicode_escape").encode("latin-1"), expected
    data = bytes.fromhex(content)
    if by == "tiff":
        stored = np.frombuffer(data, options.pop("kind")).reshape(options.pop("shape", (2, 3)))
        return tiff(stored, **options), expected
    return {"png": png, "bare_tiff": bare_tiff, "bmp": bmp}[by](data=data, **options), expected


READ = {name: made(*row) for name, *row in table_of_cases("image_films")}


@pytest.mark.parametrize("name", READ)
def test_what_stands_in_the_file_becomes_gray(tmp_path, name):
    reads_as(save(tmp_path, READ[name][0]), READ[name][1], atol=2e-3 if "PNM" in name else 1e-6)


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
    reads_as(save(tmp_path, stored, f"film.{suffix}"), expected)


FORMATS = {  # and the modes that each can store
    "png": ["L", "RGB", "RGBA", "LA", "P"],
    "jpg": ["L", "RGB", "CMYK", "YCbCr"],
    "tif": ["L", "RGB", "RGBA", "LA", "P", "CMYK", "YCbCr"],
    "bmp": ["L", "RGB", "RGBA", "P"],
    "gif": ["L", "RGB", "RGBA", "LA", "P"],
    "webp": ["L", "RGB", "RGBA", "LA", "P", "CMYK", "YCbCr"],
    "jp2": ["L", "RGB", "RGBA", "LA", "YCbCr"],
}
EXACT = {"jpg": {"quality": 100}, "webp": {"lossless": True}}


@pytest.mark.parametrize(
    ("suffix", "mode"), [(suffix, mode) for suffix, modes in FORMATS.items() for mode in modes]
)
def test_every_format_and_mode(tmp_path, suffix, mode):
    file = tmp_path / f"film.{suffix}"
    Image.fromarray(WIDE).convert(mode).save(file, **EXACT.get(suffix, {}))
    reads_as(file, WIDE / 255, 2 / 255)


@pytest.mark.parametrize(
    "stored",
    [
        RAMP.astype(np.float32),
        EXPECTED.astype(np.float32) - 0.5,
        np.where(EXPECTED > 0.7, np.nan, EXPECTED).astype(np.float32),
        TWELVE.astype(np.int16) - 1024,
        TWELVE.astype(np.int32) - 1,
        np.array([[-1, 0, 100]], np.int8),
        np.array([[0, np.inf]], np.float32),
        (EXPECTED * (2**32 - 1)).astype(np.uint32),
    ],
)
def test_gray_without_a_known_white_is_refused(tmp_path, stored):
    refused(save(tmp_path, tiff(stored)), "gray values from .*: white is not defined")


def test_color_of_16_bits_of_which_few_are_used_is_refused(tmp_path):
    color, clear = np.stack([TWELVE] * 3, -1), np.full_like(TWELVE, 65535)[..., None]
    stored = {2: color, 6: np.append(color, clear, -1), 4: np.append(color[..., :1], clear, -1)}
    contents = [png(16, kind, each.astype(">u2").tobytes()) for kind, each in stored.items()]
    contents.append(b"P6 3 2 65535 " + color.astype(">u2").tobytes())
    for more in ({}, {"compression": "zlib"}, {"byteorder": ">"}):
        contents.append(tiff(color, photometric="rgb", **more))
    for content in contents:
        refused(save(tmp_path, content), r"from 0 to 1[56]: white is not defined")
    planes = tiff(np.moveaxis(color, -1, 0), photometric="rgb", planarconfig="separate")
    refused(save(tmp_path, planes), "color of 16 bits in planes")


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
    reads_as(file, WIDE / 255, 0.05)
    assert image_size(file) == WIDE.shape


def test_the_orientation_may_follow_the_pixels(tmp_path):
    tags = Image.Exif()
    tags[0x0112] = 3
    turned, late = RAMP[::-1, ::-1], chunk(b"eXIf", tags.tobytes().removeprefix(b"Exif\0\0"))
    reads_as(save(tmp_path, png(8, 0, turned.tobytes(), after=late)))


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "I;16", "RGBA", "LA"])
def test_transparency_counts_only_where_it_is_used(tmp_path, mode):
    opaque, see_through = tmp_path / "opaque.png", tmp_path / "film.png"
    image = None if mode == "I;16" else Image.fromarray(RAMP).convert(mode)
    for file, value in ((opaque, 7), (see_through, 0)):  # black occurs in the film, 7 does not
        if mode == "I;16":
            clear = chunk(b"tRNS", struct.pack(">H", value))
            file.write_bytes(png(16, 0, DEEP.astype(">u2").tobytes(), before=clear))
        elif mode in ("RGBA", "LA"):
            image.save(file)
            image.putpixel((0, 0), (9, 9, 9, 254)[-len(mode) :])
        else:
            image.save(file, transparency=(value,) * 3 if mode == "RGB" else value)
    refused(see_through, "transparent.*grayscale")
    reads_as(opaque)


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tif"])
def test_a_palette_in_any_order(tmp_path, suffix):
    image = Image.fromarray(RAMP // 51).convert("P")
    image.putpalette(np.repeat(RAMP.ravel(), 3).tolist())
    reads_as(save(tmp_path, image, f"film.{suffix}"))


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_several_frames_are_refused(tmp_path, suffix):
    more = {"save_all": True, "append_images": [Image.fromarray(255 - RAMP).convert("RGB")]}
    Image.fromarray(RAMP).convert("RGB").save(tmp_path / f"film.{suffix}", **more)
    refused(tmp_path / f"film.{suffix}", "several frames or pages.*holds the film")


def test_the_preview_in_a_photograph_is_no_second_frame(tmp_path):
    more = {"save_all": True, "append_images": [Image.fromarray(RAMP)], "quality": 100}
    Image.fromarray(WIDE).save(tmp_path / "film.jpg", "MPO", **more)
    reads_as(tmp_path / "film.jpg", WIDE / 255, 0.02)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("WEBP", {"lossless": True})],
)
def test_a_download_that_ends_in_zeros_is_refused(tmp_path, kind, options):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64)).astype(np.uint8)
    content = stream(noise, kind, **options)
    half = len(content) // 2
    torn = content[:half] + bytes(len(content) - half)
    refused(save(tmp_path, torn), "(zero bytes, a download that|truncated)")
    sound = [content, content + bytes(500)] if kind == "JPEG" else [content]  # filled up behind
    for each in sound:
        assert read_image(save(tmp_path, each)).shape == noise.shape


FOREIGN = [(content, said) for content, _, said in foreign_files()] + [
    (None, "the image is missing"),
    (bytes(128) + b"DICM", "DICOM without an image"),
    (b"", r"the image is empty \(0 bytes\)\. Download"),
    # a bomb: a small file that claims 100,000 x 100,000 pixels
    (png(8, 0, bytes(1000), size=(100_000, 100_000)), "not a readable image"),
]


@pytest.mark.parametrize(("content", "said"), FOREIGN, ids=range(len(FOREIGN)))
@pytest.mark.parametrize("name", ["film.png", "film.jpg", "film.dcm"])
@pytest.mark.parametrize("read", [read_image, image_size])
def test_what_is_no_image_is_named(tmp_path, content, said, name, read):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: .*{said}"):
        read(tmp_path / name)


def test_a_name_that_is_too_long_is_missing(tmp_path):
    with pytest.raises(InputError, match="the image is missing"):
        read_image(tmp_path / ("film" * 100))


def test_what_is_said_of_a_film(tmp_path):
    """Of gray values all over, up to the edges, nothing."""
    pixels = np.random.default_rng(0).random((60, 50)).astype(np.float32)

    def notes(stored: np.ndarray) -> list[str]:
        file = save(tmp_path, np.round(stored * 255).astype(np.uint8))
        return film_notes(file, read_image(file))

    for sound in (pixels, np.stack([pixels] * 3, -1), np.pad(pixels, 1, constant_values=1)):
        assert notes(sound) == []
    for border in (0, 0.5, 1):
        for width, share in ((((6, 4), (0, 0)), 14), (10, 46)):  # 60 x 50 of 70 x 50, of 80 x 70
            framed = np.pad(pixels, width, constant_values=border)
            assert notes(framed) == [f"{share}% of the picture are an even border: crop it"]
    (note,) = notes(np.stack([pixels * 0.8, pixels * 0.9, pixels], -1))
    assert note.startswith("a picture in color, perhaps a photograph of a film")
    clipped, few = notes(pixels > 0.5)
    assert clipped.startswith("100% of the picture are pure black or white: see the window")
    assert few.startswith("only 2 gray values: see the window")


# --- damaged: gray values in [0, 1], or one kind of error with a name

GRAY = np.random.default_rng(0).integers(0, 256, (20, 24)).astype(np.uint8)
NOISE = GRAY.astype(np.uint16) * 16
SUFFIXES = (*FORMATS, "pgm")
DICOM = ("plain", "tables", "signed", "rle", "jpeg", "lossless", "ls", "jp2 in dicom", "bare")


def as_image(kind: str) -> bytes:
    return stream(GRAY, PILLOW.get(kind, kind))


TAGS = {
    "tables": {"VOILUTSequence": lut(np.arange(4096) // 16, 8), "PixelPaddingValue": 7,
               "ModalityLUTSequence": lut(np.arange(4096), 12)},
    "signed": {"PixelRepresentation": 1, "RescaleSlope": 2, "RescaleIntercept": 3,
               "WindowCenter": 9, "WindowWidth": 999, "VOILUTFunction": "SIGMOID"},
}  # fmt: skip
PACKED = {"lossless": gdcm.TransferSyntax.JPEGLosslessProcess14_1}
PACKED["ls"] = gdcm.TransferSyntax.JPEGLSLossless


def as_dicom(kind: str) -> bytes:
    data, buffer = film(NOISE - 2048.0 * (kind == "signed"), **TAGS.get(kind, {})), io.BytesIO()
    if kind == "rle":
        data.compress(RLELossless, generate_instance_uid=False)
    elif kind == "jpeg":
        data = encapsulated(film(GRAY, bits=8, BitsAllocated=8), as_image("jpg"), JPEGBaseline8Bit)
    elif kind == "jp2 in dicom":
        data = encapsulated(data, stream(NOISE, "JPEG2000"), JPEG2000Lossless)
    elif kind in PACKED:
        data = packed(data, PACKED[kind])
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()[132 if kind == "bare" else 0 :]


WHOLE = cache(lambda kind: as_dicom(kind) if kind in DICOM else as_image(kind))


@pytest.mark.parametrize("kind", [*SUFFIXES, *DICOM])
def test_the_whole_file_is_read(tmp_path, kind):
    file = save(tmp_path, WHOLE(kind))
    assert read_image(file).shape == image_size(file) == GRAY.shape


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
