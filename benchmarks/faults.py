"""Kills and full disks at drawn moments of the smoke run: the tables equal an undisturbed run's.

`python -m benchmarks.faults` takes about half an hour and 3 GB; `tests/test_faults.py` does this in
a minute on a toy project. Runs go to build/faults: `undisturbed`, then `killed`, where in turn
the runner, a worker and a kernel are killed (SIGKILL), then `full`, where the first write of every
twelfth file (of the world's every 400th), drawn by its name, finds no space. Each is resumed until
it ends.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import psutil

HERE = Path(__file__).resolve().parents[1]
FOLDER = HERE / "build/faults"
VICTIMS = {"runner": "", "worker": "spawn_main", "kernel": "ipykernel"}  # a word of the command
# Read first by every Python process of a run.
FULL_DISK = """import hashlib, os
real = os.replace
def replace(source, target, **options):
    path = os.path.realpath(os.fspath(target))
    key = hashlib.sha256(path.encode()).hexdigest()
    mark = os.path.join(os.path.dirname(__file__), key)
    rare = 400 if ".unfinished" in path else 12  # the world's files are many
    drawn = int(key, 16) % rare == 0 and ".part" in os.path.basename(os.fspath(source))
    if drawn and not os.path.exists(mark):
        open(mark, "w").close()
        raise OSError(28, "No space left on device")
    return real(source, target, **options)
os.replace = replace
"""


def start(name: str, *folders: Path) -> subprocess.Popen:
    """Begin or resume the smoke run of this name; `folders` come first on the path of modules."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(map(str, (*folders, HERE))),
    }
    command = [sys.executable, "-m", "rctpl_utils", "run", "--profile", "smoke", "--output"]
    with open(FOLDER / f"{name}.log", "a") as log:
        return subprocess.Popen(
            [*command, str(FOLDER / name)], env=environment, stdout=log, stderr=log
        )


def kill(run: subprocess.Popen, victim: str) -> str:
    """SIGKILL one process of a run; the runner where there is no such process just now."""
    for process in psutil.Process(run.pid).children(recursive=True):
        try:
            if VICTIMS[victim] and VICTIMS[victim] in " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
                return victim
        except psutil.Error:
            continue  # it has just ended
    run.kill()
    return "runner"


def killed(moments: int, draw: random.Random) -> None:
    """Kill each victim at `moments` drawn moments of one run, then let it end."""
    for victim in list(VICTIMS) * moments:
        run, wait = start("killed"), draw.uniform(8, 60)
        try:
            run.wait(wait)
            print(f"the run ended before its {victim} was killed")
            break
        except subprocess.TimeoutExpired:
            print(f"{kill(run, victim)} killed after {wait:.0f} s: ends with {run.wait(600)}")
    print(f"resumed: ends with {start('killed').wait()}")


def full() -> None:
    """Fail drawn writes, one a run, until none is left to fail."""
    site = FOLDER / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(FULL_DISK)
    while status := start("full", site).wait():
        failed = len(list(site.glob("*"))) - 1
        print(f"no space at write {failed} of those drawn: ends with {status}")


def unlike(name: str) -> list[str]:
    """The tables of a run that differ from the undisturbed run's in more than training seconds."""

    def tables(run: str) -> dict[str, pd.DataFrame]:
        paths = sorted((FOLDER / run / "figures/smoke").glob("*.csv"))
        return {each.name: pd.read_csv(each, dtype=str, keep_default_na=False) for each in paths}

    def same(table: str) -> bool:
        if table not in found or table not in wanted or found[table].shape != wanted[table].shape:
            return False
        differs = found[table] != wanted[table]
        if table == "ablations.csv":
            differs = differs[wanted[table]["metric"] != "training_seconds"]
        if table == "method_map.csv":
            differs = differs.drop(columns="seconds")
        return not differs.any(axis=None)

    found, wanted = tables(name), tables("undisturbed")
    return sorted(each for each in found.keys() | wanted.keys() if not same(each))


def main() -> int:
    """Do all three and compare; the exit status is 1 where a table differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--moments", type=int, default=4, help="kills of each kind (default: 4)")
    moments = parser.parse_args().moments
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    if start("undisturbed").wait():
        sys.exit(f"the undisturbed run failed; see {FOLDER / 'undisturbed.log'}")
    killed(moments, random.Random(0))
    full()
    differing = {name: unlike(name) for name in ("killed", "full")}
    for name, tables in differing.items():
        print(f"{name}: {', '.join(tables) or 'every table as in the undisturbed run'}")
    return int(any(differing.values()))


if __name__ == "__main__":
    sys.exit(main())
