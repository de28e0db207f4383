"""Running one notebook in a process of its own: what it may use, what it made, why it failed."""

import base64
import io
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import nbformat
import psutil
from PIL import Image
from tqdm import tqdm

from rctpl_utils.errors import InputError
from rctpl_utils.files import WRITES, atomic_path
from rctpl_utils.workspace import PROJECT

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class NotebookFailure(RuntimeError):
    """A notebook stopped: its name (and cell), the error's last lines, the cure."""

    def __str__(self) -> str:
        """Where, what and what to do."""
        return "{} failed.\n\n{}\n\n{}".format(*self.args)


@contextmanager
def peak_memory() -> Iterator[SimpleNamespace]:
    """Yield an object whose `bytes` is the largest resident memory of this process's descendants.

    It looks four times a second, and once at least. Pages that processes share count once for
    each, so it is an upper estimate.
    """
    memory, ended = SimpleNamespace(bytes=0), threading.Event()

    def look() -> None:
        while True:
            total = 0
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):  # it has just ended, or is not ours to look at
                    total += process.memory_info().rss
            memory.bytes = max(memory.bytes, total)
            if ended.wait(0.25):
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        ended.set()
        thread.join()


# --- processes that each run one notebook at a time; they end with the runner, however it ends ---


@contextmanager
def workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes for `run_notebook`; an exception in the block stops what runs."""
    before = set(psutil.Process().children())
    context = get_context("spawn")  # a fork would copy locks that threads hold
    executor = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_start, initargs=(context.RLock(),)
    )
    try:
        yield executor
    except BaseException:
        for child in set(psutil.Process().children()) - before:
            with suppress(psutil.NoSuchProcess):  # it has just ended
                child.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _start(lock: Any) -> None:
    """Make a fresh process end, its kernel with it, on request or when the runner is gone."""

    def follow() -> None:
        parent_process().join()
        os.kill(os.getpid(), signal.SIGTERM)

    tqdm.set_lock(lock)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the runner, which then asks
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    threading.Thread(target=follow, daemon=True).start()


def kernel_environment(threads: int, writes: Path) -> dict[str, str]:
    """What a notebook's kernel inherits; `writes` gets the names of the files that are written.

    No more threads (unless the user has set `OMP_NUM_THREADS`) than its share of the cores: two
    jobs with more slow each other many times over. No network for model hubs, no forked tokenizer
    threads, figures in the notebook without a display.
    """
    return {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        "OPENCV_FOR_THREADS_NUM": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONPATH": _in_front(str(PROJECT), "PYTHONPATH"),
        WRITES: str(writes),
    }


def _in_front(folder: str, name: str) -> str:
    """A folder in front of those that the environment names."""
    return os.pathsep.join(filter(None, [folder, os.environ.get(name)]))


@contextmanager
def own_kernel() -> Iterator[None]:
    """Make Jupyter's "python3" this interpreter, whatever kernels a machine has under that name."""
    with tempfile.TemporaryDirectory(prefix="rctpl-kernel-") as folder:
        kernel = Path(folder, "kernels", "python3")
        kernel.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
        kernel.joinpath("kernel.json").write_text(json.dumps(spec), encoding="utf-8")
        with patch.dict(os.environ, JUPYTER_PATH=_in_front(folder, "JUPYTER_PATH")):
            yield


# --- one notebook ---


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Refuse a notebook whose parameters cell does not declare exactly what the runner passes."""
    from papermill import inspect_notebook  # slow to import, and needed only when one runs

    try:
        declared = set(inspect_notebook(str(notebook)))
    except ValueError as error:  # no kernel named
        raise InputError(str(error).rstrip("."), "Restore the notebook.", file=notebook) from error
    what = [f"does not know {name!r}" for name in sorted({*parameters} - declared)]
    unset = sorted(declared - {*parameters})
    what += [f"has {name!r}, which the runner does not set" for name in unset]
    if what:
        raise InputError(
            f"the parameters cell {', '.join(what)}",
            f"It must declare exactly: {', '.join(parameters)}.",
            file=notebook,
        )


def run_notebook(
    notebook: Path,
    copy: Path,
    parameters: Mapping[str, Any],
    environment: Mapping[str, str],
    progress: dict | bool = False,
) -> tuple[float, int]:
    """Execute a notebook into `copy`, which is kept up to date while it runs.

    `progress` is papermill's bar: False, or its settings. Returns seconds and peak memory in bytes.
    Whatever stops it is a `NotebookFailure`.
    """
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook

    os.environ.update(environment)
    start = time.perf_counter()
    try:
        cells = nbformat.read(notebook, as_version=4).cells  # before anything is injected
        with peak_memory() as memory, own_kernel():
            execute_notebook(
                notebook,
                copy,
                parameters=dict(parameters),
                kernel_name="python3",
                cwd=notebook.parent,
                extra_arguments=["--log-level=ERROR"],  # the kernel's own notes; not the cells'
                progress_bar=progress,
            )
    except SystemExit as request:  # the kernel has gone by now; the pool would keep the process
        os._exit(request.code)
    except PapermillExecutionError as error:
        raise _failure(notebook, cells, copy, error) from error
    except DeadKernelError as error:
        cure = "Most often the memory ran out: close other programs, or use a smaller profile."
        used = f"{memory.bytes / 1e9:.1f} GB"
        lines = f"Its kernel died without a word; it had used {used}."
        raise NotebookFailure(notebook.name, lines, cure) from error
    except Exception as error:
        cure = "Mend the cause (a full disk, say), then run the same command again."
        lines = f"{type(error).__name__}: {error}"
        raise NotebookFailure(notebook.name, lines, cure) from error
    return time.perf_counter() - start, memory.bytes


def _failure(notebook: Path, cells: list, copy: Path, error: Any) -> NotebookFailure:
    trace = _ANSI.sub("", "\n".join(error.traceback)).strip().splitlines()
    source = "\n".join(f"    {line}" for line in error.source.strip().splitlines()[:10])
    if not trace or not trace[-1].startswith(error.ename):
        trace.append(f"{error.ename}: {_ANSI.sub('', error.evalue)}")
    cure = (
        f"What to do: read the error; the whole trace stands in {copy}. Once the cause is mended, "
        "run the same command again: what was computed is kept, and the run continues here."
    )
    lines = "\n".join([source, "    ...", *trace[-8:]])
    number = next((i for i, each in enumerate(cells) if each.source == error.source), None)
    place = "" if number is None else f", cell {number}"
    return NotebookFailure(f"{notebook.name}{place}", lines, cure)


def save_outputs(notebook: Path, copy: Path) -> None:
    """Put an executed copy's outputs into the source notebook, which stays the same otherwise.

    The injected parameters, papermill's metadata and what went to stderr stay behind, so that the
    source, and with it the notebook's freshness, does not change; pictures are packed harder
    (`smaller_png`). A copy that was made from another source is an `InputError`.
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
    pairs = zip(source.cells, executed, strict=True)
    code = [(cell, run) for cell, run in pairs if cell.cell_type == "code"]
    for count, (cell, run) in enumerate(code, start=1):
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
    """A PNG, base64, on white and packed harder; every color is kept."""
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    target = io.BytesIO()
    flat.convert("RGB").save(target, "PNG", optimize=True)
    found = base64.b64encode(target.getvalue()).decode()
    return found if len(found) < len(encoded) else encoded
