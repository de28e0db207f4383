"""Processes that each run one notebook at a time; they end with the runner, however it ends."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from rctpl_utils.run.execution import NotebookFailure, execute
from rctpl_utils.run.resources import kernel_environment

Result = tuple[float, int]  # seconds, peak memory in bytes


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


def run_notebook(
    notebook: Path,
    copy: Path,
    parameters: Mapping[str, Any],
    threads: int,
    writes: Path,
    progress: dict | bool,
) -> Result:
    """Run a notebook in this worker (see `execution.execute`).

    Args:
        threads: of its kernel.
        writes: a file that gets the names of all that the notebook writes.

    Raises:
        NotebookFailure: it stopped, or could not even be started.
    """
    try:
        with kernel_environment(threads, writes):
            return execute(notebook, copy, parameters, progress)
    except NotebookFailure:
        raise
    except SystemExit as request:  # the kernel has gone by now; the pool would keep the process
        os._exit(request.code)
    except Exception as error:
        cure = "Mend the cause (a full disk, say), then run the same command again."
        raise NotebookFailure(notebook, None, f"{type(error).__name__}: {error}", cure) from error


def result_of(future: Future[Result], notebook: Path) -> Result:
    """What a finished notebook took.

    Raises:
        NotebookFailure: as `run_notebook`; or a process of the pool is gone, which ends them all.
    """
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise NotebookFailure(
            notebook,
            None,
            "A process that runs notebooks ended without a word; the others were stopped with it.",
            "Most often the memory ran out: close other programs, or use --jobs 1.",
        ) from error


def _start(lock: Any) -> None:
    """Make a fresh process end, its kernel with it, on request or when the runner is gone."""
    tqdm.set_lock(lock)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the runner, which then asks
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
