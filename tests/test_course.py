"""The notebooks are a course: goals, predictions, equations, three exercises with solutions."""

import ast
import math
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from nbconvert import SlidesExporter

from rctpl_utils.run.schedule import find_notebooks
from rctpl_utils.workspace import NOTEBOOKS, PROJECT

GLOSSARY = PROJECT / "docs" / "glossary.md"
TEACHING = PROJECT / "docs" / "teaching.md"
CHAPTERS = find_notebooks(NOTEBOOKS)
# What is no running text: fences, formulas, code, links, headings, rows of tables.
_NO_PROSE = re.compile(
    r"```.*?```|\$\$.*?\$\$|\$[^$\n]+\$|`[^`\n]*`|(?<!!)\[[^\]]+\]\([^)\s]+\)|^#[^\n]*$|^\|[^\n]*$",
    re.DOTALL | re.MULTILINE,
)
KINDS = ["Compute.", "Change the code.", "Think."]


@cache
def opened(notebook: Path) -> nbformat.NotebookNode:
    return nbformat.read(notebook, as_version=4)


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def cells(notebook: Path, tag: str | None = None, kind: str | None = None) -> list:
    return [
        cell
        for cell in opened(notebook).cells
        if tag in (None, *tags(cell)) and kind in (None, cell.cell_type)
    ]


def prose(page: Path) -> str:
    if page.suffix != ".ipynb":
        return page.read_text(encoding="utf-8")
    return "\n".join(cell.source for cell in cells(page, kind="markdown"))


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@cache
def terms() -> dict[str, str]:
    """The glossary's words, in lower case, with their anchors."""
    words = re.findall(r"^### (.+)$", prose(GLOSSARY), re.MULTILINE)
    return {word.lower(): slug(word) for word in words}


def term_uses(text: str) -> list[re.Match]:
    """Where running text uses a glossary's word, longer words first ("concept branch")."""
    words = "|".join(re.escape(word) for word in sorted(terms(), key=len, reverse=True))
    plain = _NO_PROSE.sub(lambda match: " " * len(match[0]), text)
    return list(re.finditer(rf"(?<![\w-])({words})(?:e?s)?(?![\w-])", plain, re.IGNORECASE))


def reading_minutes(notebook: Path) -> int:
    """200 words of prose and 20 lines of code a minute, solutions not counted; fives, up."""
    read = [cell for cell in cells(notebook) if "solution" not in tags(cell)]
    words = sum(len(cell.source.split()) for cell in read if cell.cell_type == "markdown")
    lines = sum(len(cell.source.splitlines()) for cell in read if cell.cell_type == "code")
    return 5 * math.ceil((words / 200 + lines / 20) / 5)


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def chapter(request) -> Path:
    return request.param


def only(chapter: Path, tag: str) -> str:
    (cell,) = cells(chapter, tag)
    return cell.source


def shown_as(cell) -> str:
    return cell.metadata.get("slideshow", {}).get("slide_type", "-")


def test_it_states_goals_a_counted_reading_time_and_an_equation_and_begins_with_a_slide(chapter):
    goals = only(chapter, "goals")
    assert len(re.findall(r"^- ", goals, re.MULTILINE)) == 3
    assert f"**Reading time**: {reading_minutes(chapter)} minutes" in goals
    assert "goals" in tags(cells(chapter)[1]), "they stand below the title"
    assert re.search(r"\$\$.+?\$\$", prose(chapter), re.DOTALL)
    assert shown_as(cells(chapter)[0]) == "slide"
    assert {shown_as(cell) for cell in cells(chapter, "parameters")} == {"skip"}


def test_each_prediction_is_asked_right_before_its_result(chapter):
    """On a slide the result is a fragment: it appears at the next key."""
    pairs = [each for each in pairwise(cells(chapter)) if "predict" in tags(each[0])]
    assert pairs
    for asked, following in pairs:
        assert asked.source.startswith("**Predict first.** ") and "?" in asked.source
        assert following.cell_type == "code" and following.outputs, "the result it asks for"
        assert (shown_as(asked), shown_as(following)) == ("subslide", "fragment")


def test_it_ends_with_three_exercises_an_idea_and_folded_solutions_that_a_run_checks(chapter):
    exercises = only(chapter, "exercises")
    assert re.findall(r"^\d\. \*\*(.+?)\*\*", exercises, re.MULTILINE) == KINDS
    assert re.findall(r"^## (.*)", prose(chapter), re.MULTILINE)[-3:] == [
        "Exercises", "What to change to try your own idea", "Solutions",
    ]  # fmt: skip
    solutions = cells(chapter, "solution")
    assert cells(chapter)[-3:] == solutions, "below everything else, not beside the question"
    for cell in solutions:
        assert cell.cell_type == "code" and shown_as(cell) == "skip"
        assert cell.metadata["jupyter"] == {"source_hidden": True, "outputs_hidden": True}
        tests = [node.test for node in ast.walk(ast.parse(cell.source)) if type(node) is ast.Assert]
        assert any(not isinstance(test, ast.Constant) for test in tests), "an assert that can fail"


def test_a_glossary_word_is_linked_at_its_first_use(chapter):
    linked: set[str] = set()
    for cell in cells(chapter, kind="markdown"):
        places = {
            match.start(): match[1]
            for match in re.finditer(r"\]\(\.\./docs/glossary\.md#([\w-]+)\)", cell.source)
        }
        for use in term_uses(cell.source):
            before = {name for start, name in places.items() if start < use.start()}
            told = f"{use[0]!r} is not linked: {cell.source[:80]}"
            assert terms()[use[1].lower()] in linked | before, told
        linked |= set(places.values())
    assert linked


def test_every_glossary_word_is_used_and_told_once():
    everything, anchors = "\n".join(map(prose, CHAPTERS)), set(terms().values())
    assert set(re.findall(r"glossary\.md#([\w-]+)", everything)) == anchors
    assert len(re.findall(r"^### .+$", prose(GLOSSARY), re.MULTILINE)) == len(anchors)


def section(heading: str) -> str:
    text = prose(TEACHING)
    return re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.DOTALL | re.M)[1]


PLANS = {"90 minutes: text in place of images": 90, "Half a day: can you believe it?": 230}


@pytest.mark.parametrize("plan", PLANS)
def test_the_minutes_of_a_plan_add_up(plan):
    minutes = re.findall(r"^\| (\d+) \|", section(plan), re.MULTILINE)
    assert sum(map(int, minutes)) == PLANS[plan]


def test_the_week_visits_every_chapter_and_the_quiz_has_an_answer_a_question():
    week = section("A week: change one thing")
    assert [path.name for path in CHAPTERS if path.name not in week] == []
    asked, answered = section("Quiz: real or simulated?").split("<details>")
    numbers = [re.findall(r"^(\d+)\. ", part, re.MULTILINE) for part in (asked, answered)]
    assert numbers[0] == numbers[1] and len(numbers[0]) >= 8


def test_a_chapter_becomes_slides_without_its_solutions():
    named = re.findall(r"notebooks/\S+\.ipynb(?!\))", section("Slides"))
    assert len(named) == 2 and all((PROJECT / name).exists() for name in named)
    chapter = next(path for path in CHAPTERS if path.stem.startswith("04a"))
    page, _ = SlidesExporter().from_notebook_node(opened(chapter))
    assert page.count("<section") > 5 and 'class="fragment"' in page
    skipped = {cell.id for cell in cells(chapter, "solution")}
    shown = {cell.id for cell in cells(chapter) if f"cell-id={cell.id}" in page}
    assert not shown & skipped and {"course-predict-1", "4bf07d46", "course-exercises"} <= shown
