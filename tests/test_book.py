"""The book: built from what is committed, whole, without foreign hosts, legible on a phone."""

import json
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import numpy as np
import pytest

from rctpl_utils.workspace import NOTEBOOKS, PROJECT

BOOK = PROJECT / "build" / "book"
PYTHON = PROJECT / ".venv-book" / "bin" / "python"
BROWSER = PROJECT / "tests" / "book_browser.py"
FOLDER = PROJECT / "figures" / "embedded" / "explorable"


@pytest.fixture(scope="module")
def built() -> Path:
    """The book, brought up to date as `./run_all.sh book` does; a warning fails the build."""
    if not PYTHON.exists():
        pytest.skip("no .venv-book: ./run_all.sh book makes it")
    command = [PYTHON, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "book", ".", BOOK]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return BOOK


def browse(what: str, book: Path) -> dict:
    chromium, driver = (
        next(filter(None, map(shutil.which, names)), None)
        for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",))
    )
    if not (chromium and driver):
        pytest.skip("no Chromium with chromedriver on this machine")
    command = [PYTHON, BROWSER, what, book, chromium, driver]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def pages(built) -> dict[str, dict]:
    """What the browser saw of each page."""
    return browse("pages", built)


@pytest.fixture(scope="module")
def explored(built) -> dict:
    """What the explorable page showed, control by control."""
    return browse("explore", built)


class Links(HTMLParser):
    """A page's links and anchors."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [values[name] for name in ("href", "src") if values.get(name)]
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}


def test_each_link_of_a_page_leads_somewhere(built):
    found = {page: Links(page) for page in built.rglob("*.html") if "_static" not in page.parts}
    broken, followed = [], 0
    for page, each in found.items():
        for link in each.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            there = target.exists() and (
                target not in found
                or not parts.fragment
                or unquote(parts.fragment) in found[target].anchors
            )
            followed += 1
            if not there:
                broken.append(f"{page.relative_to(built)}: {link}")
    assert not broken and followed > 1000


def test_each_notebook_and_document_is_a_page_in_navigation_and_search(built):
    sources = [*NOTEBOOKS.glob("*.ipynb"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("*.md")]
    targets = {unquote(link) for link in Links(built / "README.html").links} | {"README.html"}
    for source in sources:
        page = source.relative_to(PROJECT).with_suffix(".html").as_posix()
        assert (built / page).exists() and (page in targets), page
    index = (built / "searchindex.js").read_text(encoding="utf-8")
    assert "notebooks/06_zero_shot_grounding" in index and '"grad"' in index


def test_no_page_asks_another_host_complains_or_is_wider_than_a_phone_or_a_desk(pages):
    root = BOOK.as_uri()
    asked = [url for seen in pages.values() for url in seen["requests"]]
    assert len(asked) > 10 * len(pages) > 100
    assert not [url for url in asked if not url.startswith((root, "data:", "blob:"))]
    assert not {page: seen["errors"] for page, seen in pages.items() if seen["errors"]}
    wide = {page: seen["widths"] for page, seen in pages.items()}
    assert not {page: w for page, w in wide.items() if w[0] > 375 or w[1] > 1200}


def test_each_figure_is_loaded_and_each_formula_set(pages):
    empty = {p: [i for i in seen["images"] if not i[1]] for p, seen in pages.items()}
    assert not {page: images for page, images in empty.items() if images}
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        cells = nbformat.read(notebook, as_version=4).cells
        outputs = [output for cell in cells for output in cell.get("outputs", ())]
        pictures = sum("image/png" in output.get("data", {}) for output in outputs)
        assert len(pages[f"notebooks/{notebook.stem}.html"]["images"]) >= pictures
    assert sum(seen["formulas"] for seen in pages.values()) > 100
    assert not [page for page, seen in pages.items() if seen["unset"] or seen["wrong"]]


def test_set_up_hides_and_solutions_collapse(built):
    folded = 0
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        cells = nbformat.read(notebook, as_version=4).cells
        kinds = [cell.metadata.get("slideshow", {}) for cell in cells if cell.cell_type == "code"]
        expected = sum(each.get("slide_type") == "skip" for each in kinds)
        page = (built / "notebooks" / f"{notebook.stem}.html").read_text(encoding="utf-8")
        assert page.count('<details class="admonition hide') == expected, notebook.stem
        assert "<details open" not in page
        folded += expected
    assert folded > 50


def number(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-"))


def test_the_explorable_page_shows_the_runs_numbers_for_each_film_and_method(explored):
    data = json.loads((FOLDER / "films.json").read_text(encoding="utf-8"))
    shown = [r for r in explored["readings"] if r["inverse"] == str(data["inverse_temperature"])]
    assert {int(r["film"]) for r in shown} == set(range(len(data["films"])))
    assert {int(r["method"]) for r in shown} == set(range(len(data["methods"])))
    for r in shown:
        film, method = data["films"][int(r["film"])], data["methods"][int(r["method"])]
        p, score = (film[name][method][int(r["concept"])] for name in ("report", "concept"))
        expected = [p, score, (p + score) / 2]
        told = [number(r[name]) for name in ("report", "score", "fused")]
        assert np.allclose(told, expected, atol=0.0007)


def test_the_sliders_change_eq_8_and_dice_by_keyboard_and_by_click(explored):
    readings = explored["readings"]
    changed = {
        control: [
            (before, after)
            for before, after in pairwise(readings)
            if before[control] != after[control] and before["film"] == after["film"]
        ]
        for control in ("inverse", "threshold")
    }
    assert len(changed["inverse"]) == 4 and len(changed["threshold"]) == 3  # one click
    assert any(b["score"] != a["score"] for b, a in changed["inverse"])
    assert all(b["dice"] == a["dice"] for b, a in changed["inverse"])
    assert all(b["dice"] != a["dice"] for b, a in changed["threshold"])
    ends = [r["inverse"] for r in readings]
    assert "1" in ends and "160" in ends


def test_the_explorable_page_speaks_and_is_quiet(explored):
    assert explored["tab order"] == ["concept", "method", "inverse", "threshold"]
    assert all(explored["labels"]) and len(explored["labels"]) == 4
    assert explored["labels"][0].startswith("Simulated film")
    assert len(explored["sentences"]) == 6
    verdicts = " ".join(r["verdict"] for r in explored["readings"])
    assert "hit." in verdicts and "miss." in verdicts and "no lesion of it is drawn" in verdicts
    assert not explored["errors"]
    assert all(url.startswith(BOOK.as_uri()) for url in explored["requests"])
