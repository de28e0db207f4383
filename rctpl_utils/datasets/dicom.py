"""Decode DICOM films: what can be read, which decoder reads it, and what is refused and why."""

import io
import struct
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder

from rctpl_utils.datasets.decode_apart import PLUGIN, decode_apart
from rctpl_utils.datasets.gray import AGAIN, CONVERT, dicom_gray, dicom_luminance
from rctpl_utils.errors import InputError
from rctpl_utils.given_files import naming

GRAY = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}  # and the shape that agrees with it
COLOR = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR"}
_FIRST_TAGS = {b"\2\0", b"\x08\0", b"\0\2", b"\0\x08"}  # group 2 or 8, in either byte order
_SIZE_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # of JPEG (SOF) and JPEG-LS
_ENCAPSULATED = b"\xfe\xff\x00\xe0"
# in this order: a damaged JPEG 2000 may make GDCM abort the process, and pylibjpeg fills what is
# missing of a file without a word
_DECODERS = ("pillow", PLUGIN, "pydicom", "pylibjpeg")
# whose streams state the precision
_OWN_PRECISION = {*uid.JPEG2000TransferSyntaxes, *uid.JPEGLSTransferSyntaxes}
_FRAME = "Export one frame, as DICOM or as a grayscale PNG."
_MOST_PIXELS = 178_956_970  # as many as Pillow opens: a larger image is taken for an attack


def is_dicom(path: Path) -> bool:
    """Whether a file holds DICOM, by its first bytes: with the preamble or without one."""
    cure = "Check its name and permissions."
    with naming(path, "the file cannot be read", cure), path.open("rb") as stream:
        head = stream.read(132)
    return head[128:] == b"DICM" or head[:2] in _FIRST_TAGS


def dicom_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels, from the header alone."""
    header = _header(path, stop_before_pixels=True)
    return header.Rows, header.Columns


def read_dicom(path: Path) -> np.ndarray:
    """Decode one frame: float32 (H, W) in [0, 1], 0 = air.

    The first of several windows or tables counts, and a table goes before a window. Without either
    the film is scaled by its bits (`stored_range`). Padding is black. Color becomes luminance. An
    `InputError` says what else there is: no image, several frames, damage, a contradiction.
    """
    dicom = _header(path, stop_before_pixels=False)
    with naming(path, "the header is damaged", AGAIN):
        _check(dicom, path)
        plugin = _decoder(dicom, path)
        dicom.pixel_array_options(decoding_plugin=plugin, correct_unused_bits=False)
    with naming(path, "the pixel data are damaged", AGAIN):
        if plugin in ("pillow", PLUGIN):
            _check_size(dicom)
        whole = decode_apart(path) if plugin == PLUGIN else dicom.pixel_array
        stored = _stored(dicom, whole)
    with naming(path, "its look-up tables or its window cannot be applied", CONVERT):
        if dicom.PhotometricInterpretation in COLOR:
            return dicom_luminance(stored, dicom)
        return dicom_gray(stored, whole, dicom, path)


def _header(path: Path, *, stop_before_pixels: bool) -> Dataset:
    with naming(path, "not a readable DICOM image", AGAIN):
        dicom = pydicom.dcmread(path, stop_before_pixels=stop_before_pixels, force=True)
        if "Rows" not in dicom:
            what = dicom.SOPClassUID.name if "SOPClassUID" in dicom else "of an unknown class"
            problem = f"DICOM without an image ({what}), or cut off"
            raise InputError(problem, "Choose the file that holds the film.", file=path)
        if not (isinstance(dicom.Rows, int) and isinstance(dicom.Columns, int)):
            raise TypeError("no image size")
    if not 0 < dicom.Rows * dicom.Columns <= _MOST_PIXELS:
        problem = f"{dicom.Rows} x {dicom.Columns} pixels, which no film has"
        raise InputError(problem, CONVERT, file=path)
    return dicom


def _check(dicom: Dataset, path: Path) -> None:
    """Refuse what cannot be read, or contradicts itself."""
    kind, shape = dicom.get("PhotometricInterpretation"), dicom.get("PresentationLUTShape")
    frames, bits = dicom.get("NumberOfFrames") or 1, dicom.get("BitsStored") or 0
    problem, cure = None, CONVERT
    if "PixelData" not in dicom:
        problem, cure = "no pixel data: no film, or cut off", AGAIN
    elif frames != 1 or "SharedFunctionalGroupsSequence" in dicom:
        problem, cure = "several frames (multi-frame DICOM) are not supported", _FRAME
    elif kind not in GRAY.keys() | COLOR:
        problem = f"photometric interpretation {kind!r} is not supported"
    elif dicom.get("SamplesPerPixel", 1) != (1 if kind in GRAY or "PALETTE" in kind else 3):
        problem = f"{dicom.SamplesPerPixel} samples a pixel do not fit {kind}"
    elif shape and shape != GRAY.get(kind, shape):
        problem = f"{kind} and presentation {shape} contradict each other: black may be white"
    elif dicom.get("HighBit") not in (None, bits - 1):
        problem = f"high bit {dicom.HighBit} does not fit {bits} stored bits"
    if problem:
        raise InputError(problem, cure, file=path)


def _decoder(dicom: Dataset, path: Path) -> str:
    """What is to decode the pixels, in pydicom's words; "" where they are not compressed."""
    syntax = _transfer_syntax(dicom, path)
    with naming(path, f"compressed as {syntax.name}, which is not supported", CONVERT):
        decoder = get_decoder(syntax)
    if not syntax.is_encapsulated:
        return ""
    package, able = "python-gdcm", _DECODERS
    if syntax in (uid.HTJ2K, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL):
        package = "pylibjpeg pylibjpeg-openjpeg"
    elif syntax == uid.JPEGExtended12Bit and dicom.BitsStored != 8:
        package, able = "pylibjpeg pylibjpeg-libjpeg", ("pylibjpeg",)
    found = [name for name in able if name in decoder.available_plugins]
    if not found:
        problem = f"compressed as {syntax.name}, for which no decoder is installed"
        raise InputError(problem, f"pip install {package}, or: {CONVERT}", file=path)
    return found[0]


