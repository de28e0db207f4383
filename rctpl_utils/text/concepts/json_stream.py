"""JSON objects of objects, read as a stream: RadGraph's file holds more than 200,000 reports."""

import json
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from rctpl_utils.errors import InputError
from rctpl_utils.given_files import opened

_BLOCK = 1 << 20  # characters


def stream_objects(path: str | Path, block: int = _BLOCK) -> Iterator[tuple[str, dict]]:
    """Stream the (key, object) pairs of a JSON object, or of several in a row (JSON lines).

    Memory holds one pair and one block, of `block` characters. The file may be packed (`opened`).

    Raises:
        InputError: a file that is absent, or other than whole JSON objects of objects.
    """
    path = Path(path)
    try:
        with opened(path) as raw:
            reader = _Reader(TextIOWrapper(raw, encoding="utf-8-sig").read, path, block)
            yield from _pairs(reader)
            while not reader.at_end():
                yield from _pairs(reader)
    except InputError:
        raise
    except Exception as error:  # damaged bytes raise many kinds, not all of them documented
        raise _damaged(path, repr(error)) from error


def _pairs(reader: "_Reader") -> Iterator[tuple[str, dict]]:
    separator = reader.expect("{")
    if reader.peek() == "}":
        separator = reader.expect("}")
    while separator != "}":
        key = reader.value(str)
        reader.expect(":")
        yield key, reader.value(dict)
        separator = reader.expect(",}")


def _damaged(path: Path, why: str) -> InputError:
    cure = "Fetch it again; each of its objects holds reports by their key."
    return InputError(f"no whole JSON object ({why:.200})", cure, file=path)


class _Reader:
    """Decodes JSON values one after another from a text stream."""

    def __init__(self, read: Callable[[int], str], path: Path, block: int) -> None:
        self._read, self._path, self._block = read, path, block
        self._buffer, self._position = "", 0
        self._decoder = json.JSONDecoder()

    def at_end(self) -> bool:
        """Whether nothing but white space is left."""
        while True:
            while self._position < len(self._buffer):
                if not self._buffer[self._position].isspace():
                    return False
                self._position += 1
            if not self._more():
                return True

    def peek(self) -> str:
        """The next character that is no white space."""
        if self.at_end():
            raise self._damaged("it ends too early")
        return self._buffer[self._position]

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
        return _damaged(self._path, why)
