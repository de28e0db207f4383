"""Files as people have them: packed, in another case, damaged, or not what their name says."""

import codecs
import gzip
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from rctpl_utils.errors import InputError, naming

AGAIN = "Download or copy the file again."
_UNPACK, _GZIP, _ZIP = "Unpack it.", b"\x1f\x8b", (b"PK\3\4", b"PK\5\6")
_SAVED_PAGE = "Open its address in a browser, sign in or confirm there, and download it again."
# how a file begins (letters in lower case), what it is, the cure
_KINDS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "Run `git lfs pull`."),
    (b"/annex/objects/", "a git-annex pointer, not the file itself", "Run `git annex get`."),
    ((b"<!doctype html", b"<html", b"<!--", b"<head"), "an HTML page", _SAVED_PAGE),
    (b"<?xml", "an XML message, as a server answers in place of a file", _SAVED_PAGE),
    (b"%pdf-", "a PDF file", AGAIN),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook (.xls)", "Save it as CSV (UTF-8)."),
    (b"\x89hdf", "an HDF5 file, as TensorFlow writes", "Give the file in PyTorch's format."),
    (b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (b"rar!", "a RAR archive", _UNPACK),
    (b"\xfd7zxz", "an xz archive", _UNPACK),
    (b"bzh", "a bzip2 archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
)


def mistaken(head: bytes) -> tuple[str, str] | None:
    """What a file is whose first bytes are not a table's, JSON's or a film's, and the cure."""
    if not head.strip(b"\0"):
        return ("empty" if not head else "zero bytes, a download that did not end"), AGAIN
    start = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    return next(((what, cure) for begin, what, cure in _KINDS if start.startswith(begin)), None)


def is_leftover(name: str) -> bool:
    """Whether a file or folder is hidden or a system's own ("._x.png", "__MACOSX")."""
    return name.startswith(".") or name == "__MACOSX"


def child(folder: Path, *names: str) -> Path:
    """What lies in a folder under the first of some names that is there.

    A name counts in any case, packed (`.gz`, `.zip`) or not, and inside a folder of its own, as
    Windows unpacks "train.csv.zip" into "train.csv/train.csv". Where nothing is there: the path of
    the first name.
    """
    there = {name.casefold(): folder / name for name in _listing(folder)}
    for name in names:
        bare = re.sub(r"\.(gz|zip)$", "", name)
        for each in (name, bare, f"{bare}.gz", f"{bare}.zip"):
            exact = folder / each
            found = exact if exact.exists() else there.get(each.casefold())
            if found is not None:
                return found / each if (found / each).is_file() else found
    return folder / names[0]


def folders_in(folder: Path) -> list[Path]:
    """The folders right inside a folder, sorted, without a system's own."""
    return [folder / name for name in _listing(folder) if (folder / name).is_dir()]


def _listing(folder: Path) -> list[str]:
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(name for name in names if not is_leftover(name))


def files_below(folders: Iterable[Path], suffixes: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and path of the files below `folders` with a suffix in any case; sorted."""
    endings = tuple(suffixes)
    for folder in folders:
        for parent, inner, names in os.walk(folder, followlinks=True):
            inner[:] = sorted(name for name in inner if not is_leftover(name))
            for name in sorted(names):
                if name.lower().endswith(endings) and not is_leftover(name):
                    yield name, os.path.join(parent, name)


def existing(path: str) -> str | None:
    """The path, or the one with its suffix in the other case; None where neither is a file."""
    stem, suffix = os.path.splitext(path)
    return next(filter(os.path.isfile, (path, stem + suffix.swapcase())), None)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked where it is gzip or a zip archive of one, whatever its name.

    An `InputError` names an absent or empty file, what lies in its place (`mistaken`), an archive
    of several files or one that does not open; damage further in raises from its reader.
    """
    if not path.is_file():
        beside = [name for name in _listing(path.parent) if (path.parent / name).is_file()]
        more = f"; there are {', '.join(beside[:8])}" if beside else ""
        raise InputError(f"the file is missing{more}", "Check the path, or download it.", file=path)
    with path.open("rb") as raw:
        head = raw.read(256)
        raw.seek(0)
        if head.startswith(_ZIP):
            with naming(path, "the archive does not open", AGAIN):
                stream = _only_file(zipfile.ZipFile(raw), path)
            with stream:
                yield stream
            return
        if kind := mistaken(head):
            raise InputError(f"it is {kind[0]}", kind[1], file=path)
        yield gzip.GzipFile(fileobj=raw) if head.startswith(_GZIP) else raw


def _only_file(archive: zipfile.ZipFile, path: Path) -> IO[bytes]:
    """The one file of an archive, or the one that is named as it is."""
    members = [name for name in archive.namelist() if not name.endswith("/")]
    members = [name for name in members if not any(map(is_leftover, name.split("/")))]
    if "[Content_Types].xml" in members:
        raise InputError("it is an Excel workbook", "Save it as CSV (UTF-8).", file=path)
    own = [name for name in members if name.split("/")[-1] == path.stem]
    if len(members) != 1 and len(own) != 1:
        raise InputError(f"an archive of {len(members)} files", _UNPACK, file=path)
    return archive.open((own or members)[0])


def as_utf8(content: bytes) -> bytes:
    """Text without its byte-order mark, in UTF-8.

    UTF-16, as Windows saves, is told by its mark, or by the zeros beside a first ASCII letter.
    """
    for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
        if content.startswith("\ufeff".encode(encoding)):
            return content.decode(encoding).lstrip("\ufeff").encode()
    zeros = [each == 0 for each in content[:2]]
    if sum(zeros) == 1:
        return content.decode("utf-16-be" if zeros[0] else "utf-16-le").encode()
    return content
