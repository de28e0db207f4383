"""Decode radiographs (PNG, JPEG, DICOM) to one convention: float32 in [0, 1], 0 = air, 1 = bone.

torchxrayvision's readers are not used for pixels: they take 8 bits for granted, keep the first
channel of a color image, scale to [-1024, 1024], and leave MONOCHROME1 films inverted.
"""

import codecs
import os
import re
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image, ImageOps

from rctpl_utils.datasets.dicom import (
    AGAIN,
    CONVERT,
    dicom_size,
    is_dicom,
    read_dicom,
    stored_range,
    to_unit,
)
from rctpl_utils.errors import InputError, naming

# Pillow tries no others, some of which call further programs (EPS: Ghostscript).
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
COLOR = {"RGB", "RGBA", "LA", "PA", "P", "CMYK", "YCbCr"}
_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)  # EXIF: height and width are exchanged
_PHOTOMETRIC, _WHITE_IS_ZERO = 0x0106, 0  # TIFF; Pillow minds it up to 8 bits
_BITS, _PLANES, _SAMPLES, _SIGNED = 0x0102, 0x011C, 0x0153, (2,)  # TIFF
DIMMEST = 64  # of 255: color of 16 bits, of which a quarter is used, holds fewer bits than it says
# a picture that may mislead
COLORFUL = 8  # mean difference between a pixel's color channels, of 255; a gray JPEG stays below 2
FEWEST_GRAYS = 16
MOST_CLIPPED = 0.5
EVEN = 0.02  # gray values of a row of a border differ by less
LEAST_INSIDE = 0.9  # share of the picture
_OTHERS = {  # first bytes, in lower case, of what people have in place of an image
    b"<": "a web page (HTML or XML)",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself",
    b"%pdf": "a PDF",
    b"\x1f\x8b": "a gzip archive",
    b"pk\x03\x04": "a ZIP archive",
}


def read_image(path: str | Path) -> np.ndarray:
    """Decode one radiograph at its native size: float32 (H, W) in [0, 1], 0 = air.

    The content tells the format, not the suffix. Gray images are scaled by the range of their bits
    (`stored_range`), or are floats in [0, 1]; color becomes luminance (COVIDx stores gray films as
    RGB); an alpha channel is dropped where it is opaque throughout, as in some 500 files of
    ChestX-ray14, and refused otherwise. An image stored on its side (EXIF) is put upright. For
    DICOM see `read_dicom`.

    Raises:
        InputError: a missing, empty, damaged or unsupported file.
    """
    path = _checked(path)
    if is_dicom(path):
        return read_dicom(path)
    with opened(path) as image, naming(path, "the image is damaged", AGAIN):
        return _gray(image, path)


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width in pixels of what `read_image` returns, from the header where it can be."""
    path = _checked(path)
    if is_dicom(path):
        return dicom_size(path)
    with opened(path) as image, naming(path, "the image is damaged", AGAIN):
        if _on_its_side(image, path):
            return image.width, image.height
        return image.height, image.width


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask image: bool (H, W), true where the stored value is not zero (0/1 or 0/255)."""
    return read_image(path) > 0


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if not os.path.isfile(path):  # false, too, for a name that is too long
        raise InputError("the image is missing", "Check the data root, or download it.", file=path)
    if path.stat().st_size == 0:
        raise InputError("the image is empty (0 bytes)", AGAIN, file=path)
    return path


def opened(path: Path) -> Image.Image:
    """Open an image of one of `FORMATS` without decoding it; what people have instead is named."""
    with naming(path, "not a readable image", AGAIN):
        with path.open("rb") as stream:
            head = stream.read(32).removeprefix(codecs.BOM_UTF8).lstrip().lower()
        for start, what in _OTHERS.items():
            if head.startswith(start):
                raise InputError(f"not an image but {what}", AGAIN, file=path)
        return Image.open(path, formats=FORMATS)


def _on_its_side(image: Image.Image, path: Path) -> bool:
    """Whether height and width are exchanged in the file; refused for TIFF, which Pillow shears."""
    on_its_side = image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE
    if on_its_side and image.format == "TIFF":
        raise InputError("a TIFF stored on its side", "Save it upright as PNG.", file=path)
    return on_its_side


