"""The explorable page's data and its JavaScript say what the package computes."""

import base64
import json
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from rctpl_utils.encoders.frame import on_film
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation import grounding_metrics
from rctpl_utils.evaluation.grounding_metrics import THRESHOLDS, dice, pixel_counts, pointing_hits
from rctpl_utils.reporting.explorable import packed, run_lengths, save_explorable
from rctpl_utils.scoring import aggregate
from rctpl_utils.workspace import PROJECT

FOLDER = PROJECT / "figures" / "embedded" / "explorable"
SCRIPT = PROJECT / "book" / "explorable" / "measures.js"
INVERSE = (1, 5, 40, 160)  # 1 / tau_c
DRIVER = """
const fs = require("fs"), m = require(process.argv[1]), data = JSON.parse(fs.readFileSync(0));
const cut = Array.from({length: 49}, (_, k) => (k + 1) / 50), found = [];
for (const film of data.films) for (const method of data.methods) {
  const maps = m.unpack(film.cells[method], data.step, film.grid[0] * film.grid[1]);
  maps.forEach((cells, k) => {
    const runs = film.lesions[data.concepts[k]], map = m.onFilm(cells, film.grid, film.size);
    const mask = runs && m.maskOf(runs), heat = m.stretch(map);
    found.push({scores: data.inverse.map((each) => m.aggregate(cells, each)), peak: m.peak(map),
      points: mask && m.points(map, mask), dice: mask && cut.map((t) => m.dice(heat, mask, t)),
      edges: mask && m.outline((at) => mask[at] === 1, film.size).split("M").length - 1});
  });
}
console.log(JSON.stringify(found));
"""


def unpacked(cells: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(cells), "<i2") / 32767


DATA = json.loads((FOLDER / "films.json").read_text(encoding="utf-8"))
MAPS = [  # each film, method and its cosines (L, h, w), in the order of the driver
    (film, method, unpacked(film["cells"][method]).reshape(-1, *film["grid"]))
    for film in DATA["films"]
    for method in DATA["methods"]
]


@pytest.fixture(scope="module")
def answers() -> list[dict]:
    """What the page's functions say of each map."""
    if not (node := shutil.which("node")):
        pytest.skip("no Node.js on this machine")
    ran = subprocess.run(
        [node, "-e", DRIVER, str(SCRIPT)], input=json.dumps({**DATA, "inverse": INVERSE}),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def mask_of(runs: list[int], size: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(runs)) % 2, runs).astype(bool).reshape(size)


def test_the_data_are_simulated_small_whole_and_of_the_run():
    films = DATA["films"]
    assert DATA["simulated"] is True and DATA["step"] == 1 / 32767
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 500_000
    height, width = films[0]["size"]
    with Image.open(FOLDER / "films.webp") as image:
        assert image.size == (width * len(films), height)
    assert all(film["lesions"] for film in films)
    assert {len(film["report"][name]) for film in films for name in DATA["methods"]} == {8}
    # the cells give the scores that the run found
    for film, method, cells in MAPS:
        flat = torch.tensor(cells).flatten(1).T[None]
        found = aggregate(flat, 1 / DATA["inverse_temperature"])[0]
        assert np.allclose(found, film["concept"][method], atol=1e-4)


def test_its_eq_8_dice_pointing_and_peak_are_the_packages(answers):
    told = iter(answers)
    judged, equal = 0, []
    for film, _, cells in MAPS:
        placed = on_film(torch.tensor(cells), film["size"])
        heats = grounding_metrics.stretch(placed.clone()).numpy()
        for k, concept in enumerate(DATA["concepts"]):
            said = next(told)
            row, column = divmod(said["peak"], film["size"][1])
            highest = placed[k].numpy()
            assert np.isclose(highest[row, column], highest.max(), atol=1e-6)
            if concept not in film["lesions"]:
                assert "dice" not in said
                continue
            mask = mask_of(film["lesions"][concept], film["size"])
            counts = pixel_counts(heats[k : k + 1], mask)[0]
            # the package's heat maps are float32: one pixel may lie on a threshold's other side
            apart = np.abs(dice(counts) - said["dice"])
            hit, false, missed = counts
            assert (apart <= 2 / (2 * hit + false + missed)).all()
            equal += list(apart < 1e-9)
            assert said["points"] == pointing_hits(placed[k : k + 1].numpy(), mask)[0]
            padded = np.pad(mask, 1).astype(int)
            edges = np.abs(np.diff(padded, axis=0)).sum() + np.abs(np.diff(padded, axis=1)).sum()
            assert said["edges"] == edges
            judged += 1
    assert judged >= 4 * len(DATA["films"]) and len(equal) == judged * len(THRESHOLDS)
    assert np.mean(equal) > 0.99
    cells = np.concatenate([each for *_, each in MAPS])
    flat = torch.tensor(cells).flatten(1)[..., None]
    expected = torch.cat([aggregate(flat, 1 / inverse) for inverse in INVERSE], dim=1)
    assert np.allclose(expected, [each["scores"] for each in answers], atol=1e-9)


def test_a_mask_and_cosines_survive_the_packing_and_real_films_are_not_published():
    mask = np.zeros((4, 5), bool)
    for marked in ((0, 0), (1, 3), (1, 4), (3, 4)):
        mask[marked] = True
        assert (mask_of(run_lengths(mask), [4, 5]) == mask).all()
    cosines = torch.linspace(-1, 1, 12).reshape(1, 3, 4)
    assert np.allclose(unpacked(packed(cosines)), cosines.flatten(), atol=2e-5)
    real = SimpleNamespace(profile=SimpleNamespace(simulated=False))
    with pytest.raises(InputError, match="simulated films only"):
        save_explorable(real, None, ())
