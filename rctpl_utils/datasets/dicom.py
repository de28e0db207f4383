"""DICOM films to gray in [0, 1]: what can be read, which decoder reads it, what is refused and why.

The order from stored integers to gray is PS3.3's (C.11): modality table or rescale, VOI table or
window, then the inversion of MONOCHROME1. pydicom does each step but one: it indexes a table with
the table's own integer type, so that 8-bit tables wrap at 256, and it leaves open which value of a
table is white.
"""

import io
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, apply_rescale, apply_windowing, get_decoder

from rctpl_utils.errors import InputError, naming

CONVERT = "Save it as an 8- or 16-bit grayscale PNG."
AGAIN = f"Download or copy the file again; if that does not help: {CONVERT}"
GRAY = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}  # and the shape that agrees with it
COLOR = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR"}
_FIRST_TAGS = {b"\2\0", b"\x08\0", b"\0\2", b"\0\x08"}  # group 2 or 8, in either byte order
_SIZE_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # of JPEG (SOF) and JPEG-LS
_ENCAPSULATED = b"\xfe\xff\x00\xe0"
# in this order: a damaged JPEG 2000 may make GDCM abort the process, and pylibjpeg fills what is
# missing of a file without a word
_DECODERS = ("pillow", "gdcm", "pydicom", "pylibjpeg")
# whose streams state the precision
_OWN_PRECISION = {*uid.JPEG2000TransferSyntaxes, *uid.JPEGLSTransferSyntaxes}
_FRAME = "Export one frame, as DICOM or as a grayscale PNG."
_MOST_PIXELS = 178_956_970  # as many as Pillow opens: a larger image is taken for an attack
_DECODE = """
import sys, numpy, pydicom
film = pydicom.dcmread(sys.argv[1], force=True)
film.pixel_array_options(decoding_plugin="gdcm", correct_unused_bits=False)
numpy.save(sys.argv[2], film.pixel_array)
"""
UNUSED_BITS = 2  # so many leading zeros mean that the header states more bits than there are
CHROMA = 8  # color differences of a gray film, around 128, are smaller
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's


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
        if plugin in ("pillow", "gdcm"):
            _check_size(dicom)
        whole = _decode_apart(path) if plugin == "gdcm" else dicom.pixel_array
        stored = _stored(dicom, whole)
    with naming(path, "its look-up tables or its window cannot be applied", CONVERT):
        if dicom.PhotometricInterpretation in COLOR:
            return _luminance(stored, dicom)
        return _gray(stored, whole, dicom, path)


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
    """What is to decode the pixels, in pydicom's words; "" where they are not compressed.

    The transfer syntax is the header's; as pydicom guessed it where there is no such header.
    """
    if "TransferSyntaxUID" not in dicom.file_meta:
        if dicom.PixelData.startswith(_ENCAPSULATED):
            problem = "compressed, and the part that names the compression is lost"
            raise InputError(problem, CONVERT, file=path)
        implicit, little = dicom.original_encoding
        explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        dicom.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    syntax = dicom.file_meta.TransferSyntaxUID
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


