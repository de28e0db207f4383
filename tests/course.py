"""What the tests of the course share: chapters, their prose, the glossary's terms in it."""

import math
import re
from functools import cache
from pathlib import Path

import nbformat

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


@cache
def opened(notebook: Path) -> nbformat.NotebookNode:
    return nbformat.read(notebook, as_version=4)


def cells(notebook: Path, tag: str | None = None) -> list:
    found = opened(notebook).cells
    return [cell for cell in found if tag is None or tag in cell.metadata.get("tags", [])]


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = page.read_text(encoding="utf-8")
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@cache
def terms() -> dict[str, str]:
    """The glossary's words, in lower case, with their anchors."""
    text = GLOSSARY.read_text(encoding="utf-8")
    return {word.lower(): slug(word) for word in re.findall(r"^### (.+)$", text, re.MULTILINE)}


def term_uses(prose: str) -> list[re.Match]:
    """Where running text uses a glossary's word, longer words first ("concept branch")."""
    words = "|".join(re.escape(word) for word in sorted(terms(), key=len, reverse=True))
    plain = _NO_PROSE.sub(lambda match: " " * len(match[0]), prose)
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
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    return broken
