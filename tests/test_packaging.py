"""environment.yml, pyproject.toml and requirements.lock agree, and the lock fits every platform."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import rctpl_utils

PROJECT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
SYSTEMS = {
    "linux": {"sys_platform": "linux", "os_name": "posix", "platform_system": "Linux"},
    "darwin": {"sys_platform": "darwin", "os_name": "posix", "platform_system": "Darwin"},
    "win32": {"sys_platform": "win32", "os_name": "nt", "platform_system": "Windows"},
}
# Distributions that exist for some systems only, with the systems that may get them.
PLATFORM_ONLY = {
    r"nvidia-.*|cuda-.*|triton|uvloop|jeepney|secretstorage": {"linux"},
    r"appnope|pyobjc-.*": {"darwin"},
    r"pywinpty|pywin32.*|win32-.*|colorama": {"win32"},
    r"pexpect|ptyprocess": {"linux", "darwin"},
}


def read(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


def lock() -> list[Requirement]:
    lines = (line.strip() for line in read("requirements.lock").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def project() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="reading TOML needs Python 3.11")
    return tomllib.loads(read("pyproject.toml"))["project"]


def pinned(system: str, python: str) -> dict[str, str]:
    """What the lock installs there: {name: version}."""
    where, found = default_environment() | SYSTEMS[system], {}
    where |= {"python_version": python, "python_full_version": f"{python}.9", "extra": ""}
    where["platform_machine"] = "arm64" if system == "darwin" else "x86_64"
    for one in lock():
        if one.marker is None or one.marker.evaluate(where):
            name = canonicalize_name(one.name)
            assert name not in found, f"{name} is pinned twice on {system}, Python {python}"
            found[name] = str(one.specifier).removeprefix("==")
    return found


def test_every_line_of_the_lock_is_one_exact_version_and_no_place_of_a_machine():
    for one in lock():
        assert re.fullmatch(r"==[^*,]+", str(one.specifier)), one
        assert one.url is None, one
    text = read("requirements.lock")
    assert "uv pip compile pyproject.toml --extra test --universal" in text
    assert not re.search(r"(^|\s)(/|file:|[A-Z]:\\|https?:|--(index|find))", text)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_gives_a_platform_what_it_needs_and_nothing_of_another(system, python):
    found = pinned(system, python)
    for name in found:
        for pattern, systems in PLATFORM_ONLY.items():
            assert not re.fullmatch(pattern, name) or system in systems, (name, system)
    direct = (*project()["dependencies"], *project()["optional-dependencies"]["test"])
    for one in map(Requirement, direct):
        name = canonicalize_name(one.name)
        assert name in found, f"{name} is not in the lock: compile it again (see its header)"
        assert one.specifier.contains(found[name], prereleases=True), one


def test_versions_agree_and_conda_takes_every_package_from_the_lock():
    told, supported = project(), SpecifierSet(project()["requires-python"])
    assert [v for v in ("3.9", *PYTHONS, "3.14") if v in supported] == list(PYTHONS)
    assert told["version"] == rctpl_utils.__version__
    citation, conda = (yaml.safe_load(read(name)) for name in ("CITATION.cff", "environment.yml"))
    assert f"version: {told['version']}\n" in read("CITATION.cff")
    assert citation["license"] == told["license"] == "Apache-2.0"
    python, *rest = conda["dependencies"]
    assert conda["name"] == told["name"] and python.removeprefix("python=") in supported
    assert rest == ["pip", {"pip": ["-r requirements.lock"]}]


def test_continuous_integration_runs_the_documented_command():
    commands = [line for line in read(".ci/run").splitlines() if not line.startswith("#")]
    assert commands[-1] == "exec ./run_all.sh test"


def test_every_folder_of_modules_is_a_package_that_gets_installed():
    folders = {path.parent for path in (PROJECT / "rctpl_utils").rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").exists()]


# --- run_all.sh ---

bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is absent")


def run_all(*arguments: str, script: Path = PROJECT, **given: str) -> subprocess.CompletedProcess:
    hidden = ("VIRTUAL_ENV", "CONDA_PREFIX")
    outside = {name: value for name, value in os.environ.items() if name not in hidden} | given
    command = ["bash", str(script / "run_all.sh"), *arguments]
    return subprocess.run(command, env=outside, capture_output=True, text=True, timeout=60)


@bash
def test_help_works_before_anything_is_installed_and_no_venv_needs_an_environment():
    shown = run_all("--help")
    assert shown.returncode == 0
    for option in ("test", "--no-venv", "--profile", "--data-root", "--only", "--save-outputs"):
        assert option in shown.stdout
    refused = run_all("--no-venv", "--list")
    assert refused.returncode == 2
    assert "needs an active conda or virtual environment" in refused.stderr


@bash
@pytest.mark.parametrize("python", ["3.9", *PYTHONS, "3.14"])
def test_set_up_refuses_the_pythons_that_the_package_does_not_take(tmp_path, monkeypatch, python):
    """A stand-in for the environment's Python says another version, and fails at all but `-c`."""
    shutil.copy(PROJECT / "run_all.sh", tmp_path)
    stand_in = tmp_path / "python"
    version = f"import sys; sys.version_info = {(*map(int, python.split('.')), 0)}"
    stand_in.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} -c "{version}; $2"\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    stopped = run_all("--no-venv", "--list", script=tmp_path, VIRTUAL_ENV=str(tmp_path))
    refused = "Python 3.10 to 3.13 is needed" in stopped.stderr
    assert stopped.returncode == 2
    assert refused == (python not in SpecifierSet(project()["requires-python"]))


def test_nothing_newer_than_the_oldest_python_is_imported():
    newer = {"Self", "Never", "LiteralString", "Unpack", "Required", "NotRequired", "override"}
    newer |= {"TypeVarTuple", "assert_never", "assert_type", "reveal_type", "StrEnum", "batched"}
    for path in (PROJECT / "rctpl_utils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names}
                assert not names & (newer | {"tomllib"}), (path.name, node.lineno)
