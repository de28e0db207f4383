"""JSON objects of objects, read as a stream: RadGraph's file holds more than 200,000 reports."""

import json
import re
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from rctpl_utils.errors import InputError
from rctpl_utils.given_files import opened

_BLOCK = 1 << 20  # characters
_NO_SPACE = re.compile(r"\S")


def stream_objects(path: str | Path, block: int = _BLOCK) -> Iterator[tuple[str, dict]]:
    """Stream the (key, object) pairs of a JSON object, or of several in a row (JSON lines).

    Memory holds one pair and one block, of `block` characters. The file may be packed (`opened`);
    one that is absent, or other than whole JSON objects of objects, is an `InputError`.
    """
    path = Path(path)
    try:
        with opened(path) as raw:
            reader = _Reader(TextIOWrapper(raw, encoding="utf-8-sig").read, block)
            yield from _pairs(reader)
            while not reader.at_end():
                yield from _pairs(reader)
    except InputError:
        raise
    except Exception as error:  # damaged bytes raise many kinds, not all of them documented
        why = str(error) if isinstance(error, _Damage) else repr(error)
        cure = "Fetch it again; each of its objects holds reports by their key."
        raise InputError(f"no whole JSON object ({why:.200})", cure, file=path) from error


def _pairs(reader: "_Reader") -> Iterator[tuple[str, dict]]:
    separator = reader.expect("{")
    if reader.peek() == "}":
        separator = reader.expect("}")
    while separator != "}":
        key = reader.value(str)
        reader.expect(":")
        yield key, reader.value(dict)
        separator = reader.expect(",}")


class _Damage(Exception):
    """What is wrong with a file's text."""


class _Reader:
    """Decodes JSON values one after another from a text stream."""

    def __init__(self, read: Callable[[int], str], block: int) -> None:
        self._read, self._block = read, block
        self._buffer, self._position = "", 0
        self._decoder = json.JSONDecoder()

    def at_end(self) -> bool:
        """Whether nothing but white space is left."""
        while (found := _NO_SPACE.search(self._buffer, self._position)) is None:
            self._position = len(self._buffer)
            if not self._more():
                return True
        self._position = found.start()
        return False

    def peek(self) -> str:
        """The next character that is no white space."""
        if self.at_end():
            raise _Damage("it ends too early")
        return self._buffer[self._position]

    def expect(self, characters: str) -> str:
        """Step over one of the characters and return it."""
        found = self.peek()
        if found not in characters:
            raise _Damage(f"expected one of {characters!r}, found {found!r}")
        self._position += 1
        return found

    def value(self, kind: type) -> Any:
        """The next value, whole; strings and objects end themselves, numbers would not."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._position)
                break
            except json.JSONDecodeError as error:
                if not self._more():
                    raise _Damage(str(error)) from error
        if not isinstance(value, kind):
            raise _Damage(f"expected a {kind.__name__}, found {value!r:.40}")
        self._position = end
        return value

    def _more(self) -> bool:
        block = self._read(max(self._block, len(self._buffer) - self._position))
        self._buffer = self._buffer[self._position :] + block
        self._position = 0
        return bool(block)
