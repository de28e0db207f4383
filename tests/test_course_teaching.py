"""The teaching guide leads to what is there, and its slides can be made."""

import re
from itertools import pairwise

import nbformat
import pytest
from course import CHAPTERS, GLOSSARY, TEACHING, broken_links, cells
from nbconvert import SlidesExporter

from rctpl_utils.workspace import PROJECT

GUIDE = TEACHING.read_text(encoding="utf-8")


def section(heading: str) -> str:
    return re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", GUIDE, re.DOTALL | re.M)[1]


@pytest.mark.parametrize("page", [TEACHING, GLOSSARY], ids=lambda path: path.stem)
def test_the_links_of_a_page_lead_somewhere(page):
    assert broken_links(page.read_text(encoding="utf-8"), page) == []


def test_a_wrong_link_is_found():
    bad = "[a](glossary.md#no-such-word) [b](no_such_page.md) [c](glossary.md#film)"
    assert broken_links(bad, TEACHING) == ["glossary.md#no-such-word", "no_such_page.md"]


@pytest.mark.parametrize(
    ("plan", "length"),
    [("90 minutes: text in place of images", 90), ("Half a day: can you believe it?", 230)],
)
def test_the_minutes_of_a_plan_add_up(plan, length):
    minutes = [int(each) for each in re.findall(r"^\| (\d+) \|", section(plan), re.MULTILINE)]
    assert sum(minutes) == length


def test_the_week_visits_every_chapter():
    week = section("A week: change one thing")
    assert [path.name for path in CHAPTERS if path.name not in week] == []


def test_the_quiz_has_an_answer_a_question():
    quiz = section("Quiz: real or simulated?")
    asked, answered = quiz.split("<details>")
    numbers = [re.findall(r"^(\d+)\. ", part, re.MULTILINE) for part in (asked, answered)]
    assert numbers[0] == numbers[1] and len(numbers[0]) >= 8


def test_the_commands_for_slides_name_notebooks():
    named = re.findall(r"notebooks/\S+\.ipynb(?!\))", section("Slides"))
    assert len(named) == 2 and all((PROJECT / name).exists() for name in named)


def test_a_chapter_becomes_slides_without_its_solutions():
    """The result of a prediction is a fragment: it appears at the next key."""
    chapter = next(path for path in CHAPTERS if path.stem.startswith("04a"))
    page, _ = SlidesExporter().from_notebook_node(nbformat.read(chapter, as_version=4))
    assert page.count("<section") > 5 and 'class="fragment"' in page
    skipped = {cell.id for cell in cells(chapter, "solution")}
    shown = {cell.id for cell in cells(chapter) if f"cell-id={cell.id}" in page}
    assert not shown & skipped and {"course-predict-1", "4bf07d46", "course-exercises"} <= shown


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_what_a_slide_shows_is_marked(chapter):
    kinds = {
        cell.id: cell.metadata.get("slideshow", {}).get("slide_type", "-")
        for cell in cells(chapter)
    }
    everything = cells(chapter)
    assert kinds[everything[0].id] == "slide"
    assert {kinds[cell.id] for cell in cells(chapter, "solution")} == {"skip"}
    assert {kinds[cell.id] for cell in cells(chapter, "parameters")} == {"skip"}
    for asked, result in pairwise(everything):
        if "predict" in asked.metadata.get("tags", []):
            assert (kinds[asked.id], kinds[result.id]) == ("subslide", "fragment")
