"""The model that lies with the results, for `predict` and the quickstart: no run is needed."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from rctpl_utils.datasets.images import read_image
from rctpl_utils.evaluation.calibration import calibration_path
from rctpl_utils.files import atomic_path
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.workspace import PROJECT, Workspace

KEPT_PROMPTS = PROJECT / "figures" / "embedded" / "model" / "rc-tpl-plus-0.safetensors"
KEPT_FILM = KEPT_PROMPTS.with_name("film.png")


def keep_model(workspace: Workspace, prompts: Path, film: Path) -> list[Path]:
    """Copy a run's prompts and calibration to `figures/<profile>/model/`, a film beside them (PNG).

    Returned are the files written: none of real films, which are not ours to publish, nor where the
    prompts would not find their encoder, whose place they know from where they lie.
    """
    folder = workspace.figures / KEPT_PROMPTS.parent.name
    found = (folder / Prompts.load(prompts).metadata["encoder_file"]).resolve().is_file()
    if not (workspace.profile.simulated and found):
        return []
    copies = {folder / path.name: path for path in (prompts, calibration_path(prompts))}
    for target, source in copies.items():
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
    picture = folder / KEPT_FILM.name
    with atomic_path(picture) as temporary:
        Image.fromarray(np.rint(255 * read_image(film)).astype(np.uint8)).save(temporary)
    return [*copies, picture]
