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
from toy_project import SECOND, THIRD, begin, finish, start, write_notebook

MOMENTS = range(int(os.environ.get("FAULTS", "1")))
# What an undisturbed run writes: its number, two results, three markers, manifest and README
WRITES = 8
RESULTS = dict.fromkeys(("figures/smoke/first.csv", "build/smoke/second.txt"), b"a,b\n1,2\n")
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


@pytest.fixture
def toy(project, in_process):
    """The toy, and a file whose size is the number of atomic writes of a run that counts them."""
    write_notebook(project, "01_second", SECOND, needs=["00_first"])
    write_notebook(project, "02_third", THIRD, needs=[])
    faults = project.parent / "faults"
    faults.mkdir()
    (faults / "sitecustomize.py").write_text(FULL_DISK)
    (faults / "count").write_text("")
    return project, faults / "count"


def begin_with_faults(project: Path, count: Path, at: int = 0) -> subprocess.Popen:
    """Start a run; its `at`th atomic write, from 1, finds the disk full."""
    return begin(project, count.parent, FAULTS_AT=str(at), FAULTS_COUNT=str(count))


def resume(project: Path) -> None:
    """What is started again ends as what nothing has disturbed."""
    assert start(project) == 0
    out = project.parent / "out"
    assert {name: (out / name).read_bytes() for name in RESULTS} == RESULTS


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_write_that_finds_the_disk_full_costs_only_time(toy, moment):
    at = random.Random(0).sample(range(1, WRITES + 1), WRITES)[moment % WRITES]
    status, said = finish(begin_with_faults(*toy, at))
    assert status in (1, 2), f"write {at} of {WRITES}"
    # A kernel that is told to end may show a traceback of its own libraries; ours never does.
    assert "o space left" in said and "rctpl_utils/" not in said
    resume(toy[0])


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("victim", ["runner", "worker"])
def test_a_killed_process_costs_only_time(toy, victim, moment):
    """Killed up to a second after one of its writes; a worker, where there is one already."""
    project, count = toy
    draw = random.Random(f"{victim} {moment}")
    process, at = begin_with_faults(*toy), draw.randrange(WRITES)
    while process.poll() is None and count.stat().st_size < at:
        time.sleep(0.02)
    time.sleep(draw.random())
    if process.poll() is None:
        children = psutil.Process(process.pid).children() if victim == "worker" else []
        workers = [each.pid for each in children if "spawn_main" in " ".join(each.cmdline())]
        os.kill(workers[0] if workers else process.pid, signal.SIGKILL)
    finish(process)
    resume(project)