def _decode_apart(path: Path) -> np.ndarray:
    """The stored values, decoded in a process of its own: on some streams GDCM aborts all of it.

    A `ValueError` where that process dies.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "pixels.npy"
        paths = os.pathsep.join(filter(None, sys.path))
        child = subprocess.run(
            [sys.executable, "-c", _DECODE, path, target],
            env=os.environ | {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if child.returncode:
            said = child.stderr.strip().splitlines()
            raise ValueError(said[-1] if said else f"the decoder died ({child.returncode})")
        return np.load(target)


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
    if not np.array_equal(whole, stored):
        both = (each.astype(np.float64) for each in (whole, stored))
        rough, cut = (np.abs(np.diff(each, axis=1)).sum() for each in both)
        if rough < cut:
            problem = f"they need more than the {dicom.BitsStored} bits that the header states"
            raise ValueError(problem)
    return stored


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


# --- from stored integers to gray


def stored_range(values: np.ndarray, bits: int, *, signed: bool = False) -> tuple[int, int]:
    """The stored integers that mean black and white: the least and the greatest of their bits.

    `bits` is what the file states. Many hold 12 bits and state 16, which would show them nearly
    black: where `UNUSED_BITS` or more of them (of those beyond 8) are never used, the bits count
    that the film's own values need; as they do where they exceed what is stated.
    """
    darkest, brightest = int(values.min()), int(values.max())
    negative = darkest < 0
    used = max(brightest, ~darkest).bit_length() + negative
    if used > bits or bits - max(8, used) >= UNUSED_BITS:
        bits, signed = max(8, used), negative
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def to_unit(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """float32 in [0, 1]: `low` becomes 0 and `high` 1, and what lies beyond is clipped."""
    low, high = float(low), float(high)  # plain numbers leave float32 as it is
    return np.clip((values.astype(np.float32) - low) / (high - low), 0, 1)


def _luminance(stored: np.ndarray, dicom: Dataset) -> np.ndarray:
    """Color to gray: stored (H, W, 3), or (H, W) palette entries, to float32 (H, W) in [0, 1]."""
    bits = dicom.BitsStored
    if dicom.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dicom)
        bits = 8 * stored.itemsize
    elif np.ptp(stored[..., 0]) > CHROMA and np.abs(stored[..., 1:] - 128.0).max() < CHROMA:
        raise ValueError("red alone varies: brightness and color differences, not RGB")
    return to_unit(stored[..., :3] @ LUMINANCE, *stored_range(stored, bits))


def _gray(stored: np.ndarray, whole: np.ndarray, dicom: Dataset, path: Path) -> np.ndarray:
    """Stored values (H, W) to float32 (H, W) in [0, 1]; refused where several become one gray.

    `whole` are the same with the bits above those stored.
    """
    padding = _padding(stored, whole, dicom)
    film = stored[~padding]
    values, low, high = _modality(stored, film, dicom)
    gray = _voi(values, low, high, dicom) if low < high else np.zeros(stored.shape, np.float32)
    span = np.ptp(gray[~padding])
    if np.isnan(span) or (np.ptp(film) > 0 and span == 0):
        problem = "its rescale, tables or window give the whole film one gray value"
        raise InputError(problem, CONVERT, file=path)
    gray = 1 - gray if dicom.PhotometricInterpretation == "MONOCHROME1" else gray
    gray[padding] = 0
    return gray


def _padding(stored: np.ndarray, whole: np.ndarray, dicom: Dataset) -> np.ndarray:
    """Where the film does not reach: bool (H, W); a value beyond the stored bits is told by all."""
    value, limit = dicom.get("PixelPaddingValue"), dicom.get("PixelPaddingRangeLimit")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    ends = np.array([value, value if limit is None else limit]).astype(stored.dtype)
    unused = 8 * stored.itemsize - dicom.BitsStored
    cut = (ends << unused) >> unused  # as pydicom treats the pixels
    if ((cut != ends) & ((ends < 0) | (ends >= 2**dicom.BitsStored))).any():
        stored, cut = whole, ends
    return (stored >= cut.min()) & (stored <= cut.max())


def _modality(
    stored: np.ndarray, film: np.ndarray, dicom: Dataset
) -> tuple[np.ndarray, float, float]:
    """The device's own values, and those that mean black and white where no VOI follows."""
    if (found := _looked_up(stored, dicom, "ModalityLUTSequence")) is not None:
        return found
    ends = np.array(stored_range(film, dicom.BitsStored, signed=bool(dicom.PixelRepresentation)))
    dicom.RescaleSlope = _alone(dicom, "RescaleSlope", 1)
    dicom.RescaleIntercept = _alone(dicom, "RescaleIntercept", 0)
    if (dicom.RescaleSlope, dicom.RescaleIntercept) != (1, 0):
        stored, ends = apply_rescale(stored, dicom), apply_rescale(ends, dicom)
    return stored, ends.min(), ends.max()


def _voi(values: np.ndarray, low: float, high: float, dicom: Dataset) -> np.ndarray:
    """Gray in [0, 1] by the first VOI table, else the first window, else by `low` and `high`."""
    if (found := _looked_up(values, dicom, "VOILUTSequence")) is not None:
        return to_unit(*found)
    center, width = _first(dicom.get("WindowCenter")), _first(dicom.get("WindowWidth"))
    if center is None or not width:  # a width of 0 is how some devices say that there is none
        return to_unit(values, low, high)
    view = Dataset()
    view.WindowCenter, view.WindowWidth = center, width
    view.VOILUTFunction = _first(dicom.get("VOILUTFunction")) or "LINEAR"
    view.PhotometricInterpretation, view.PixelRepresentation = "MONOCHROME2", 0
    view.BitsStored = 1  # pydicom windows to what the stored bits hold, so to [0, 1]
    with np.errstate(over="ignore"):  # far outside a sigmoid
        return to_unit(apply_windowing(values, view), 0, 1)


def _alone(dicom: Dataset, name: str, default: float) -> float:
    """A number that may stand there twice, but not as two."""
    value = dicom.get(name)
    if isinstance(value, MultiValue):
        if len(set(value)) != 1:
            raise ValueError(f"{name} has several values")
        value = value[0]
    return default if value is None else value


def _first(value: object) -> object:
    return value[0] if isinstance(value, MultiValue) and value else value


def _looked_up(
    values: np.ndarray, dicom: Dataset, name: str
) -> tuple[np.ndarray, float, float] | None:
    """The values by the first look-up table of a sequence, and what means black and white there.

    None where there is no such table.
    """
    item = (dicom.get(name) or [Dataset()])[0]
    descriptor, data = item.get("LUTDescriptor"), item.get("LUTData")
    if descriptor is None or data is None:
        return None
    count, first, bits = descriptor
    little = dicom.file_meta.TransferSyntaxUID.is_little_endian
    if not isinstance(data, bytes):
        words = np.atleast_1d(data).astype("<u2")
    else:
        words = np.frombuffer(data, "<u2" if little else ">u2").astype("<u2")
    count = count % 2**16 or 2**16
    packed = bits <= 8 and len(words) < count  # two entries in a word
    entries = (words.view(np.uint8) if packed else words)[:count]
    if len(entries) < count:
        raise ValueError(f"{name}: {len(entries)} of {count} entries")
    values = np.rint(values).astype(np.int64)
    if first >= 2**15 and (values.min() < 0 or values.max() < first):
        first -= 2**16  # the standard lets a signed number stand there as an unsigned one
    places = np.clip(values - first, 0, len(entries) - 1)
    return entries[places], *stored_range(entries, max(1, bits))
