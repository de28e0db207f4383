"""A run that is killed or meets a full disk at a drawn moment ends as an undisturbed one.

The project is a toy of three notebooks. `FAULTS=10` draws ten moments of each kind (default: 2).
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from toy_project import FIRST, SECOND, THIRD, write_notebook

MOMENTS = int(os.environ.get("FAULTS", "2"))
DRAWN = random.Random(0)
# Every Python process of a run reads this first: it counts the atomic writes, and one of them
# finds the disk full.
FULL_DISK = """import os
real = os.replace
def replace(source, target, **options):
    if ".part" in os.path.basename(os.fspath(source)):
        with open(os.environ["FAULTS_COUNT"], "a") as stream:
            stream.write("x")
        if os.path.getsize(os.environ["FAULTS_COUNT"]) == int(os.environ["FAULTS_AT"]):
            raise OSError(28, "No space left on device")
    return real(source, target, **options)
os.replace = replace
"""
COMMAND = """import pathlib, sys
from toy_project import start
sys.exit(start(pathlib.Path(sys.argv[1])))
"""


@pytest.fixture
def project(tmp_path) -> Path:
    folder = tmp_path / "notebooks"
    write_notebook(folder, "00_first", FIRST)
    write_notebook(folder, "01_second", SECOND, needs=["00_first"])
    write_notebook(folder, "02_third", THIRD, needs=[])
    return folder


def begin(project: Path, at: int = 0) -> subprocess.Popen:
    """Start a run; its `at`th atomic write, from 1, finds the disk full."""
    faults = project.parent / "faults"
    faults.mkdir(exist_ok=True)
    (faults / "sitecustomize.py").write_text(FULL_DISK)
    (faults / "count").write_text("")
    paths = [str(faults), *filter(None, sys.path)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths), "FAULTS_AT": str(at),
        "FAULTS_COUNT": str(faults / "count"),
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(project)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> tuple[int, str]:
    said = process.communicate(timeout=120)[1]
    return process.returncode, said


def results(project: Path) -> dict[str, bytes]:
    out = project.parent / "out"
    files = [*out.glob("figures/smoke/*.csv"), *out.glob("build/smoke/second.txt")]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_a_write_that_finds_the_disk_full_costs_only_time(project):
    assert finish(begin(project))[0] == 0
    expected, writes = results(project), (project.parent / "faults" / "count").stat().st_size
    assert len(expected) == 2 and writes >= 5
    for at in sorted(DRAWN.sample(range(1, writes + 1), min(MOMENTS, writes))):
        _forget(project)
        status, said = finish(begin(project, at))
        assert status in (1, 2), f"write {at} of {writes}"
        # A kernel that is told to end may show a traceback of its own libraries; ours never does.
        assert "o space left" in said and "rctpl_utils/" not in said
        assert finish(begin(project))[0] == 0
        assert results(project) == expected


@pytest.mark.parametrize("victim", ["runner", "worker"])
def test_a_killed_process_costs_only_time(project, victim):
    start = time.perf_counter()
    assert finish(begin(project))[0] == 0
    expected, seconds = results(project), time.perf_counter() - start
    for _ in range(MOMENTS):
        _forget(project)
        process = begin(project)
        time.sleep(DRAWN.uniform(0.2, 0.9) * seconds)
        _kill(process, victim)
        finish(process)
        assert finish(begin(project))[0] == 0
        assert results(project) == expected


def _kill(process: subprocess.Popen, victim: str) -> None:
    children = psutil.Process(process.pid).children() if process.poll() is None else []
    target = children[0].pid if victim == "worker" and children else process.pid
    if process.poll() is None:
        os.kill(target, signal.SIGKILL)


def _forget(project: Path) -> None:
    out = project.parent / "out"
    out.rename(out.with_name(f"out-{time.monotonic_ns()}"))
