"""One run at a time in an output folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rctpl_utils.errors import InputError
from rctpl_utils.files import write_text


@contextmanager
def exclusive_run(output: Path) -> Iterator[None]:
    """Hold `output` for this process; the system frees it however the process ends.

    Raises:
        InputError: another run holds it; the message names that run's process id.
    """
    folder = output / "build"
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / "run.pid"
    lock = FileLock(folder / "run.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        who = holder.read_text(encoding="utf-8").strip() if holder.exists() else "unknown"
        raise InputError(
            f"another run is busy in this folder (process {who})",
            "Wait until it ends, stop it, or choose another folder with --output.",
            file=output,
        ) from error
    try:
        write_text(holder, f"{os.getpid()}\n")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def check_writable(folder: Path) -> None:
    """Write an empty file into `folder` and take it away; an `OSError` says why it failed."""
    probe = folder / f".writable.{os.getpid()}"
    probe.write_bytes(b"")
    probe.unlink()
