"""Sphinx: the book of the committed notebooks and documents; nothing is run, nothing fetched.

The source folder is the project itself, so links between documents, notebooks and code mean the
same here as in the repository: a document's page, or a copy of the file.
"""

import sys
from pathlib import Path

from sphinx.application import Sphinx

BOOK = Path(__file__).resolve().parent
PROJECT = BOOK.parent
sys.path.insert(0, str(BOOK))  # for `reading`

project = "RC-TPL companion"
author = "RC-TPL companion maintainers"
project_copyright = author
language = "en"
html_title = project

extensions = ["sphinx_external_toc", "myst_nb", "sphinx-mathjax-offline"]
external_toc_path = str(BOOK / "toc.yml")
include_patterns = [
    "*.md", "docs/**", "notebooks/*.ipynb", "book/*.md", "figures/README.md",
    "figures/embedded/*.md",
]  # fmt: skip
suppress_warnings = ["etoc.glob"]  # a document of the contents that is not there yet

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"
nb_custom_formats = {".ipynb": "reading.read_notebook"}
nb_output_stderr = "remove"
nb_merge_streams = True

html_theme = "sphinx_book_theme"
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "navbar_persistent": []}
html_context = {"default_mode": "auto"}
html_static_path = ["explorable", "../figures/embedded/explorable"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_sourcelink = False


def setup(app: Sphinx) -> None:
    """Adapt what is read to a book, and give the explorable page its data."""
    from reading import adapt, write_data

    app.connect("source-read", adapt)
    app.connect("build-finished", write_data)
