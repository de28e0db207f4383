"""A project of three tiny notebooks for tests of the runner."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from rctpl_utils.run import command as runner

PARAMETERS = """profile = "embedded"
output = None
data_root = None
checkpoint = None
skip_bad = False
allow_partial = False
"""
FIRST = """from pathlib import Path
from rctpl_utils.files import write_text
write_text(Path(output) / "figures" / profile / "first.csv", "a,b\\n1,2\\n")
"""
SECOND = """from pathlib import Path
from rctpl_utils.files import write_text
text = (Path(output) / "figures" / profile / "first.csv").read_text()
write_text(Path(output) / "build" / profile / "second.txt", text)
"""
THIRD = "print(1 + 1)"


def write_notebook(
    folder: Path, name: str, *cells: str, device: str = 'device = "auto"', **rctpl: object
) -> Path:
    """A notebook whose metadata hold `needs` and `alone`, where given."""
    parameters = new_code_cell(PARAMETERS + device, metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell("# Title"), parameters, *map(new_code_cell, cells)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel, "rctpl": rctpl})
    path = folder / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)
    return path


def start(project: Path, *options: str) -> int:
    output = project.parent / "out"
    return runner.main(["--profile", "smoke", "--output", str(output), *options], project)


def statuses(printed: str) -> dict[str, str]:
    """The closing table as {notebook: status}."""
    rows = printed.split("notebook  ")[-1].splitlines()
    table = [line.split("  ") for line in rows if line[:2].isdigit()]
    return {row[0]: next(cell for cell in row[1:] if cell).strip() for row in table}
