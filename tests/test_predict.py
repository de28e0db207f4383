"""The command `python -m rctpl_utils predict`, end to end, and the model that lies with results."""

import json
from dataclasses import replace
from pathlib import Path

import dicom_films
import numpy as np
import pytest
import torch
from PIL import Image
from weights import save_stand_in

from rctpl_utils.datasets.images import read_image
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.evaluation.calibration import Calibration, ConceptCalibration, calibration_path
from rctpl_utils.profiles import PROFILES
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.reporting.kept_model import KEPT_FILM, KEPT_PROMPTS, keep_model
from rctpl_utils.reporting.predict import main
from rctpl_utils.workspace import Workspace

ASKED = ["--concepts", "Edema", "Pleural Effusion"]
WARNING = "Research and teaching only. Trained on simulated radiographs. Not a medical device."


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


PIXELS = np.random.default_rng(0).integers(0, 256, (60, 50)).astype(np.uint8)


@pytest.fixture
def film(tmp_path) -> Path:
    Image.fromarray(PIXELS).save(tmp_path / "film.png")
    return tmp_path / "film.png"


def run(prompts: Path, picture: Path, *options: object) -> int:
    """The command, its output beside the picture in `out`."""
    out = ["--output", picture.parent / "out"]
    return main([str(each) for each in (picture, "--prompts", prompts, *out, *options)])


def strict(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)  # NaN


@pytest.mark.parametrize(("suffix", "page"), [("png", "pdf"), ("jpg", "png"), ("dcm", "png")])
def test_each_kind_of_picture(suffix: str, page: str, prompts, tmp_path, capsys):
    picture, out = tmp_path / f"film.{suffix}", tmp_path / "out"
    if suffix == "dcm":
        dicom_films.save(tmp_path, dicom_films.film(PIXELS, bits=8, BitsAllocated=8))
    else:
        Image.fromarray(PIXELS).save(picture)
    assert run(prompts, picture, "--format", page, *ASKED) == 0
    assert {path.name for path in out.iterdir()} == {f"film.{page}", "film.json"}
    start = (out / f"film.{page}").read_bytes()[:4]
    assert start == {"pdf": b"%PDF", "png": b"\x89PNG"}[page]
    record = strict(out / "film.json")
    assert (record["warning"], record["size"]) == (WARNING, [60, 50])
    assert record["provenance"]["prompts_key"] == "k1"
    first, second = record["findings"]
    assert (first["concept"], first["grade"]) == ("Edema", "strong")
    assert first["evidence"]["ppv"] == pytest.approx(45 / 46)
    assert (second["concept"], second["grade"]) == ("Pleural Effusion", "not calibrated")
    assert second["evidence"] is None
    printed = capsys.readouterr().out
    assert "Not a medical device" in printed and "Any picture gets scores" in printed
    assert printed.splitlines()[-1] == f"wrote film.{page} and film.json"


def test_what_a_picture_tells_against_itself_is_said(prompts, tmp_path, capsys):
    picture = tmp_path / "photograph.png"
    Image.fromarray(np.stack([PIXELS, PIXELS // 2, PIXELS // 3], -1)).save(picture)
    assert run(prompts, picture, *ASKED) == 0
    (note,) = strict(tmp_path / "out" / "photograph.json")["image"]["notes"]
    assert note.startswith("a picture in color")
    assert f"note: photograph.png: {note}" in capsys.readouterr().err.splitlines()


def failure(capsys, status: int) -> str:
    said = capsys.readouterr().err
    assert status == 2 and "Traceback" not in said
    (line,) = (line for line in said.splitlines() if not line.startswith("note:"))
    assert line.startswith("error: ")
    return line


def test_bad_requests_end_in_one_line(prompts, film, tmp_path, capsys):
    broken, before = tmp_path / "broken.png", film.read_bytes()
    broken.write_bytes(b"no picture")
    bare = Prompts(torch.zeros(2, 8), torch.zeros(2, 8), {}).save(tmp_path / "bare.safetensors")
    for learned, picture, options, says in (
        (prompts, broken, ASKED, "not a readable image"),
        (prompts, tmp_path / "none.png", ASKED, "missing"),
        (tmp_path / "p.safetensors", film, (), "run_all.sh"),
        (bare, film, (), "metadata lack"),
        (prompts, film, ("--concepts", "Happiness"), "no concept"),
        (prompts, film, ("--output", film, *ASKED), "cannot be written"),
        (prompts, film, ("--output", tmp_path, "--format", "png"), "overwrite"),
    ):
        assert says in failure(capsys, run(learned, picture, *options))
    assert not (tmp_path / "out").exists() and film.read_bytes() == before


def test_calibrations_that_are_foreign_or_absent(prompts, film, tmp_path, capsys):
    learned = Prompts.load(prompts)
    metadata = {**learned.metadata, "encoder_file": str(prompts.parent / "encoder.safetensors")}
    own = replace(learned, metadata=metadata).save(tmp_path / "q-0.safetensors")
    assert run(own, film, *ASKED) == 0
    assert "no calibration beside q-0.safetensors" in capsys.readouterr().err
    findings = strict(tmp_path / "out" / "film.json")["findings"]
    assert {each["grade"] for each in findings} == {"not calibrated"}
    stored = Calibration.load(calibration_path(prompts))
    replace(stored, prompts_key="k2").save(calibration_path(own))
    assert "belongs to other prompts" in failure(capsys, run(own, film, *ASKED))


def test_the_model_is_copied_only_where_its_encoder_is_shipped_and_a_real_film_never(tmp_path):
    metadata = Prompts.load(KEPT_PROMPTS).metadata
    assert Calibration.load(calibration_path(KEPT_PROMPTS)).prompts_key == metadata["key"]
    assert (KEPT_PROMPTS.parent / metadata["encoder_file"]).is_file()
    workspace = Workspace.open("embedded", tmp_path, device="cpu")
    assert keep_model(workspace, KEPT_PROMPTS, KEPT_FILM) == []
    folder = workspace.figures / "model"
    shipped = folder / metadata["encoder_file"]
    folder.mkdir(parents=True)
    shipped.resolve().parent.mkdir(parents=True)
    shipped.resolve().write_bytes(b"")
    prompts, calibration, film = keep_model(workspace, KEPT_PROMPTS, KEPT_FILM)
    assert prompts.read_bytes() == KEPT_PROMPTS.read_bytes()
    assert calibration.read_bytes() == calibration_path(KEPT_PROMPTS).read_bytes()
    assert np.array_equal(read_image(film), read_image(KEPT_FILM))
    shipped = Workspace.open("embedded", device="cpu")
    workspace = replace(shipped, profile=PROFILES["paper"])
    assert workspace.figures != shipped.figures
    assert keep_model(workspace, KEPT_PROMPTS, KEPT_FILM) == []
