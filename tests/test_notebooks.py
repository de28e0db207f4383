"""Every committed notebook can be run by the runner and read without running it."""

import re
from pathlib import Path

import nbformat
import pytest

from rctpl_utils.run.execution import check_parameters
from rctpl_utils.run.schedule import find_notebooks
from rctpl_utils.run.schedule import needs_of, number_of
from rctpl_utils.workspace import NOTEBOOKS, PROJECT

PARAMETERS = {
    "profile": "embedded",
    "output": None,
    "data_root": None,
    "checkpoint": None,
    "device": "auto",
    "skip_bad": False,
    "allow_partial": False,
}
# What a notebook's source asks for, and the notebooks that make it.
READS = {
    "run_reports(": {"00"},
    "open_split(": {"00"},
    "can_run(": {"00"},
    "read_parquet(workspace.triplets)": {"01"},
    "load_encoders(": {"03"},
    "load_corpora(": {"00", "01"},
    "load_prompts(": {"04"},
    "load_competitors(": {"04b", "04c"},
    "method_map(": {"04", "04b", "04c", "05", "06"},
    "save_reproduction(": {"05", "06", "07"},
    "save_claims(": {"05", "06", "07", "08", "09"},
}


@pytest.fixture(params=find_notebooks(NOTEBOOKS), ids=lambda path: path.stem)
def notebook(request) -> Path:
    return request.param


def cells(notebook: Path, kind: str | None = None) -> list:
    found = nbformat.read(notebook, as_version=4).cells
    return [cell for cell in found if kind in (None, cell.cell_type)]


def test_it_opens_with_a_title_and_prose(notebook):
    first = cells(notebook)[0]
    assert first.cell_type == "markdown"
    title, *prose = first.source.splitlines()
    assert title.startswith("# ")
    assert len(" ".join(prose).split()) >= 20, "say what it needs, makes and costs"


def test_it_says_in_bullets_what_it_needs_makes_and_costs(notebook):
    first = cells(notebook)[0].source
    assert re.findall(r"^\* \*\*(\w+)\*\*", first, re.MULTILINE) == ["needs", "makes", "costs"]


def test_it_names_every_notebook_whose_files_it_reads(notebook):
    source = "\n".join(cell.source for cell in cells(notebook, "code"))
    read = set().union(*(made for asked, made in READS.items() if asked in source))
    bullet = re.search(r"\* \*\*needs\*\*(.*?)\n\* ", cells(notebook)[0].source, re.DOTALL)[1]
    assert read <= set(re.findall(r"\((\w+)\)", bullet))


def test_what_is_needed_comes_before(notebook):
    needs = {number_of(one) for one in needs_of(find_notebooks(NOTEBOOKS))[notebook]}
    assert all(number < number_of(notebook) for number in needs)


def test_it_has_one_parameters_cell_with_the_common_defaults(notebook):
    check_parameters(notebook, PARAMETERS)
    tagged = [cell for cell in cells(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    values: dict = {}
    exec(tagged[0].source, {}, values)
    assert values == PARAMETERS


def test_it_was_saved_without_injected_parameters(notebook):
    for cell in cells(notebook):
        assert "injected-parameters" not in cell.metadata.get("tags", [])
    assert "papermill" not in nbformat.read(notebook, as_version=4).metadata


def test_it_was_executed_to_its_end_without_an_error(notebook):
    code = [cell for cell in cells(notebook, "code") if cell.source.strip()]
    counts = [cell.execution_count for cell in code]
    assert counts == list(range(1, len(code) + 1)), "run ./run_all.sh --save-outputs"
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs, "no cell shows anything"
    assert not [output for output in outputs if output.output_type == "error"]


def test_its_outputs_name_no_place_of_a_machine(notebook):
    for cell in cells(notebook, "code"):
        text = "".join(
            str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
            for output in cell.outputs
        )
        assert str(PROJECT) not in text, cell.source
        assert not re.search(r"/(home|root|Users|var|private)/|[A-Z]:\\", text), cell.source
