"""The model that lies with the results: copied where a reader's clone has its encoder."""

from dataclasses import replace

import numpy as np

from rctpl_utils.datasets.images import read_image
from rctpl_utils.evaluation.calibration import Calibration, calibration_path
from rctpl_utils.profiles import PROFILES
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.reporting.kept_model import KEPT_FILM, KEPT_PROMPTS, keep_model
from rctpl_utils.workspace import Workspace


def test_it_is_copied_only_where_its_encoder_is_shipped(tmp_path):
    workspace = Workspace.open("embedded", tmp_path, device="cpu")
    assert keep_model(workspace, KEPT_PROMPTS, KEPT_FILM) == []
    folder = workspace.figures / "model"
    shipped = folder / Prompts.load(KEPT_PROMPTS).metadata["encoder_file"]
    folder.mkdir(parents=True)
    shipped.resolve().parent.mkdir(parents=True)
    shipped.resolve().write_bytes(b"")
    prompts, calibration, film = keep_model(workspace, KEPT_PROMPTS, KEPT_FILM)
    assert prompts.read_bytes() == KEPT_PROMPTS.read_bytes()
    assert calibration.read_bytes() == calibration_path(KEPT_PROMPTS).read_bytes()
    assert np.array_equal(read_image(film), read_image(KEPT_FILM))


def test_a_real_film_is_never_copied():
    shipped = Workspace.open("embedded", device="cpu")
    workspace = replace(shipped, profile=PROFILES["paper"])
    assert workspace.figures != shipped.figures
    assert keep_model(workspace, KEPT_PROMPTS, KEPT_FILM) == []


def test_prompts_calibration_and_encoder_belong_together():
    metadata = Prompts.load(KEPT_PROMPTS).metadata
    calibration = Calibration.load(calibration_path(KEPT_PROMPTS))
    assert calibration.prompts_key == metadata["key"]
    assert (KEPT_PROMPTS.parent / metadata["encoder_file"]).is_file()
