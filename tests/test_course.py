"""The notebooks are a course: goals, predictions, equations, three exercises with solutions."""

import ast
import re
from pathlib import Path

import pytest
from course import CHAPTERS, GLOSSARY, broken_links, cells, reading_minutes, slug, term_uses, terms

KINDS = ["Compute.", "Change the code.", "Think."]


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def chapter(request) -> Path:
    return request.param


def only(chapter: Path, tag: str) -> str:
    (cell,) = cells(chapter, tag)
    return cell.source


def test_it_states_goals_and_a_reading_time_that_is_counted(chapter):
    goals = only(chapter, "goals")
    assert len(re.findall(r"^- ", goals, re.MULTILINE)) == 3
    assert f"**Reading time**: {reading_minutes(chapter)} minutes" in goals
    assert "goals" in cells(chapter)[1].metadata["tags"], "they stand below the title"


def test_each_prediction_is_asked_right_before_its_result(chapter):
    all_cells = cells(chapter)
    asked = [i for i, cell in enumerate(all_cells) if "predict" in cell.metadata.get("tags", [])]
    assert asked
    for i in asked:
        assert all_cells[i].source.startswith("**Predict first.** ") and "?" in all_cells[i].source
        following = all_cells[i + 1]
        assert following.cell_type == "code" and following.outputs, "the result it asks for"


def test_an_equation_stands_in_it(chapter):
    prose = [cell.source for cell in cells(chapter) if cell.cell_type == "markdown"]
    assert re.search(r"\$\$.+?\$\$", "\n".join(prose), re.DOTALL)


def test_it_ends_with_three_exercises_of_three_kinds_and_an_idea_to_try(chapter):
    exercises = only(chapter, "exercises")
    assert re.findall(r"^\d\. \*\*(.+?)\*\*", exercises, re.MULTILINE) == KINDS
    headings = [
        line for cell in cells(chapter) if cell.cell_type == "markdown"
        for line in cell.source.splitlines() if line.startswith("## ")
    ]  # fmt: skip
    assert headings[-3:] == [
        "## Exercises",
        "## What to change to try your own idea",
        "## Solutions",
    ]


def test_each_exercise_has_a_folded_solution_that_a_run_checks(chapter):
    solutions = cells(chapter, "solution")
    assert cells(chapter)[-3:] == solutions, "below everything else, not beside the question"
    for cell in solutions:
        assert cell.cell_type == "code"
        assert cell.metadata["jupyter"] == {"source_hidden": True, "outputs_hidden": True}
        tests = [node.test for node in ast.walk(ast.parse(cell.source)) if type(node) is ast.Assert]
        assert any(not isinstance(test, ast.Constant) for test in tests), "an assert that can fail"


def test_a_glossary_word_is_linked_at_its_first_use(chapter):
    linked: set[str] = set()
    for cell in cells(chapter):
        if cell.cell_type != "markdown":
            continue
        places = {
            match.start(): match[1]
            for match in re.finditer(r"\]\(\.\./docs/glossary\.md#([\w-]+)\)", cell.source)
        }
        for use in term_uses(cell.source):
            anchor = terms()[use[1].lower()]
            before = {name for start, name in places.items() if start < use.start()}
            assert anchor in linked | before, f"{use[0]!r} is not linked: {cell.source[:80]}"
        linked |= set(places.values())
    assert linked


def test_its_links_lead_somewhere(chapter):
    prose = "\n".join(cell.source for cell in cells(chapter) if cell.cell_type == "markdown")
    assert broken_links(prose, chapter) == []


def test_every_glossary_word_is_used_and_told_once():
    used = set()
    for chapter in CHAPTERS:
        prose = "\n".join(cell.source for cell in cells(chapter) if cell.cell_type == "markdown")
        used |= set(re.findall(r"glossary\.md#([\w-]+)", prose))
    assert used == set(terms().values())
    words = re.findall(r"^### (.+)$", GLOSSARY.read_text(encoding="utf-8"), re.MULTILINE)
    assert len({slug(word) for word in words}) == len(words)
