"""The one error a user meets for bad input: what is wrong, where, and what to do about it."""

from os import PathLike


class InputError(ValueError):
    """Bad input: the message names the file, the row where there is one, and the cure.

    Args:
        problem: what is wrong, as a clause without a full stop.
        cure: what the user can do, as a sentence.
        file: the file or folder concerned.
        row: the row (counted from 1, header excluded) or the record's identifier.
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
