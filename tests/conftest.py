"""Fixtures that several test files share."""

import shutil

import pytest
import torch
from hypothesis import settings
from toy_project import FIRST, SECOND, THIRD, InProcess, write_notebook
from weights import rounded

from rctpl_utils import code_hash
from rctpl_utils.encoders.base import freeze
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.run import execution, schedule

settings.register_profile("busy", deadline=None, derandomize=True)  # the same in every run
settings.load_profile("busy")

LONG = ("test_partial_run", "test_smoke", "test_run", "test_faults", "test_world")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes first: a file stays on one worker, and none shall wait for it."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(scope="session")
def encoder() -> StandIn:
    """A stand-in with random image weights, 64 pixels."""
    torch.manual_seed(7)
    return freeze(rounded(StandIn(64)))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The folder of three tiny notebooks; the runner's output goes to `out` beside it."""
    monkeypatch.setattr(schedule, "package_hash", lambda: "package")  # it may be under edit
    folder = tmp_path / "notebooks"
    for name, source in (("00_first", FIRST), ("01_second", SECOND), ("02_third", THIRD)):
        write_notebook(folder, name, source)
    return folder


@pytest.fixture
def in_process(monkeypatch):
    """The runner executes cells in this process instead of starting kernels."""
    monkeypatch.setattr(execution, "workers", InProcess)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of this package; returns a function that edits one of its files."""
    copy = tmp_path / "copy" / "rctpl_utils"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(code_hash.ROOT / "rctpl_utils", copy, ignore=ignored)
    monkeypatch.setattr(code_hash, "ROOT", copy.parent)
    code_hash._scan.cache_clear()

    def edit(name, old, new):
        text = (copy / name).read_text(encoding="utf-8")
        assert old in text
        (copy / name).write_text(text.replace(old, new), encoding="utf-8")
        code_hash._scan.cache_clear()

    yield edit
    code_hash._scan.cache_clear()
