"""The command `python -m rctpl_utils predict`, end to end, on files of each kind."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from weights import save_stand_in

from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.evaluation.calibration import Calibration, calibration_path
from rctpl_utils.evaluation.likelihood_ratio import ConceptCalibration
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.reporting.predict import main

ASKED = ["--concepts", "Edema", "Pleural Effusion"]


@pytest.fixture(scope="module")
def prompts(encoder: StandIn, tmp_path_factory) -> Path:
    """Random prompts with their encoder and a calibration of one concept."""
    folder = tmp_path_factory.mktemp("model")
    save_stand_in(encoder, folder / "encoder.safetensors")
    generator = torch.Generator().manual_seed(1)
    report, concept = (torch.randn(2, encoder.context_width, generator=generator) for _ in "ab")
    metadata = {
        "encoder_file": "encoder.safetensors", "text_key": encoder.text_key, "key": "k1",
        "profile": "smoke", "seed": "0", "variant": "rc-tpl-plus",
    }  # fmt: skip
    path = Prompts(report, concept, metadata).save(folder / "p-0.safetensors")
    one = ConceptCalibration(("chexpert",), (-1.0, -0.9), (50, 45), (90, 1), -0.9, 0.9, 0.8, 0.95)
    Calibration("k1", encoder.image_key, "Hand-made.", {"Edema": one}).save(calibration_path(path))
    return path


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 50)).astype(np.uint8)


def write_dicom(path: Path, pixels: np.ndarray) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dicom = FileDataset(path, Dataset(), file_meta=meta, preamble=b"\0" * 128)
    dicom.Rows, dicom.Columns = pixels.shape
    dicom.PhotometricInterpretation, dicom.SamplesPerPixel = "MONOCHROME2", 1
    dicom.BitsAllocated = dicom.BitsStored = 8
    dicom.HighBit, dicom.PixelRepresentation = 7, 0
    dicom.PixelData = pixels.tobytes()
    dicom.save_as(path, enforce_file_format=True)
    return path


def strict(path: Path) -> dict:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.mark.parametrize(("suffix", "page"), [("png", "pdf"), ("jpg", "png"), ("dcm", "png")])
def test_each_kind_of_picture(suffix: str, page: str, prompts, pixels, tmp_path, capsys):
    picture = tmp_path / f"film.{suffix}"
    if suffix == "dcm":
        write_dicom(picture, pixels)
    else:
        Image.fromarray(pixels).save(picture)
    out = tmp_path / "reports"
    command = [str(picture), "--prompts", str(prompts), "--output", str(out), "--format", page]
    assert main([*command, *ASKED]) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted([f"film.{page}", "film.json"])
    start = (out / f"film.{page}").read_bytes()[:4]
    assert start == {"pdf": b"%PDF", "png": b"\x89PNG"}[page]
    record = strict(out / "film.json")
    assert record["warning"] == (
        "Research and teaching only. Trained on simulated radiographs. Not a medical device."
    )
    assert record["provenance"]["prompts_key"] == "k1"
    assert record["size"] == [60, 50]
    first, second = record["findings"]
    assert (first["concept"], first["grade"], first["evidence"]["ppv"]) == (
        "Edema", "strong", pytest.approx(45 / 46),
    )  # fmt: skip
    assert (second["concept"], second["grade"], second["evidence"]) == (
        "Pleural Effusion", "not calibrated", None,
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "Not a medical device" in printed and "Any picture gets scores" in printed
    assert printed.splitlines()[-1] == f"wrote film.{page} and film.json"


def test_what_a_picture_tells_against_itself_is_said(prompts, pixels, tmp_path, capsys):
    picture = tmp_path / "photograph.png"
    Image.fromarray(np.stack([pixels, pixels // 2, pixels // 3], -1)).save(picture)
    command = [str(picture), "--prompts", str(prompts), "--output", str(tmp_path / "out")]
    assert main([*command, *ASKED]) == 0
    (note,) = strict(tmp_path / "out" / "photograph.json")["image"]["notes"]
    assert note.startswith("a picture in color")
    assert f"note: photograph.png: {note}" in capsys.readouterr().err.splitlines()


def failure(capsys, arguments: list[str]) -> str:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if not line.startswith("note:")]
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_bad_requests_end_in_one_line(prompts, pixels, tmp_path, capsys):
    film = tmp_path / "film.png"
    Image.fromarray(pixels).save(film)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    given = ["--prompts", str(prompts), *ASKED]
    there = ["--output", str(tmp_path / "out")]
    assert "not a readable image" in failure(capsys, [str(broken), *there, *given])
    assert "missing" in failure(capsys, [str(tmp_path / "none.png"), *there, *given])
    absent = str(tmp_path / "p.safetensors")
    assert "run_all.sh" in failure(capsys, [str(film), *there, "--prompts", absent])
    unknown = ["--prompts", str(prompts), "--concepts", "Happiness"]
    assert "no concept" in failure(capsys, [str(film), *there, *unknown])
    no_folder = ["--output", str(film)]
    assert "cannot be written" in failure(capsys, [str(film), *no_folder, *given])
    assert not (tmp_path / "out").exists()


def test_the_picture_is_never_overwritten(prompts, pixels, tmp_path, capsys):
    film = tmp_path / "film.png"
    Image.fromarray(pixels).save(film)
    before = film.read_bytes()
    command = [str(film), "--prompts", str(prompts), "--output", str(tmp_path), "--format", "png"]
    assert "overwrite" in failure(capsys, command)
    assert film.read_bytes() == before


def test_calibrations_that_are_foreign_or_absent(prompts, pixels, tmp_path, capsys):
    film = tmp_path / "film.png"
    Image.fromarray(pixels).save(film)
    learned = Prompts.load(prompts)
    metadata = {**learned.metadata, "encoder_file": str(prompts.parent / "encoder.safetensors")}
    own = dataclasses.replace(learned, metadata=metadata).save(tmp_path / "q-0.safetensors")
    command = [str(film), "--prompts", str(own), "--output", str(tmp_path / "out"), *ASKED]
    assert main(command) == 0
    assert "no calibration beside q-0.safetensors" in capsys.readouterr().err
    findings = strict(tmp_path / "out" / "film.json")["findings"]
    assert {each["grade"] for each in findings} == {"not calibrated"}
    stored = Calibration.load(calibration_path(prompts))
    dataclasses.replace(stored, prompts_key="k2").save(calibration_path(own))
    assert "belongs to other prompts" in failure(capsys, command)


def test_prompts_without_metadata_are_refused(pixels, tmp_path, capsys):
    film = tmp_path / "film.png"
    Image.fromarray(pixels).save(film)
    bare = Prompts(torch.zeros(2, 8), torch.zeros(2, 8), {}).save(tmp_path / "bare.safetensors")
    said = failure(capsys, [str(film), "--prompts", str(bare), "--output", str(tmp_path / "out")])
    assert "metadata lack" in said
