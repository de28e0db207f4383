"""Processes that each run one notebook at a time; they end with the runner, however it ends."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from rctpl_utils.runner.execution import NotebookFailure, execute
from rctpl_utils.runner.resources import kernel_environment

Result = tuple[float, int]  # seconds, peak memory in bytes


class Workers:
    """Up to `jobs` notebooks at a time."""

    def __init__(self, executor: ProcessPoolExecutor) -> None:
        self._executor = executor

    def submit(
        self,
        notebook: Path,
        copy: Path,
        parameters: Mapping[str, Any],
        threads: int,
        writes: Path,
        progress: dict | bool,
    ) -> Future[Result]:
        """Start a notebook (see `execution.execute`).

        Args:
            threads: of its kernel.
            writes: a file that gets the names of all that the notebook writes.
        """
        return self._executor.submit(
            _execute, notebook, copy, dict(parameters), threads, writes, progress
        )


@contextmanager
def workers(jobs: int) -> Iterator[Workers]:
    """Start the processes; when the block is left by an exception, stop what runs."""
    context = get_context("spawn")  # a fork would copy locks that threads hold
    executor = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_start, initargs=(context.RLock(),)
    )
    try:
        yield Workers(executor)
    except BaseException:
        for child in psutil.Process().children():
            child.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def result_of(future: Future[Result], notebook: Path) -> Result:
    """What a finished notebook took.

    Raises:
        NotebookFailure: as `execution.execute`; or the process that ran it is gone.
    """
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise NotebookFailure(
            notebook,
            None,
            "The process that ran it ended without a word.",
            "Most often the memory ran out: close other programs, or use --jobs 1.",
        ) from error


def _execute(
    notebook: Path,
    copy: Path,
    parameters: dict[str, Any],
    threads: int,
    writes: Path,
    progress: dict | bool,
) -> Result:
    with kernel_environment(threads, writes):
        return execute(notebook, copy, parameters, progress)


def _start(lock: Any) -> None:
    """Make a fresh process end, its kernel with it, on request or when the runner is gone."""
    tqdm.set_lock(lock)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the runner, which then asks
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
