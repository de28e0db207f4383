"""A JSON object of objects, read as a stream: RadGraph's file holds more than 200,000 reports."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rctpl_utils.errors import InputError

_BLOCK = 1 << 20  # characters


def stream_objects(path: str | Path, block: int = _BLOCK) -> Iterator[tuple[str, dict]]:
    """Stream the (key, object) pairs of one JSON object; memory holds one pair and one block.

    `block` is the number of characters read at a time.

    Raises:
        InputError: a file that is absent, or no whole JSON object of objects.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("no such file", "Check the path.", file=path)
    with path.open(encoding="utf-8", errors="replace") as stream:
        reader = _Reader(stream.read, path, block)
        separator = reader.expect("{")
        if reader.peek() == "}":
            return
        while separator != "}":
            key = reader.value(str)
            reader.expect(":")
            yield key, reader.value(dict)
            separator = reader.expect(",}")


class _Reader:
    """Decodes JSON values one after another from a text stream."""

    def __init__(self, read: Callable[[int], str], path: Path, block: int) -> None:
        self._read, self._path, self._block = read, path, block
        self._buffer, self._position = "", 0
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no white space."""
        while True:
            while self._position < len(self._buffer):
                if not self._buffer[self._position].isspace():
                    return self._buffer[self._position]
                self._position += 1
            if not self._more():
                raise self._damaged("it ends too early")

    def expect(self, characters: str) -> str:
        """Step over one of the characters and return it."""
        found = self.peek()
        if found not in characters:
            raise self._damaged(f"expected one of {characters!r}, found {found!r}")
        self._position += 1
        return found

    def value(self, kind: type) -> Any:
        """The next value, whole; strings and objects end themselves, numbers would not."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._position)
            except json.JSONDecodeError as error:
                if not self._more():
                    raise self._damaged(str(error)) from error
                continue
            if not isinstance(value, kind):
                raise self._damaged(f"expected a {kind.__name__}, found {value!r:.40}")
            self._position = end
            return value

    def _more(self) -> bool:
        block = self._read(max(self._block, len(self._buffer) - self._position))
        self._buffer = self._buffer[self._position :] + block
        self._position = 0
        return bool(block)

    def _damaged(self, why: str) -> InputError:
        return InputError(f"no whole JSON object ({why})", "Fetch it again.", file=self._path)
