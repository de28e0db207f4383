"""Running one notebook: parameters, outputs, what it made, and what to say when it fails."""

import base64
import io
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image

from rctpl_utils.errors import InputError
from rctpl_utils.files import atomic_path
from rctpl_utils.run.resources import PeakMemory, own_kernel

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class NotebookFailure(RuntimeError):
    """A notebook stopped: where, the error's last lines, and what to do."""

    def __init__(self, notebook: Path, cell: int | None, lines: str, cure: str) -> None:
        place = f"{notebook.name}, cell {cell}" if cell is not None else notebook.name
        super().__init__(f"{place} failed.\n\n{lines}\n\n{cure}")
        self.parts = (notebook, cell, lines, cure)

    def __reduce__(self) -> tuple:
        """Exceptions are made anew from their arguments when they come from another process."""
        return (type(self), self.parts)


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Refuse a notebook whose parameters cell does not declare exactly what the runner passes.

    Raises:
        InputError: a parameter that the notebook does not know, or one that nobody sets.
    """
    from papermill import inspect_notebook  # slow to import, and needed only when one runs

    try:
        declared = set(inspect_notebook(str(notebook)))
    except ValueError as error:  # no kernel named
        raise InputError(str(error).rstrip("."), "Restore the notebook.", file=notebook) from error
    unknown, unset = set(parameters) - declared, declared - set(parameters)
    if unknown or unset:
        what = [f"does not know {name!r}" for name in sorted(unknown)]
        what += [f"has {name!r}, which the runner does not set" for name in sorted(unset)]
        raise InputError(
            f"the parameters cell {', '.join(what)}",
            f"It must declare exactly: {', '.join(parameters)}.",
            file=notebook,
        )


def execute(
    notebook: Path, copy: Path, parameters: Mapping[str, Any], progress: dict | bool = False
) -> tuple[float, int]:
    """Execute `notebook` into `copy`; return the seconds and the peak memory in bytes.

    Args:
        notebook: the source, which stays as it is.
        copy: where the executed notebook goes, kept up to date while it runs.
        parameters: values that replace those of the parameters cell.
        progress: papermill's progress bar: False, or its settings.

    Raises:
        NotebookFailure: a cell raised, or the kernel died.
    """
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook

    copy.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with PeakMemory() as memory, own_kernel():
        try:
            execute_notebook(
                notebook,
                copy,
                parameters=dict(parameters),
                kernel_name="python3",
                cwd=notebook.parent,
                extra_arguments=["--log-level=ERROR"],  # the kernel's own notes; not the cells'
                progress_bar=progress,
            )
        except PapermillExecutionError as error:
            raise _failure(notebook, copy, error) from error
        except DeadKernelError as error:
            gigabytes = memory.bytes / 1e9
            cure = "Most often the memory ran out: close other programs, or use a smaller profile."
            lines = f"Its kernel died without a word; it had used {gigabytes:.1f} GB."
            raise NotebookFailure(notebook, None, lines, cure) from error
    return time.perf_counter() - start, memory.bytes


def _failure(notebook: Path, copy: Path, error: Any) -> NotebookFailure:
    trace = _ANSI.sub("", "\n".join(error.traceback)).strip().splitlines()
    source = "\n".join(f"    {line}" for line in error.source.strip().splitlines()[:10])
    if not trace or not trace[-1].startswith(error.ename):
        trace.append(f"{error.ename}: {_ANSI.sub('', error.evalue)}")
    cure = (
        f"What to do: read the error; the whole trace stands in {copy}. Once the cause is mended, "
        "run the same command again: what was computed is kept, and the run continues here."
    )
    lines = "\n".join([source, "    ...", *trace[-8:]])
    return NotebookFailure(notebook, _source_cell(notebook, error.source), lines, cure)


def _source_cell(notebook: Path, source: str) -> int | None:
    """The cell's number in the source notebook, from 0, whatever was injected when it ran."""
    cells = nbformat.read(notebook, as_version=4).cells
    return next((i for i, cell in enumerate(cells) if cell.source == source), None)


def save_outputs(notebook: Path, copy: Path) -> None:
    """Put an executed copy's outputs into the source notebook, which stays the same otherwise.

    The injected parameters, papermill's metadata and what went to stderr stay behind, so that the
    source, and with it the notebook's freshness, does not change. Pictures become palette images:
    a third of the size, to the eye the same.

    Raises:
        InputError: the copy was made from another source.
    """
    source = nbformat.read(notebook, as_version=4)
    executed = [
        cell
        for cell in nbformat.read(copy, as_version=4).cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    if [cell.source for cell in source.cells] != [cell.source for cell in executed]:
        raise InputError(
            "the executed copy belongs to another version of the notebook",
            "Run it again.",
            file=notebook,
        )
    count = 0
    for cell, run in zip(source.cells, executed, strict=True):
        if cell.cell_type == "code":
            count += 1
            # progress bars and warnings (stderr) belong to a run, not to a page
            cell.outputs = [o for o in run.outputs if o.get("name") != "stderr"]
            cell.execution_count = count
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = count
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = smaller_png(output.data["image/png"])
    with atomic_path(notebook) as temporary:
        nbformat.write(source, temporary)


def smaller_png(encoded: str) -> str:
    """A PNG, base64, with at most 256 colors; unchanged where that saves nothing."""
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        if image.mode == "P":  # it is one already
            return encoded
        flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        target = io.BytesIO()
        flat.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            target, "PNG", optimize=True
        )
    found = base64.b64encode(target.getvalue()).decode()
    return found if len(found) < len(encoded) else encoded
