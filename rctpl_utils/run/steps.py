"""Running the chosen notebooks, each as soon as what it needs is done."""

import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rctpl_utils.run.execution import NotebookFailure
from rctpl_utils.run.freshness import Marker, Step, marker_path, write_marker
from rctpl_utils.run.resources import PeakMemory
from rctpl_utils.run.schedule import Needs, needs_of, threads_for
from rctpl_utils.run.workers import Result, result_of, run_notebook, workers
from rctpl_utils.workspace import Workspace


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
        status: by notebook: "done", "up to date" or "failed"; those not reached are absent.
        failures: what stopped it.
        seconds: wall-clock time of all.
        peak_memory: bytes; the largest summed resident size of all that ran at once.
    """

    status: dict[str, str] = field(default_factory=dict)
    failures: list[NotebookFailure] = field(default_factory=list)
    seconds: float = 0
    peak_memory: int = 0


def run_steps(
    workspace: Workspace, steps: Sequence[Step], parameters: Mapping[str, Any], jobs: int
) -> Outcome:
    """Run what is selected and not fresh, `jobs` notebooks at a time.

    After a failure no other notebook starts; those that run are waited for and kept (but for the
    end of a process itself, which takes the others along).
    """
    start, outcome = time.perf_counter(), Outcome()
    chosen = [step for step in steps if step.selected]
    needs = needs_of([step.notebook for step in steps])
    labels = {
        step.notebook: f"[{number}/{len(chosen)}] {step.notebook.stem}"
        for number, step in enumerate(chosen, start=1)
    }
    for step in chosen:
        if step.fresh:
            outcome.status[step.notebook.stem] = "up to date"
            _say(f"{labels[step.notebook]}: up to date")
    waiting = [step for step in chosen if not step.fresh]
    if waiting:
        with PeakMemory() as memory, workers(jobs) as pool:
            _Run(workspace, parameters, needs, labels, jobs, pool, outcome).go(waiting)
        outcome.peak_memory = memory.bytes
    outcome.seconds = time.perf_counter() - start
    return outcome


@dataclass
class _Run:
    workspace: Workspace
    parameters: Mapping[str, Any]
    needs: Needs
    labels: Mapping[Path, str]
    jobs: int
    pool: Executor
    outcome: Outcome
    running: dict[Future[Result], tuple[Step, int]] = field(default_factory=dict)  # with its place

    def go(self, waiting: list[Step]) -> None:
        """Start what may start, wait for the first to end, and again."""
        while waiting or self.running:
            for step in self._ready(waiting):
                waiting.remove(step)
                self._begin(step)
            if not self.running:
                return
            ended, _ = wait(self.running, return_when=FIRST_COMPLETED)
            for future in ended:
                self._end(future)

    def _ready(self, waiting: Sequence[Step]) -> list[Step]:
        """The first of those whose needs neither wait nor run, as many as there are places."""
        if self.outcome.failures:
            return []
        busy = {step.notebook for step in waiting}
        busy |= {step.notebook for step, _ in self.running.values()}
        ready = [step for step in waiting if not self.needs[step.notebook] & busy]
        return ready[: self.jobs - len(self.running)]

    def _begin(self, step: Step) -> None:
        """Its completion marker goes first and comes back last."""
        label, notebook = self.labels[step.notebook], step.notebook
        marker_path(self.workspace, notebook).unlink(missing_ok=True)
        place = min(set(range(self.jobs)) - {place for _, place in self.running.values()})
        progress: dict | bool = False
        if sys.stderr.isatty():
            progress = {"desc": label, "leave": False, "position": place}
        else:
            _say(f"{label}: running")
        writes = self._writes(notebook)
        writes.parent.mkdir(parents=True, exist_ok=True)
        writes.unlink(missing_ok=True)
        copy = self.workspace.executed / notebook.name
        threads = threads_for(notebook, self.needs, self.jobs)
        future = self.pool.submit(
            run_notebook, notebook, copy, dict(self.parameters), threads, writes, progress
        )
        self.running[future] = (step, place)

    def _end(self, future: Future[Result]) -> None:
        step, _ = self.running.pop(future)
        name, writes = step.notebook.stem, self._writes(step.notebook)
        try:
            seconds, peak = result_of(future, step.notebook)
        except NotebookFailure as error:
            self.outcome.status[name] = "failed"
            self.outcome.failures.append(error)
            return
        finally:
            made = files_made(self.workspace, writes)
            writes.unlink(missing_ok=True)
        threads = threads_for(step.notebook, self.needs, self.jobs)
        marker = Marker(name, step.hash, seconds, threads, peak, made)
        write_marker(self.workspace, step.notebook, marker)
        self.outcome.status[name] = "done"
        _say(
            f"{self.labels[step.notebook]}: done in {seconds:.0f} s, "
            f"peak {peak / 1e9:.1f} GB, {len(made)} files made"
        )

    def _writes(self, notebook: Path) -> Path:
        return self.workspace.executed / f".{notebook.stem}.writes"


def files_made(workspace: Workspace, writes: Path) -> tuple[str, ...]:
    """What a notebook wrote and did not take away again, below the profile's folders, in order.

    Args:
        writes: the list that `files.atomic_path` kept while it ran; absent if it wrote nothing.
    """
    if not writes.exists():
        return ()
    names = set()
    for line in writes.read_text(encoding="utf-8").splitlines():
        path = Path(line)
        if path.is_file() and _within(path, workspace.figures, workspace.build):
            names.add(path.relative_to(workspace.output).as_posix())
    return tuple(sorted(names))


def _within(path: Path, *folders: Path) -> bool:
    return any(folder in path.parents for folder in folders)


def _say(line: str) -> None:
    """Print above the progress bars, at once."""
    tqdm.write(line)
    sys.stdout.flush()