def _gray(image: Image.Image, path: Path) -> np.ndarray:
    """The pixels of an opened image, upright, as gray in [0, 1]."""
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a telephone's has a preview
        problem, cure = "several frames or pages", "Save the one that holds the film as PNG."
        raise InputError(problem, cure, file=path)
    _refuse_torn(image, path)
    how = str([each[::3] for each in image.tile])  # decoders and their arguments
    halved = image.mode in COLOR and re.search(";16|65535", how)  # Pillow keeps the upper 8 bits
    spread = image.mode == "I" and "ppm" in how  # by Pillow, from the stated white to 65535
    most = {"1": 1, "L": 8, "I": 16 if image.format == "PPM" else 32}  # bits of a mode
    _on_its_side(image, path)
    tags = image.tag_v2 if image.format == "TIFF" else {}
    white_is_zero = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    if image.mode in COLOR and tags.get(_PLANES) == 2 and max(tags[_BITS]) > 8:
        raise InputError("color of 16 bits in planes, which is not supported", CONVERT, file=path)
    image.load()
    opaque = (255, 255)
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != opaque:
        problem = "transparent pixels, whose gray value is not defined"
        raise InputError(problem, "Flatten it onto black and save it as grayscale.", file=path)
    image = ImageOps.exif_transpose(image)
    if image.mode in COLOR:
        image = image.convert("RGB").convert("L")
    values = np.asarray(image)
    if image.mode == "L" and tags.get(_SAMPLES) == _SIGNED:
        values = values.view(np.int8)
    if spread or image.mode == "F":
        low, high = 0, 65535 if spread else 1
    else:
        low, high = stored_range(values, 16 if image.mode.startswith("I;16") else most[image.mode])
    if not (values.min() >= 0 and values.max() <= high) or (halved and values.max() < DIMMEST):
        problem = f"gray values from {values.min():g} to {values.max():g}: white is not defined"
        raise InputError(problem, CONVERT, file=path)
    gray = to_unit(values, low, high)
    return 1 - gray if white_is_zero and image.mode not in {"1", "L"} else gray


def _refuse_torn(image: Image.Image, path: Path) -> None:
    """Refuse a download that ends in zeros, which decode to some gray without a word."""
    if image.format not in ("JPEG", "MPO", "WEBP"):  # others have sums, or lengths
        return
    content = path.read_bytes()
    ends = content.rfind(b"\xff\xd9") > content.rfind(b"\xff\xda")  # JPEG: after the last scan
    if content.endswith(bytes(64)) and not (image.format != "WEBP" and ends):
        raise InputError("it ends in zero bytes, a download that did not end", AGAIN, file=path)


def film_notes(path: Path, pixels: np.ndarray) -> list[str]:
    """What a file itself tells against its use as a digital chest film; said, not refused.

    `pixels` are those that `read_image` made of it.
    """
    colorful = raw = False
    if is_dicom(path):
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        raw = header.get("PresentationIntentType") == "FOR PROCESSING"
    else:
        with opened(path) as image:
            colors = (
                np.asarray(image.convert("RGB")) if image.mode in COLOR else np.zeros((1, 1, 3))
            )
            colorful = np.ptp(colors, axis=2).mean() > COLORFUL
    inside = 1.0  # the share within the outermost rows and columns that are not even
    for axis in (0, 1):
        uneven = np.flatnonzero(np.ptp(pixels, axis=axis) > EVEN)
        inside *= (uneven[-1] - uneven[0] + 1) / pixels.shape[1 - axis] if len(uneven) else 1
    grays, clipped = len(np.unique(pixels)), float(np.mean((pixels == 0) | (pixels == 1)))
    found = {
        "a picture in color, perhaps a photograph of a film: perspective, glare and what lies "
        "around the film are taken for the film": colorful,
        "raw detector values (FOR PROCESSING): use the image FOR PRESENTATION": raw,
        f"{clipped:.0%} of the picture are pure black or white: see the window, or how it was "
        "exported": clipped > MOST_CLIPPED,
        f"only {grays} gray values: see the window, or how it was exported": grays < FEWEST_GRAYS,
        f"{1 - inside:.0%} of the picture are an even border: crop it": inside < LEAST_INSIDE,
    }
    return [note for note, holds in found.items() if holds]
