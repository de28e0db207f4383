"""From stored integers to gray in [0, 1], for films of every format.

DICOM's order is PS3.3's (C.11): modality table or rescale, VOI table or window, then the inversion
of MONOCHROME1. pydicom does each step but one: it indexes a table with the table's own integer
type, so that 8-bit tables wrap at 256, and it leaves open which value of a table is white.
"""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, apply_rescale, apply_windowing

from rctpl_utils.errors import InputError

CONVERT = "Save it as an 8- or 16-bit grayscale PNG."
AGAIN = f"Download or copy the file again; if that does not help: {CONVERT}"
UNUSED_BITS = 2  # so many leading zeros mean that the header states more bits than there are
CHROMA = 8  # color differences of a gray film, around 128, are smaller
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's


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


def dicom_luminance(stored: np.ndarray, dicom: Dataset) -> np.ndarray:
    """Color to gray: stored (H, W, 3), or (H, W) palette entries, to float32 (H, W) in [0, 1]."""
    bits = dicom.BitsStored
    if dicom.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dicom)
        bits = 8 * stored.itemsize
    elif np.ptp(stored[..., 0]) > CHROMA and np.abs(stored[..., 1:] - 128.0).max() < CHROMA:
        raise ValueError("red alone varies: brightness and color differences, not RGB")
    return to_unit(stored[..., :3] @ LUMINANCE, *stored_range(stored, bits))


def dicom_gray(stored: np.ndarray, whole: np.ndarray, dicom: Dataset, path: Path) -> np.ndarray:
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
    if table := _table(dicom, "ModalityLUTSequence"):
        return _looked_up(stored, table), *stored_range(*table[1:])
    ends = np.array(stored_range(film, dicom.BitsStored, signed=bool(dicom.PixelRepresentation)))
    dicom.RescaleSlope = _alone(dicom, "RescaleSlope", 1)
    dicom.RescaleIntercept = _alone(dicom, "RescaleIntercept", 0)
    if (dicom.RescaleSlope, dicom.RescaleIntercept) != (1, 0):
        stored, ends = apply_rescale(stored, dicom), apply_rescale(ends, dicom)
    return stored, ends.min(), ends.max()


def _voi(values: np.ndarray, low: float, high: float, dicom: Dataset) -> np.ndarray:
    """Gray in [0, 1] by the first VOI table, else the first window, else by `low` and `high`."""
    if table := _table(dicom, "VOILUTSequence"):
        return to_unit(_looked_up(np.rint(values), table), *stored_range(*table[1:]))
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


def _table(dicom: Dataset, name: str) -> tuple[int, np.ndarray, int] | None:
    """First value mapped, entries and their bits of the first look-up table, if there is one."""
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
    return first, entries, max(1, bits)


def _looked_up(values: np.ndarray, table: tuple[int, np.ndarray, int]) -> np.ndarray:
    first, entries, _ = table
    if first >= 2**15 and (values.min() < 0 or values.max() < first):
        first -= 2**16  # the standard lets a signed number stand there as an unsigned one
    places = values.astype(np.int64) - first
    return entries[np.clip(places, 0, len(entries) - 1)]
