"""What a kept result was made by, and whether it is still current.

A result that takes minutes is kept with a key, a hash of all that it depends on: inputs, settings,
and the code that makes it. `code_of` is the code's part of such a key, `kept` the rest.
"""

import ast
import importlib.util
import io
import sys
import tokenize
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from rctpl_utils.files import hash_of, read_json, sha256_file, write_json

ROOT = Path(__file__).resolve().parents[1]  # the folder that holds the package
_NAME = "rctpl_utils"
# Their values enter keys themselves (settings, seeds, the films' hashes); that a profile gained a
# field, or a folder a name, makes no result stale.
BY_VALUE = frozenset(f"{_NAME}.{name}" for name in ("profiles", "workspace", "errors"))


def code_of(*parts: ModuleType | Callable[..., Any]) -> str:
    """A hash of the source of some modules and of all of this package that they need.

    Imports are followed through the source, those inside functions too, those for type checkers
    not; `BY_VALUE` is left out. A file of `rctpl_utils/data` that a module names in a string
    counts as its source. Comments, docstrings and empty lines do not count; the layout of the code
    does, which is the same on every version of Python. Sources are read once a process.

    Functions and classes stand for the module that defines them; the order of `parts` does not
    matter. The hash of the same code is the same on every machine.
    """
    found: dict[str, str] = {}
    for part in parts:
        module = part if isinstance(part, ModuleType) else sys.modules[part.__module__]
        name = module.__name__
        _collect(name, _file(name) if _ours(name) else Path(module.__file__), found)
    return hash_of(found)


def kept(
    record: Path, files: Sequence[Path], key: str, make: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """A result with its record beside it: read where it is current, else made.

    It is current where the record (JSON) has this `key`, a hash of all that the result depends on,
    its code included (`code_of`), and all `files` are there. Otherwise the record goes first and is
    written last, so that what is stopped between, by a full disk say, leaves nothing that looks
    done. `make` writes `files`, each atomically. Returns what `make` returned, now or then, and
    `key`.
    """
    try:
        stored = read_json(record)
    except (FileNotFoundError, ValueError):  # none, or none that this version can read
        stored = None
    current = isinstance(stored, dict) and stored.get("key") == key
    if current and all(path.exists() for path in files):
        return stored
    record.unlink(missing_ok=True)
    stored = {**make(), "key": key}
    write_json(record, stored)
    return stored


def _collect(name: str, path: Path, found: dict[str, str]) -> None:
    """Add a module and what it needs to `found`: module or data file -> hash."""
    if name in found or name in BY_VALUE:
        return
    found[name], imported, data = _scan(name, path)
    for each in data:
        found[each.relative_to(ROOT).as_posix()] = sha256_file(each)
    for each in imported:
        _collect(each, _file(each), found)


@cache
def _scan(name: str, path: Path) -> tuple[str, tuple[str, ...], tuple[Path, ...]]:
    """The hash of one module's code, the package's modules it imports, the data it names."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    imported = sorted({each for node in _nodes(tree) for each in _imported(node, package)})
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    folder = ROOT / _NAME / "data"
    data = sorted(path for path in folder.rglob("*") if path.name in texts and path.is_file())
    return hash_of(_bare(source, tree)), tuple(imported), tuple(data)


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker sees."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield from _nodes(child)


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    """The modules of this package that one statement imports."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        origin = "." * node.level + (node.module or "")
        base = importlib.util.resolve_name(origin, package) if node.level else origin
        inner = (f"{base}.{alias.name}" for alias in node.names)
        names = [each if _file(each).exists() else base for each in inner]
    else:
        return
    yield from filter(_ours, names)


def _ours(name: str) -> bool:
    return name.split(".")[0] == _NAME


def _file(name: str) -> Path:
    folder = ROOT.joinpath(*name.split("."))
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


def _bare(source: str, tree: ast.AST) -> str:
    """The code without comments, docstrings and empty lines."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            first, last = text.lineno - 1, text.end_lineno - 1
            start = lines[first].encode()[: text.col_offset].decode()
            end = lines[last].encode()[text.end_col_offset :].decode()
            lines[first : last + 1] = [start + end, *[""] * (last - first)]
    return "\n".join(line.rstrip() for line in lines if line.strip())
