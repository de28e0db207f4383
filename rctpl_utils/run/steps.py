"""Running the chosen notebooks, each as soon as what it needs is done."""

import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rctpl_utils.run.execution import (
    NotebookFailure,
    PeakMemory,
    Result,
    kernel_environment,
    result_of,
    run_notebook,
    workers,
)
from rctpl_utils.run.freshness import Marker, Step, marker_path, write_marker
from rctpl_utils.run.schedule import Needs, needs_of, threads_for
from rctpl_utils.workspace import Workspace


@dataclass
class Outcome:
    """What became of a run."""

    # by notebook: "done", "up to date" or "failed"; those not reached are absent
    status: dict[str, str] = field(default_factory=dict)
    failures: list[NotebookFailure] = field(default_factory=list)
    seconds: float = 0  # by the clock
    peak_memory: int = 0  # bytes of all that ran at once


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
    if waiting := [step for step in chosen if not step.fresh]:
        with PeakMemory() as memory, workers(jobs) as pool:
            _Run(workspace, parameters, needs, labels, jobs, outcome).go(waiting, pool)
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
    outcome: Outcome

    def go(self, waiting: list[Step], pool: Executor) -> None:
        """Start what may start, wait for the first to end, and again."""
        running: dict[Future[Result], tuple[Step, int]] = {}  # with the place of its progress bar
        while waiting or running:
            busy = {step.notebook for step in waiting} | {s.notebook for s, _ in running.values()}
            ready = [step for step in waiting if not self.needs[step.notebook] & busy]
            for step in [] if self.outcome.failures else ready[: self.jobs - len(running)]:
                waiting.remove(step)
                place = min(set(range(self.jobs)) - {place for _, place in running.values()})
                running[self._begin(step, pool, place)] = step, place
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                self._end(future, running.pop(future)[0])

    def _begin(self, step: Step, pool: Executor, place: int) -> Future[Result]:
        """Its completion marker goes first and comes back last."""
        label, notebook, writes = self.labels[step.notebook], step.notebook, self._writes(step)
        marker_path(self.workspace, notebook).unlink(missing_ok=True)
        progress: dict | bool = False
        if sys.stderr.isatty():
            progress = {"desc": label, "leave": False, "position": place}
        else:
            _say(f"{label}: running")
        writes.parent.mkdir(parents=True, exist_ok=True)
        writes.unlink(missing_ok=True)
        copy = self.workspace.executed / notebook.name
        environment = kernel_environment(threads_for(notebook, self.needs, self.jobs), writes)
        return pool.submit(
            run_notebook, notebook, copy, dict(self.parameters), environment, progress
        )

    def _end(self, future: Future[Result], step: Step) -> None:
        notebook, writes = step.notebook, self._writes(step)
        try:
            seconds, peak = result_of(future, notebook)
        except NotebookFailure as error:
            self.outcome.status[notebook.stem] = "failed"
            self.outcome.failures.append(error)
            return
        finally:
            made = files_made(self.workspace, writes)
            writes.unlink(missing_ok=True)
        threads = threads_for(notebook, self.needs, self.jobs)
        marker = Marker(notebook.stem, step.hash, seconds, threads, peak, made)
        write_marker(self.workspace, notebook, marker)
        self.outcome.status[notebook.stem] = "done"
        cost = f"{seconds:.0f} s, peak {peak / 1e9:.1f} GB"
        _say(f"{self.labels[notebook]}: done in {cost}, {len(made)} files made")

    def _writes(self, step: Step) -> Path:
        return self.workspace.executed / f".{step.notebook.stem}.writes"


def files_made(workspace: Workspace, writes: Path) -> tuple[str, ...]:
    """What a notebook wrote and left below the profile's folders, by the list of `note_written`."""
    if not writes.exists():
        return ()
    paths = map(Path, writes.read_text(encoding="utf-8").splitlines())
    own = {workspace.figures, workspace.build}
    names = {path.relative_to(workspace.output) for path in paths
             if path.is_file() and own & set(path.parents)}  # fmt: skip
    return tuple(sorted(name.as_posix() for name in names))


def _say(line: str) -> None:
    """Print above the progress bars, at once."""
    tqdm.write(line)
    sys.stdout.flush()
