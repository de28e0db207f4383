"""Atomic writes and content hashes: a file is either whole or absent."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from rctpl_utils.errors import InputError

WRITES = "RCTPL_WRITES"  # the environment's name of a file that lists what a process has written


def note_written(paths: Iterable[str | Path]) -> None:
    """Add files to the list of what was written, where the environment names one (`WRITES`)."""
    if listed := os.environ.get(WRITES):
        with open(listed, "a", encoding="utf-8") as stream:
            stream.writelines(f"{os.path.abspath(path)}\n" for path in paths)


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`, of its suffix; move it there if the block succeeds.

    The target is then noted as written (`note_written`). It is untouched where the block raises.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        if error.filename is None:  # as where the disk is full
            error.filename = str(target)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    note_written([target])


def write_text(target: str | Path, text: str) -> Path:
    """Write `text` atomically, UTF-8, with `\\n` line ends on every platform."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(target)


def write_json(target: str | Path, value: Any) -> Path:
    """Write `value` atomically as indented JSON (dataclasses become objects)."""
    return write_text(
        target, json.dumps(value, indent=2, default=_plain, ensure_ascii=False) + "\n"
    )


def read_json(source: str | Path) -> Any:
    """Read one JSON file (UTF-8, with a byte-order mark or without)."""
    return json.loads(Path(source).read_text(encoding="utf-8-sig"))


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read in blocks."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def hash_of(*values: Any) -> str:
    """A hash of JSON-like values, dataclasses and paths: equal values give equal hashes."""
    text = json.dumps(values, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "item"):  # NumPy scalars
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def replace_section(text: str, section: str, markers: tuple[str, str], what: str) -> str:
    """Put a section, called `what` in an error, between a page's markers, there once in order."""
    first, last = markers
    before, start, rest = text.partition(first)
    inside, end, after = rest.partition(last)
    if not (start and end) or first in inside or first in after or last in before + after:
        problem = f"the page has no single pair {first} ... {last}"
        raise InputError(problem, f"Put the two lines back where {what} belongs.")
    return f"{before}{first}\n{section}\n{last}{after}"
