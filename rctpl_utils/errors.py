"""The one error a user meets for bad input: what is wrong, where, and what to do about it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

_CURES = {
    errno.ENOSPC: "Free some space, then run the same command again: what was computed is kept.",
    errno.EDQUOT: "Free some of your quota, then run the same command again.",
    errno.EROFS: "Choose a folder that can be written.",
    errno.EACCES: "Choose a folder that you may write, or change its rights.",
}


class InputError(ValueError):
    """Bad input: the problem (a clause), the cure (a sentence), and where it is.

    Rows count from 1, the header excluded; or they are named by the record's identifier.
    """

    def __init__(
        self,
        problem: str,
        cure: str,
        *,
        file: str | PathLike | None = None,
        row: int | str | None = None,
    ) -> None:
        place = "" if file is None else f"{file}"
        place += "" if row is None else f"{', ' if place else ''}row {row}"
        super().__init__(f"{place}: {problem}. {cure}" if place else f"{problem}. {cure}")
        self.file, self.row, self.cure = file, row, cure


def one_line(error: InputError | OSError) -> str:
    """What a command says before it ends: what is wrong, where, and the cure, in one line."""
    if isinstance(error, OSError):
        what = (error.strerror or str(error)).lower()
        error = InputError(what, _CURES.get(error.errno, "Mend it, then run the command again."),
                           file=error.filename)  # fmt: skip
    return f"error: {' '.join(str(error).split())}"


@contextmanager
def naming(path: str | PathLike, problem: str, cure: str) -> Iterator[None]:
    """Turn whatever the block raises into an `InputError` that names the file.

    Damaged bytes make decoders raise many kinds of errors, not all of them documented.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{problem} ({error})", cure, file=path) from error
