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
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
# What is no running text: fences, formulas, code, links, headings, rows of tables.
_NO_PROSE = re.compile(
    r"```.*?```|\$\$.*?\$\$|\$[^$\n]+\$|`[^`\n]*`|(?<!!)\[[^\]]+\]\([^)\s]+\)|^#[^\n]*$|^\|[^\n]*$",
    re.DOTALL | re.MULTILINE,
)
KINDS = ["Compute.", "Change the code.", "Think."]


@cache
def opened(notebook: Path) -> nbformat.NotebookNode:
    return nbformat.read(notebook, as_version=4)


def cells(notebook: Path, tag: str | None = None, kind: str | None = None) -> list:
    return [
        cell
        for cell in opened(notebook).cells
        if tag in (None, *cell.metadata.get("tags", [])) and kind in (None, cell.cell_type)
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
    read = [cell for cell in cells(notebook) if "solution" not in cell.metadata.get("tags", [])]
    words = sum(len(cell.source.split()) for cell in read if cell.cell_type == "markdown")
    lines = sum(len(cell.source.splitlines()) for cell in read if cell.cell_type == "code")
    return 5 * math.ceil((words / 200 + lines / 20) / 5)


def broken_links(text: str, page: Path) -> list[str]:
    """Relative links of a page that lead nowhere, to a file or to a heading in it."""
    broken = []
    for _, target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        there = file.exists() and re.findall(r"^#+ (.+)$", prose(file), re.M) if anchor else ()
        if not file.exists() or (anchor and anchor not in map(slug, there)):
            broken.append(target)
    return broken


# --- a chapter ---


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def chapter(request) -> Path:
    return request.param


def only(chapter: Path, tag: str) -> str:
    (cell,) = cells(chapter, tag)
    return cell.source


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def shown_as(cell) -> str:
    return cell.metadata.get("slideshow", {}).get("slide_type", "-")


def test_it_states_goals_and_a_reading_time_that_is_counted(chapter):
    goals = only(chapter, "goals")
    assert len(re.findall(r"^- ", goals, re.MULTILINE)) == 3
    assert f"**Reading time**: {reading_minutes(chapter)} minutes" in goals
    assert "goals" in tags(cells(chapter)[1]), "they stand below the title"


def test_each_prediction_is_asked_right_before_its_result(chapter):
    """On a slide the result is a fragment: it appears at the next key."""
    pairs = [each for each in pairwise(cells(chapter)) if "predict" in tags(each[0])]
    assert pairs
    for asked, following in pairs:
        assert asked.source.startswith("**Predict first.** ") and "?" in asked.source
        assert following.cell_type == "code" and following.outputs, "the result it asks for"
        assert (shown_as(asked), shown_as(following)) == ("subslide", "fragment")


def test_an_equation_stands_in_it_and_its_first_cell_is_a_slide(chapter):
    assert re.search(r"\$\$.+?\$\$", prose(chapter), re.DOTALL)
    assert shown_as(cells(chapter)[0]) == "slide"
    assert {shown_as(cell) for cell in cells(chapter, "parameters")} == {"skip"}


def test_it_ends_with_three_exercises_of_three_kinds_and_an_idea_to_try(chapter):
    exercises = only(chapter, "exercises")
    assert re.findall(r"^\d\. \*\*(.+?)\*\*", exercises, re.MULTILINE) == KINDS
    assert re.findall(r"^## (.*)", prose(chapter), re.MULTILINE)[-3:] == [
        "Exercises", "What to change to try your own idea", "Solutions",
    ]  # fmt: skip


def test_each_exercise_has_a_folded_solution_that_a_run_checks_and_no_slide_shows(chapter):
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
    everything = "\n".join(map(prose, CHAPTERS))
    assert set(re.findall(r"glossary\.md#([\w-]+)", everything)) == set(terms().values())
    words = re.findall(r"^### (.+)$", prose(GLOSSARY), re.MULTILINE)
    assert len(set(terms().values())) == len(words)


# --- the teaching guide leads to what is there, and its slides can be made ---


def section(heading: str) -> str:
    text = prose(TEACHING)
    return re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.DOTALL | re.M)[1]


@pytest.mark.parametrize("page", [*CHAPTERS, TEACHING, GLOSSARY], ids=lambda path: path.stem)
def test_the_links_of_a_page_lead_somewhere(page):
    assert broken_links(prose(page), page) == []


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
