"""The front door: README's length and numbers, links between pages, the quickstart, Binder."""

import re
import stat
import subprocess
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from test_course import CHAPTERS, prose, slug

from rctpl_utils.workspace import NOTEBOOKS, PROJECT

PAGES = [PROJECT / f"{name}.md" for name in ("README", "RESULTS", "ARTIFACT", "CONTRIBUTING")]
PAGES += [*sorted((PROJECT / "docs").rglob("*.md")), *CHAPTERS]
GENERATED = re.compile(r"<!-- ([\w ]+):.*?<!-- end of \1 -->|<!-- map:start.*?map:end -->", re.S)
TYPED = {  # numbers that no result file has, and why they may stand there
    "3.10": "Python's versions, tested against pyproject.toml below", "3.13": "the same",
    "7": "GB: the size of .venv on Linux", "2": "Figure 2", "00": "a notebook", "04": "a notebook",
    "2.0": "of a licence",
}  # fmt: skip


def test_readme_is_short_and_names_the_versions_that_install():
    assert len(PAGES[0].read_text(encoding="utf-8").split()) <= 1000
    wanted = 'requires-python = ">=3.10,<3.14"'
    assert wanted in (PROJECT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda page: page.name)
def test_every_number_is_generated_or_known(page):
    written = GENERATED.sub("", page.read_text(encoding="utf-8"))
    words = re.sub(r"`[^`]*`|\[[^]]*\]\([^)]*\)", "", written)
    assert set(re.findall(r"\d+(?:\.\d+)?", words)) <= set(TYPED)


def anchors(page: Path) -> set[str]:
    return {slug(head) for head in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)}


def broken_links(text: str, page: Path) -> list[str]:
    """Relative links of a page that lead nowhere, to a file or to a heading in it."""
    broken = []
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_every_link_leads_somewhere(page):
    assert broken_links(prose(page), page) == []
    bad = "[a](glossary.md#no-such-word) [b](no_such_page.md) [c](glossary.md#film)"
    found = broken_links(bad, PROJECT / "docs" / "teaching.md")
    assert found == ["glossary.md#no-such-word", "no_such_page.md"]


def test_the_quickstart_runs_from_a_clone_and_prints_what_it_shows():
    committed = nbformat.read(NOTEBOOKS / "quickstart.ipynb", 4)
    fresh = nbformat.from_dict(committed)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(fresh, timeout=300, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    for now, then in zip(fresh.cells, committed.cells, strict=True):
        mine, shown = printed(now), printed(then)
        assert re.sub(NUMBER, "#", mine) == re.sub(NUMBER, "#", shown)
        pairs = zip(re.findall(NUMBER, mine), re.findall(NUMBER, shown), strict=True)
        assert all(abs(float(a) - float(b)) <= 0.01 + 0.01 * abs(float(b)) for a, b in pairs)


NUMBER = r"-?\d+\.\d+"


def printed(cell) -> str:
    outputs = [each for each in cell.get("outputs", []) if each.get("name") != "stderr"]
    return "".join(each.get("text") or each["data"]["text/plain"] for each in outputs)


def test_binder_gets_a_python_that_installs_and_a_script_that_runs():
    environment = yaml.safe_load((PROJECT / "binder" / "environment.yml").read_text())
    assert "python=3.11" in environment["dependencies"]
    script = PROJECT / "binder" / "postBuild"
    assert script.stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", str(script)], check=True)
