"""What a notebook may use and what it used: its environment, its peak memory."""

import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import psutil

from rctpl_utils.files import WRITES
from rctpl_utils.workspace import PROJECT


class PeakMemory:
    """Samples the resident memory of this process's descendants (the kernel and its workers).

    Used as a context manager; `bytes` is the largest sum seen. Pages that processes share count
    once for each, so the number is an upper estimate.
    """

    def __init__(self, interval: float = 0.25) -> None:
        self.bytes = 0
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        """Start sampling."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, descendants_memory())
            if self._stop.wait(self._interval):
                return


def descendants_memory() -> int:
    """Return the summed resident size, in bytes, of all processes below this one."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        try:
            total += process.memory_info().rss
        except psutil.Error:  # it has just ended, or is not ours to look at
            continue
    return total


@contextmanager
def kernel_environment(threads: int, writes: Path) -> Iterator[None]:
    """Set what the kernels inherit, and put the old values back afterwards.

    No more threads than its share of the cores (two jobs with more slow each other many times
    over), no network for model hubs, no forked tokenizer threads, figures in the notebook without
    a display.

    Args:
        threads: of matrix products, unless the user has set `OMP_NUM_THREADS`, and of OpenCV.
        writes: gets the names of the files that are written (`files.atomic_path`).
    """
    paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    wanted = {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        "OPENCV_FOR_THREADS_NUM": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONPATH": os.pathsep.join(paths),
        WRITES: str(writes),
    }
    with _environment(wanted):
        yield


@contextmanager
def own_kernel() -> Iterator[None]:
    """Make Jupyter's "python3" this interpreter, whatever kernels a machine has under that name."""
    with tempfile.TemporaryDirectory(prefix="rctpl-kernel-") as folder:
        kernel = Path(folder, "kernels", "python3")
        kernel.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
        kernel.joinpath("kernel.json").write_text(json.dumps(spec), encoding="utf-8")
        paths = [folder, *filter(None, [os.environ.get("JUPYTER_PATH")])]
        with _environment({"JUPYTER_PATH": os.pathsep.join(paths)}):
            yield


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    old = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in old.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
