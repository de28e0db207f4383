"""Decode radiographs (PNG, JPEG, DICOM) to one convention: float32 in [0, 1], 0 = air, 1 = bone.

torchxrayvision's readers are not used for pixels: they take 8 bits for granted, keep the first
channel of a color image, scale to [-1024, 1024], and leave MONOCHROME1 films inverted.
"""

from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from rctpl_utils.errors import InputError

DICOM_SUFFIXES = {".dcm", ".dicom"}
_AGAIN = "Download or copy the file again."
_CONVERT = "Convert it to an 8- or 16-bit grayscale PNG."


def read_image(path: str | Path) -> np.ndarray:
    """Decode one radiograph at its native size.

    Gray images of 1, 8 or 16 bits are scaled by their full range; color becomes luminance (COVIDx
    stores gray films as RGB); an alpha channel is dropped where it is opaque throughout, as in
    some 500 files of ChestX-ray14, and refused otherwise. DICOM goes through its modality and VOI
    look-up tables, and MONOCHROME1 is inverted.

    Returns:
        float32 (H, W) in [0, 1], 0 = black (air), 1 = white (bone).

    Raises:
        InputError: a missing, empty, damaged or unsupported file.
    """
    path = _checked(path)
    return _read_dicom(path) if path.suffix.lower() in DICOM_SUFFIXES else _read_raster(path)


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width in pixels, from the file's header alone.

    Raises:
        InputError: a missing, empty or unreadable file.
    """
    path = _checked(path)
    if path.suffix.lower() in DICOM_SUFFIXES:
        header = _dicom(path, stop_before_pixels=True)
        return header.Rows, header.Columns
    with _open_raster(path) as image:
        return image.height, image.width


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask image: bool (H, W), true where the stored value is not zero (0/1 or 0/255).

    Raises:
        InputError: a missing, empty, damaged or unsupported file.
    """
    return read_image(path) > 0


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise InputError("the image is missing", "Check the data root, or download it.", file=path)
    if path.stat().st_size == 0:
        raise InputError("the image is empty (0 bytes)", _AGAIN, file=path)
    return path


def _open_raster(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except Exception as error:  # damaged bytes raise many kinds, not all of them documented
        raise InputError(f"not a readable image ({error})", _AGAIN, file=path) from error


def _read_raster(path: Path) -> np.ndarray:
    with _open_raster(path) as image:
        try:
            image.load()
        except Exception as error:  # see `_open_raster`
            raise InputError(f"the image is damaged ({error})", _AGAIN, file=path) from error
        image = _gray(image, path)
        full = 1 if image.mode == "1" else 255 if image.mode == "L" else 65535
        return np.asarray(image, dtype=np.float32) / np.float32(full)


def _gray(image: Image.Image, path: Path) -> Image.Image:
    """A single-channel image of mode 1, L, I;16* or I."""
    if image.mode in {"RGBA", "LA", "PA"}:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            problem = "transparent pixels, whose gray value is not defined"
            raise InputError(problem, "Flatten it onto black and save it as grayscale.", file=path)
    if image.mode in {"RGB", "RGBA", "LA", "PA", "P"}:
        return image.convert("RGB").convert("L")
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if deep or image.mode in {"1", "L"}:
        return image
    raise InputError(f"pixel format {image.mode} is not supported", _CONVERT, file=path)


def _dicom(path: Path, *, stop_before_pixels: bool) -> pydicom.Dataset:
    try:
        dicom = pydicom.dcmread(path, stop_before_pixels=stop_before_pixels)
        if not (isinstance(dicom.Rows, int) and isinstance(dicom.Columns, int)):
            raise TypeError("no image size")
    except Exception as error:  # damaged bytes raise many kinds, not all of them documented
        raise InputError(f"not a readable DICOM image ({error})", _AGAIN, file=path) from error
    return dicom


def _read_dicom(path: Path) -> np.ndarray:
    dicom = _dicom(path, stop_before_pixels=False)
    try:
        kind, frames = dicom.get("PhotometricInterpretation"), dicom.get("NumberOfFrames") or 1
        if kind not in ("MONOCHROME1", "MONOCHROME2") or frames != 1:
            problem = f"photometric interpretation {kind!r} or several frames are not supported"
            raise InputError(problem, "Export one grayscale frame.", file=path)
        pixels = apply_voi_lut(apply_modality_lut(dicom.pixel_array, dicom), dicom)
        low, high = _gray_range(dicom)
        pixels = np.clip((pixels.astype(np.float32) - low) / (high - low), 0, 1)
    except InputError:
        raise
    except Exception as error:  # see `_dicom`
        raise InputError(f"the pixel data are damaged ({error})", _AGAIN, file=path) from error
    return (1 - pixels if kind == "MONOCHROME1" else pixels).astype(np.float32)


def _gray_range(dicom: pydicom.Dataset) -> tuple[float, float]:
    """The gray values that map to 0 and 1: those that the stored bits can hold, rescaled."""
    bits, signed = int(dicom.BitsStored), int(dicom.get("PixelRepresentation", 0))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope = float(dicom.get("RescaleSlope", 1))
    intercept = float(dicom.get("RescaleIntercept", 0))
    return low * slope + intercept, high * slope + intercept
