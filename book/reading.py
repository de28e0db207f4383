"""What the book changes while it reads: set-up hides, solutions collapse, tables get a title."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat

if TYPE_CHECKING:
    from sphinx.application import Sphinx

TABLES = "figures/embedded/"  # documents that begin with a caption and have no heading


def read_notebook(text: str) -> nbformat.NotebookNode:
    """Read a notebook; code that slides skip (set-up, solutions) opens with a click in the book."""
    notebook = nbformat.reads(text, as_version=4)
    for cell in notebook.cells:
        skipped = cell.metadata.get("slideshow", {}).get("slide_type") == "skip"
        if cell.cell_type == "code" and skipped:
            cell.metadata.tags = [*cell.metadata.get("tags", []), "hide-cell"]
    return notebook


def adapt(app: "Sphinx", document: str, source: list[str]) -> None:
    """Sphinx's event `source-read`: titles for tables, and pages for folders.

    A table is named after its file (`table1` is "Table 1"); a link to a folder leads to the first
    document in it.
    """
    place = Path(app.srcdir, document).parent

    def first_page(link: re.Match[str]) -> str:
        pages = sorted((place / link[1]).glob("*.md"))
        return f"]({link[1]}{pages[0].name})" if pages else link[0]

    source[0] = re.sub(r"\]\(([\w./]+/)\)", first_page, source[0])
    if document.startswith(TABLES):
        name = document.removeprefix(TABLES).replace("table", "table ").capitalize()
        source[0] = f"# {name}\n\n{source[0]}"


def write_data(app: "Sphinx", exception: Exception | None) -> None:
    """Sphinx's event `build-finished`: the page's data as a script, since files read no JSON."""
    if exception is None:
        static = Path(app.outdir) / "_static"
        data = (static / "films.json").read_text(encoding="utf-8")
        (static / "films.js").write_text(f"const DATA = {data};\n", encoding="utf-8")
