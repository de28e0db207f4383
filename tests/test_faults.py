"""A run that is killed or meets a full disk at a drawn moment ends as an undisturbed one.

The project is a toy of three notebooks. `FAULTS=10` draws ten moments of each kind (default: 1).
"""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from toy_project import FIRST, SECOND, THIRD, begin, finish, start, write_notebook

MOMENTS = range(int(os.environ.get("FAULTS", "1")))
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


def write_project(folder: Path) -> Path:
    write_notebook(folder, "00_first", FIRST)
    write_notebook(folder, "01_second", SECOND, needs=["00_first"])
    write_notebook(folder, "02_third", THIRD, needs=[])
    return folder


def begin_with_faults(project: Path, at: int = 0) -> subprocess.Popen:
    """Start a run; its `at`th atomic write, from 1, finds the disk full."""
    faults = project.parent / "faults"
    faults.mkdir()
    (faults / "sitecustomize.py").write_text(FULL_DISK)
    (faults / "count").write_text("")
    return begin(project, faults, FAULTS_AT=str(at), FAULTS_COUNT=str(faults / "count"))


def results(project: Path) -> dict[str, bytes]:
    out = project.parent / "out"
    files = [*out.glob("figures/smoke/*.csv"), *out.glob("build/smoke/second.txt")]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a run makes that nothing disturbs, its atomic writes, and its seconds."""
    project = write_project(tmp_path_factory.mktemp("undisturbed") / "notebooks")
    begun = time.perf_counter()
    assert finish(begin_with_faults(project))[0] == 0
    seconds = time.perf_counter() - begun
    expected, writes = results(project), (project.parent / "faults" / "count").stat().st_size
    assert len(expected) == 2 and writes >= 5
    return expected, writes, seconds


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_write_that_finds_the_disk_full_costs_only_time(project, undisturbed, in_process, moment):
    write_project(project)
    expected, writes, _ = undisturbed
    at = random.Random(0).sample(range(1, writes + 1), writes)[moment % writes]
    status, said = finish(begin_with_faults(project, at))
    assert status in (1, 2), f"write {at} of {writes}"
    # A kernel that is told to end may show a traceback of its own libraries; ours never does.
    assert "o space left" in said and "rctpl_utils/" not in said
    assert start(project) == 0
    assert results(project) == expected


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("victim", ["runner", "worker"])
def test_a_killed_process_costs_only_time(project, undisturbed, in_process, victim, moment):
    write_project(project)
    expected, _, seconds = undisturbed
    process = begin(project)
    time.sleep(random.Random(f"{victim} {moment}").uniform(0.2, 0.9) * seconds)
    _kill(process, victim)
    finish(process)
    assert start(project) == 0
    assert results(project) == expected


def _kill(process: subprocess.Popen, victim: str) -> None:
    """Kill a worker, where there is one already, or the runner."""
    if process.poll() is None:
        children = psutil.Process(process.pid).children() if victim == "worker" else []
        workers = [each.pid for each in children if "spawn_main" in " ".join(each.cmdline())]
        os.kill(workers[0] if workers else process.pid, signal.SIGKILL)
