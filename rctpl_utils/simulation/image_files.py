"""Write simulated radiographs as PNG, JPEG and DICOM files: the same pixels, the same bytes."""

import hashlib
import uuid
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from rctpl_utils.files import atomic_path

JPEG_QUALITY = 95
PNG_LEVEL = 6  # zlib's default, fixed here so that a new Pillow cannot change it
COMMENT = "SIMULATED RADIOGRAPH, NOT OF A PATIENT"
_IMPLEMENTATION = "RCTPL_UTILS"


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Round float (H, W) in [0, 1] to uint8; `ValueError` for others: the renderer is at fault."""
    if pixels.ndim != 2 or not (pixels.min() >= 0 and pixels.max() <= 1):  # false for NaN too
        raise ValueError("pixels must be (H, W) in [0, 1]")
    return np.round(pixels * 255).astype(np.uint8)


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write float (H, W) in [0, 1] as 8-bit grayscale PNG."""
    with atomic_path(path) as temporary:
        Image.fromarray(to_bytes(pixels)).save(temporary, compress_level=PNG_LEVEL)


def write_jpeg(path: Path, pixels: np.ndarray) -> None:
    """Write float (H, W) in [0, 1] as 8-bit grayscale baseline JPEG."""
    with atomic_path(path) as temporary:
        Image.fromarray(to_bytes(pixels)).save(temporary, quality=JPEG_QUALITY, optimize=False)


def write_mask_png(path: Path, mask: np.ndarray) -> None:
    """Write a bool (H, W) mask as 8-bit PNG with values 0 and 1."""
    with atomic_path(path) as temporary:
        Image.fromarray(mask.astype(np.uint8)).save(temporary, compress_level=PNG_LEVEL)


def write_dicom(
    path: Path, pixels: np.ndarray, uids: tuple[str, str, str], patient_id: str, *, inverted: bool
) -> None:
    """Write float (H, W) in [0, 1] as an 8-bit, uncompressed Part 10 file (explicit VR, LE).

    `uids` are those of image, study and series; `inverted` is MONOCHROME1 (0 = white), as some
    real films are. No date, time, age or sex: none is known. `ImageComments` says that the film
    is simulated.
    """
    stored = to_bytes(pixels)
    stored = 255 - stored if inverted else stored
    dicom = Dataset()
    dicom.file_meta = _file_meta(uids[0])
    dicom.SOPClassUID = SecondaryCaptureImageStorage
    dicom.SOPInstanceUID, dicom.StudyInstanceUID, dicom.SeriesInstanceUID = uids
    dicom.PatientID = dicom.PatientName = patient_id
    dicom.Modality, dicom.ConversionType, dicom.BodyPartExamined = "CR", "WSD", "CHEST"
    for unknown in _REQUIRED_BUT_UNKNOWN:
        setattr(dicom, unknown, None)
    dicom.SeriesNumber = dicom.InstanceNumber = "1"
    dicom.ImageComments = COMMENT
    dicom.SamplesPerPixel = 1
    dicom.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dicom.Rows, dicom.Columns = stored.shape
    dicom.BitsAllocated, dicom.BitsStored, dicom.HighBit = 8, 8, 7
    dicom.PixelRepresentation = 0
    dicom.LossyImageCompression = "00"
    data = stored.tobytes()
    dicom.add_new("PixelData", "OB", data + b"\0" * (len(data) % 2))
    with atomic_path(path) as temporary:
        pydicom.dcmwrite(temporary, dicom, enforce_file_format=True)


def uid_of(name: str) -> str:
    """A DICOM unique identifier made from a name: 2.25 and a name-based UUID (PS3.5, B.2)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'rctpl-companion/{name}').int}"


def inverted_film(name: str) -> bool:
    """Whether this film is stored as MONOCHROME1: one in ten, by a hash of its name."""
    return hashlib.sha256(name.encode()).digest()[0] < 26


_REQUIRED_BUT_UNKNOWN = (  # type 2 attributes: present, empty
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientBirthDate",
    "PatientSex", "StudyID", "PatientOrientation",
)  # fmt: skip


def _file_meta(image_uid: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = image_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid_of(_IMPLEMENTATION)
    meta.ImplementationVersionName = _IMPLEMENTATION  # pydicom would write its version number
    return meta
