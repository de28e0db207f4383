"""Every committed notebook can be run by the runner and read without running it."""

import ast
import re
from pathlib import Path

import pytest
from test_course import CHAPTERS, cells, opened
from toy_project import PARAMETERS

from rctpl_utils.run.execution import check_parameters
from rctpl_utils.run.schedule import number_of
from rctpl_utils.workspace import PROJECT

# What a notebook's code calls or reads, and the notebooks that make it.
READS = {
    "run_reports": {"00"},
    "open_split": {"00"},
    "can_run": {"00"},
    "workspace.triplets": {"01"},
    "load_encoders": {"03"},
    "load_corpora": {"00", "01"},
    "load_prompts": {"04"},
    "load_competitors": {"04b", "04c"},
    "method_map": {"04", "04b", "04c", "05", "06"},
    "save_reproduction": {"05", "06", "07"},
    "save_claims": {"05", "06", "07", "08", "09"},
}
MAKES = {"workspace.triplets": "01"}  # who names it because it writes it


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def notebook(request) -> Path:
    return request.param


def test_it_opens_with_a_title_prose_and_what_it_needs_makes_and_costs(notebook):
    first = cells(notebook)[0]
    assert first.cell_type == "markdown"
    title, *prose = first.source.splitlines()
    assert title.startswith("# ")
    assert len(" ".join(prose).split()) >= 20, "say what it needs, makes and costs"
    bullets = re.findall(r"^\* \*\*(\w+)\*\*", first.source, re.MULTILINE)
    assert bullets == ["needs", "makes", "costs"]


def numbers(names: list[str]) -> list[str]:
    return [name.split("_")[0] for name in names]


def test_its_prose_and_its_metadata_name_the_same_needs(notebook):
    bullet = re.search(r"\* \*\*needs\*\*(.*?)\n\* ", cells(notebook)[0].source, re.DOTALL)[1]
    stated = numbers(opened(notebook).metadata["rctpl"]["needs"])
    assert sorted(re.findall(r"\((\d\d[a-z]?)\)", bullet)) == stated


def test_it_needs_every_notebook_whose_files_it_reads(notebook):
    """By the functions that its code calls and the attributes of `workspace` that it names."""
    read = set()
    for cell in cells(notebook, kind="code"):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Call):
                read.add(ast.unparse(node.func).split(".")[-1])
            elif isinstance(node, ast.Attribute):
                read.add(ast.unparse(node))
    asked = {name for name in read & {*READS} if MAKES.get(name) != number_of(notebook)}
    stated = numbers(opened(notebook).metadata["rctpl"]["needs"])
    assert set().union(*(READS[name] for name in asked)) <= set(stated)


def test_it_has_one_parameters_cell_with_the_common_defaults(notebook):
    check_parameters(notebook, PARAMETERS)
    (tagged,) = cells(notebook, "parameters")
    values: dict = {}
    exec(tagged.source, {}, values)
    assert values == PARAMETERS


def test_it_was_executed_to_its_end_without_an_error_or_injected_parameters(notebook):
    code = [cell for cell in cells(notebook, kind="code") if cell.source.strip()]
    counts = [cell.execution_count for cell in code]
    assert counts == list(range(1, len(code) + 1)), "run ./run_all.sh --save-outputs"
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs, "no cell shows anything"
    assert not [output for output in outputs if output.output_type == "error"]
    assert not cells(notebook, "injected-parameters")
    assert "papermill" not in opened(notebook).metadata


def test_its_outputs_name_no_place_of_a_machine(notebook):
    for cell in cells(notebook, kind="code"):
        text = "".join(
            str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
            for output in cell.outputs
        )
        assert str(PROJECT) not in text, cell.source
        assert not re.search(r"/(home|root|Users|var|private)/|[A-Z]:\\", text), cell.source
