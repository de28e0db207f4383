"""A project of three tiny notebooks for tests of the runner, with or without kernels."""

import json
import os
import shutil
import subprocess
import sys
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from rctpl_utils.files import WRITES
from rctpl_utils.run import command as runner
from rctpl_utils.run.execution import NotebookFailure

# A notebook's parameters cell
PARAMETERS = {"profile": "embedded", "output": None, "data_root": None, "checkpoint": None}
PARAMETERS |= {"device": "auto", "skip_bad": False, "allow_partial": False}
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
# In a process of its own: the package's hash held fixed, as the fixture `project` does in ours.
COMMAND = """import pathlib, sys
from rctpl_utils.run import schedule
from toy_project import start
schedule.package_hash = lambda: "package"
sys.exit(start(pathlib.Path(sys.argv[1])))
"""


def write_notebook(folder: Path, name: str, *cells: str, **rctpl: object) -> Path:
    """A notebook whose metadata hold `needs` and `alone`, where given."""
    lines = "\n".join(f"{each} = {value!r}" for each, value in PARAMETERS.items())
    tagged = new_code_cell(lines, metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell("# Title"), tagged, *map(new_code_cell, cells)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel, "rctpl": rctpl})
    path = folder / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)
    return path


def start(project: Path, *options: str) -> int:
    output = project.parent / "out"
    return runner.main(["--profile", "smoke", "--output", str(output), *options], project)


def begin(project: Path, *paths: Path, **changed: str) -> subprocess.Popen:
    """Start a run in a process of its own, with `paths` first on its path for modules."""
    path = os.pathsep.join(map(str, filter(None, (*paths, *sys.path))))
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(project)],
        env=os.environ | {"PYTHONPATH": path} | changed,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Its exit status and what it said on stderr."""
    said = process.communicate(timeout=300)[1]
    return process.returncode, said.decode(errors="replace")


def run_cells(notebook: Path, parameters: dict) -> None:
    """Execute a notebook's code in this process, its parameters replaced as papermill does."""
    scope: dict = {"__name__": "__main__"}
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, notebook.name, "exec"), scope)
            if "parameters" in cell.metadata.get("tags", []):
                scope |= parameters


class InProcess(ThreadPoolExecutor):
    """Stands for `execution.workers` where kernels are not what is tested: they take seconds."""

    def submit(self, _, notebook, copy, parameters, environment, progress) -> Future:
        return super().submit(self._run, notebook, copy, parameters, environment)

    def _run(self, notebook, copy, parameters, environment) -> tuple[float, int]:
        os.environ[WRITES] = environment[WRITES]  # of this process: no two may write at a time
        try:
            run_cells(notebook, parameters)
        except Exception as error:
            raise NotebookFailure(notebook.name, traceback.format_exc(), "") from error
        finally:
            os.environ.pop(WRITES, None)
        shutil.copy(notebook, copy)
        return 0.1, 1


def statuses(printed: str) -> dict[str, str]:
    """The closing table as {notebook: status}."""
    rows = printed.split("notebook  ")[-1].splitlines()
    table = [line.split("  ") for line in rows if line[:2].isdigit()]
    return {row[0]: next(cell for cell in row[1:] if cell).strip() for row in table}


def manifest_of(project: Path) -> dict:
    """What the run's `manifest.json` tells."""
    path = project.parent / "out" / "figures" / "smoke" / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8"))
