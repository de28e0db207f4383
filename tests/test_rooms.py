"""The house: rooms import one way, and none but `simulation` and what runs it knows that world."""

import ast
import re
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import pytest

from rctpl_utils.workspace import PROJECT

PACKAGE = PROJECT / "rctpl_utils"
# Each room may import those before it. What stands at the package's top belongs to all.
ROOMS = (
    "datasets", "text", "encoders", "prompts", "evaluation", "baselines", "reporting", "simulation",
    "run",
)  # fmt: skip


def room_of(parts: tuple[str, ...]) -> int:
    return ROOMS.index(parts[0]) if len(parts) and parts[0] in ROOMS else -1


def imported(path: Path) -> set[tuple[str, ...]]:
    """What a module imports of this package, as parts of dotted names; late imports too."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert not getattr(node, "level", 0), f"{path}: a relative import"
            first = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names += [first + alias.name for alias in node.names]
    return {tuple(name.split(".")[1:]) for name in names if name.startswith("rctpl_utils.")}


def test_every_module_has_a_room():
    folders = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert folders == set(ROOMS) and len(ROOMS) <= 9


def test_imports_run_one_way():
    against = [
        f"{path.relative_to(PACKAGE).as_posix()} imports {'.'.join(parts)}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for parts in sorted(imported(path))
        if room_of(parts) > room_of(path.relative_to(PACKAGE).parts) and path.name != "__main__.py"
    ]
    assert not against


@pytest.mark.parametrize("room", ROOMS)
def test_a_face_exports_what_it_says(room):
    module = import_module(f"rctpl_utils.{room}")
    assert "Here live" in module.__doc__ or "lives" in module.__doc__
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name).__doc__, name


def test_the_map_for_strangers_names_what_is_there():
    """Each `room.module` and `room.module.name` of docs/architecture.md can be imported."""
    text = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(rf"`((?:{'|'.join(ROOMS)})\.[\w.]+)`", text)
    assert len(named) > 20
    for name in named:
        assert resolve_name(f"rctpl_utils.{name}") is not None
    for room in re.findall(r"^\| `(\w+)/`", text, re.M):
        assert room in ROOMS