def _stored(dicom: Dataset, whole: np.ndarray) -> np.ndarray:
    """The pixels' own bits, without what else (overlays) stands in the bits above them.

    pydicom would drop the bits above even where the header states too few and they are the film's:
    the film is then rougher without them.
    """
    if whole.ndim != (2 if dicom.SamplesPerPixel == 1 else 3):
        raise ValueError("there are more of them than the header states")
    unused = 8 * whole.itemsize - dicom.BitsStored
    if unused <= 0 or dicom.file_meta.TransferSyntaxUID in _OWN_PRECISION:
        return whole
    stored = (whole << unused) >> unused
    if not np.array_equal(whole, stored) and _roughness(whole) < _roughness(stored):
        raise ValueError(f"they need more than the {dicom.BitsStored} bits that the header states")
    return stored


def _roughness(values: np.ndarray) -> float:
    return float(np.abs(np.diff(values.astype(np.float64), axis=1)).sum())


def _check_size(dicom: Dataset) -> None:
    """Refuse a header with another size than the stream's: that would shear the film.

    It would also abort the process, in GDCM, where the stream holds less than the header states.
    """
    frame = get_frame(dicom.PixelData, 0, number_of_frames=1)
    if dicom.file_meta.TransferSyntaxUID in uid.JPEG2000TransferSyntaxes:
        with Image.open(io.BytesIO(frame)) as image:
            found = (image.height, image.width, len(image.getbands()))
    else:
        place = 2  # of the first marker; each is followed by the length of its segment
        while frame[place + 1] not in _SIZE_MARKERS:
            place += 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
        found = struct.unpack(">HHB", frame[place + 5 : place + 10])
        if (frame[place + 4] > 8) != (dicom.BitsAllocated > 8):
            raise ValueError(f"{frame[place + 4]} bits in {dicom.BitsAllocated} allocated ones")
    stated = (dicom.Rows, dicom.Columns, dicom.SamplesPerPixel)
    if found != stated:
        raise ValueError(f"{found} rows, columns and samples, where the header states {stated}")


def _transfer_syntax(dicom: Dataset, path: Path) -> uid.UID:
    """As the file's header says; as pydicom guessed it where there is no such header."""
    if "TransferSyntaxUID" not in dicom.file_meta:
        if dicom.PixelData.startswith(_ENCAPSULATED):
            problem = "compressed, and the part that names the compression is lost"
            raise InputError(problem, CONVERT, file=path)
        implicit, little = dicom.original_encoding
        explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        dicom.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    return dicom.file_meta.TransferSyntaxUID
