"""Small DICOM films for tests, made by hand, compressed or with tables."""

import io
import tempfile
from pathlib import Path

import gdcm
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian

from rctpl_utils.files import read_json

RAMP = np.array([[0, 819, 1638], [2457, 3276, 4095]])
EXPECTED = np.array([[0, 0.2, 0.4], [0.6, 0.8, 1.0]])
CASES = read_json(Path(__file__).parent / "cases" / "dicom_films.json")


def film(stored: np.ndarray = RAMP, **attributes: object) -> Dataset:
    """A film of 12 bits in 16, with the given attributes; `bits` is a short name."""
    data, bits = Dataset(), attributes.pop("bits", 12)
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3.4"
    data.Modality, data.PatientID = "CR", "made-up"
    data.Rows, data.Columns = stored.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, bits, bits - 1
    data.PixelRepresentation = 0
    for name, value in attributes.items():
        setattr(data, name, value)
    if "PixelPaddingValue" in attributes:
        data["PixelPaddingValue"].VR = "US"
    kind = "<u1" if data.BitsAllocated == 8 else "<u2"
    pixels = stored.astype(np.int64).astype(kind).tobytes()  # negative ones wrap, as stored
    data.add_new("PixelData", "OW", pixels + b"\0" * (len(pixels) % 2))
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return data


def save(folder: Path, data: Dataset, name: str = "film.dcm") -> Path:
    if not data.file_meta.TransferSyntaxUID.is_little_endian:
        tables = [item["LUTData"] for item in data.get("VOILUTSequence", [])]
        for words in (data["PixelData"], *tables):  # pydicom writes words as they are
            words.value = np.frombuffer(words.value, "<u2").astype(">u2").tobytes()
    pydicom.dcmwrite(folder / name, data, enforce_file_format=True)
    return folder / name


def lut(entries: list[int] | np.ndarray, bits: int, first: int = 0, *, packed: bool = False):
    """A sequence with one look-up table; `first` below 0 is written as the unsigned number."""
    item, count = Dataset(), len(entries)
    item.add_new("LUTDescriptor", "US", [count % 2**16, first % 2**16, bits])
    item.add_new("LUTData", "OW", np.asarray(entries).astype("u1" if packed else "<u2").tobytes())
    return [item]


def as_described(case: dict) -> Dataset:
    """A film of `cases/dicom_films.json`: its attributes, tables among them, and stored values."""
    given = dict(case.get("given", {}))
    for name in {name for name in given if name.endswith("Sequence")}:
        given[name] = [item for each in given[name] for item in _table(**each)]
    return film(np.array(case.get("stored", RAMP)), **given)


def _table(entries: list | dict | None = None, count: int = 0, **how: object) -> list[Dataset]:
    if entries is None:
        return [Dataset()]
    if isinstance(entries, dict):
        entries = np.linspace(entries["from"], entries["to"], entries["count"]).round()
    (item,) = lut(entries, **how)
    item.LUTDescriptor = [count or item.LUTDescriptor[0], *item.LUTDescriptor[1:]]
    return [item]


def packed(data: Dataset, kind: int) -> Dataset:
    """The same film as GDCM compresses it."""
    with tempfile.TemporaryDirectory() as folder:
        source, change = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax()
        source.SetFileName(str(save(Path(folder), data)))
        assert source.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(kind))
        change.SetInput(source.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(f"{folder}/packed.dcm")
        writer.SetFile(source.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        found = pydicom.dcmread(f"{folder}/packed.dcm")
        found.PixelData  # noqa: B018 - read it before the file is gone
    return found


def stream(stored: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, kind, **options)
    return buffer.getvalue()


def encapsulated(data: Dataset, content: bytes, syntax: str) -> Dataset:
    data.PixelData = encapsulate([content])
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = syntax
    return data
