"""Run the notebooks, each as soon as what it needs is done: `python -m rctpl_utils run`.

On a processor two run at a time (design, section 8). Fresh notebooks are skipped, a killed run
resumes where it stopped, a failing notebook stops the run with its cell, its error and what to do.
Exit status: 0 all is up to date, 1 a notebook failed, 2 the request was refused before anything
ran.
"""

import os
import signal
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from rctpl_utils.errors import InputError, one_line
from rctpl_utils.files import write_json, write_text
from rctpl_utils.options import run_of, runner
from rctpl_utils.run import execution, manifest, schedule
from rctpl_utils.run.execution import NotebookFailure
from rctpl_utils.run.schedule import Marker, Step
from rctpl_utils.workspace import NOTEBOOKS, PROJECT, Workspace


def main(arguments: Sequence[str] | None = None, notebooks: Path = NOTEBOOKS) -> int:
    """Run the command line (`--help` lists the options); return the exit status."""
    options = runner().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(options, notebooks)
    except (InputError, OSError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to continue.", file=sys.stderr)
        return 130


def _run(options: Namespace, folder: Path) -> int:
    found = schedule.find_notebooks(folder)
    selected = schedule.select(found, options.only, options.first)
    workspace = _open_workspace(options)
    own_place = workspace.profile.name == "embedded" and workspace.output == PROJECT
    if options.save_outputs and not own_place:
        raise InputError(
            "--save-outputs keeps the outputs of profile embedded in this project only",
            "Leave out --output and --profile, or leave out --save-outputs.",
        )
    if options.list:
        rows = [("notebook", "state", "seconds")]
        for step in schedule.plan(workspace, found, selected, options.force):
            state = "to be run again" if step.marker else "not run yet"
            seconds = f"{step.marker.seconds:.0f}" if step.marker else ""
            rows.append((step.notebook.stem, "up to date" if step.fresh else state, seconds))
        print(_table(rows))
        return 0
    parameters = run_of(options) | {
        "profile": workspace.profile.name,
        "output": None if workspace.output == PROJECT else str(workspace.output),
    }
    if workspace.profile.world is None:
        given = {"data_root": workspace.data_root, "checkpoint": workspace.checkpoint}
        parameters |= {name: str(path) for name, path in given.items()}
    with exclusive_run(workspace.output):
        steps = schedule.plan(workspace, found, selected, options.force)
        for step in steps:
            if step.selected and not step.fresh:
                execution.check_parameters(step.notebook, parameters)
        return _run_and_tell(workspace, steps, parameters, options)


def _open_workspace(options: Namespace) -> Workspace:
    output = Path(options.output).expanduser().resolve() if options.output else PROJECT
    if options.retrain and options.profile != "embedded":
        raise InputError(
            "--retrain belongs to the default profile", "Leave out --profile, or --retrain."
        )
    profile = "retrained" if options.retrain else options.profile
    try:
        workspace = Workspace.open(**run_of(options) | {"profile": profile, "output": output})
        for folder in (workspace.build, workspace.figures):
            tempfile.TemporaryFile(dir=folder).close()  # it can be written
        if workspace.checkpoint is not None:
            from rctpl_utils.encoders.loading import check_encoder  # torch takes seconds

            check_encoder(workspace)
        if workspace.profile.world is None:
            from rctpl_utils.datasets.official import require_complete_root
            from rctpl_utils.datasets.splits import require_reports

            require_reports(workspace)
            require_complete_root(workspace.data_root, allow_partial=options.allow_partial)
    except OSError as error:
        raise InputError(
            f"the folder cannot be written ({error.strerror or error})",
            "Choose another one with --output DIR.",
            file=output,
        ) from error
    return workspace


@contextmanager
def exclusive_run(output: Path) -> Iterator[None]:
    """Hold `output` for this process; the system frees it however the process ends.

    That another run holds it is an `InputError`, which names that run's process id.
    """
    holder, lock = output / "build" / "run.pid", FileLock(output / "build" / "run.lock")
    holder.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        who = holder.read_text(encoding="utf-8").strip() if holder.exists() else "unknown"
        raise InputError(
            f"another run is busy in this folder (process {who})",
            "Wait until it ends, stop it, or choose another folder with --output.",
            file=output,
        ) from error
    try:
        write_text(holder, f"{os.getpid()}\n")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _run_and_tell(
    workspace: Workspace, steps: Sequence[Step], parameters: Mapping[str, Any], options: Namespace
) -> int:
    """Run what is to run; print the closing table; return the exit status."""
    chosen = [step for step in steps if step.selected]
    for step in steps[: steps.index(chosen[-1])]:  # whose results are used
        if not step.selected and not step.fresh:
            state = "not up to date" if step.marker else "not run yet in this folder"
            print(f"note: {step.notebook.stem} is {state}; leave out --only or --from to run it")
    # On a processor with two cores or more two notebooks at a time; on an accelerator one
    jobs = 2 if workspace.device.type == "cpu" and schedule.available_cores() > 1 else 1
    start = time.perf_counter()
    failures, peak = run_steps(workspace, steps, parameters, options.jobs or jobs)
    seconds = time.perf_counter() - start
    if not failures:
        manifest.write_manifest(workspace, [step.marker for step in steps if step.marker])
        manifest.write_figures_readme(workspace)
        if options.save_outputs:
            manifest.write_results_map(workspace)
            for step in chosen:
                execution.save_outputs(step.notebook, workspace.executed / step.notebook.name)
    print(f"\n{_closing_table(workspace, chosen)}\n")
    took = f"{_count([step.status for step in chosen].count('done'), 'notebook')} done"
    used = f", peak {peak / 1e9:.1f} GB" if peak else ""
    print(f"{took} in {seconds:.0f} s{used}. All below {workspace.output}")
    if workspace.skip_bad or workspace.allow_partial:
        from rctpl_utils.reporting.skipped import summary  # pandas and torch take seconds

        print(summary(workspace))
    for failure in failures:
        print(f"\n{failure}", file=sys.stderr)
    return 1 if failures else 0


# --- each notebook as soon as what it needs is done ---


def run_steps(
    workspace: Workspace, steps: Sequence[Step], parameters: Mapping[str, Any], jobs: int
) -> tuple[list[NotebookFailure], int]:
    """Run what is selected and not fresh, `jobs` notebooks at a time; failures and peak memory.

    After a failure no other notebook starts; those that run are waited for and kept (but for the
    end of a process itself, which takes the others along).
    """
    chosen = [step for step in steps if step.selected]
    needs = schedule.needs_of([step.notebook for step in steps])
    for number, step in enumerate(chosen, start=1):
        step.label = f"[{number}/{len(chosen)}] {step.notebook.stem}"
        step.threads = schedule.threads_for(step.notebook, needs, jobs)
        if step.fresh:
            step.status = "up to date"
            _say(f"{step.label}: up to date")
    waiting = [step for step in chosen if not step.fresh]
    running: dict[Future, Step] = {}
    failures: list[NotebookFailure] = []
    if not waiting:
        return failures, 0
    with execution.peak_memory() as memory, execution.workers(jobs) as pool:
        while True:
            busy = {step.notebook for step in (*waiting, *running.values())}
            ready = [step for step in waiting if not needs[step.notebook] & busy]
            for step in [] if failures else ready[: jobs - len(running)]:
                waiting.remove(step)
                step.place = min(set(range(jobs)) - {other.place for other in running.values()})
                running[_begin(workspace, step, parameters, pool)] = step
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                step = running.pop(future)
                try:
                    _end(workspace, step, future)
                except NotebookFailure as error:
                    step.status = "failed"
                    failures.append(error)
    return failures, memory.bytes


def _begin(
    workspace: Workspace, step: Step, parameters: Mapping[str, Any], pool: Executor
) -> Future:
    """Its completion marker goes first and comes back last."""
    notebook = step.notebook
    step.writes = workspace.executed / f".{notebook.stem}.writes"
    schedule.marker_path(workspace, notebook).unlink(missing_ok=True)
    step.marker = None
    progress: dict | bool = False
    if sys.stderr.isatty():
        progress = {"desc": step.label, "leave": False, "position": step.place}
    else:
        _say(f"{step.label}: running")
    workspace.executed.mkdir(parents=True, exist_ok=True)
    step.writes.unlink(missing_ok=True)
    copy = workspace.executed / notebook.name
    environment = execution.kernel_environment(step.threads, step.writes)
    given = (notebook, copy, dict(parameters), environment, progress)
    return pool.submit(execution.run_notebook, *given)


def _end(workspace: Workspace, step: Step, future: Future) -> None:
    notebook = step.notebook
    try:
        seconds, peak = future.result()
    except BrokenProcessPool as error:  # the pool has lost a process, and with it all
        raise NotebookFailure(
            notebook.name,
            "A process that runs notebooks ended without a word; the others were stopped with it.",
            "Most often the memory ran out: close other programs, or use --jobs 1.",
        ) from error
    finally:
        made = files_made(workspace, step.writes)
        step.writes.unlink(missing_ok=True)
    step.marker = Marker(notebook.stem, step.hash, seconds, step.threads, peak, made)
    write_json(schedule.marker_path(workspace, notebook), step.marker)
    step.status = "done"
    cost = f"{seconds:.0f} s, peak {peak / 1e9:.1f} GB"
    _say(f"{step.label}: done in {cost}, {len(made)} files made")


def files_made(workspace: Workspace, writes: Path) -> tuple[str, ...]:
    """What a notebook wrote and left below the profile's folders, by the list of `note_written`."""
    lines = writes.read_text(encoding="utf-8").splitlines() if writes.exists() else []
    own = {workspace.figures, workspace.build}
    paths = {path for path in map(Path, lines) if path.is_file() and own & {*path.parents}}
    return tuple(sorted(path.relative_to(workspace.output).as_posix() for path in paths))


def _say(line: str) -> None:
    """Print above the progress bars, at once."""
    tqdm.write(line)
    sys.stdout.flush()


def _closing_table(workspace: Workspace, steps: Sequence[Step]) -> str:
    """Show what became of each chosen notebook: its status, its seconds, what it made where.

    As in `figures/smoke/: table1.csv, fig3.png; 14 files in build/smoke/`.
    """
    folders = (workspace.figures, workspace.build)
    figures, build = (f"{each.relative_to(workspace.output).as_posix()}/" for each in folders)
    rows = [("notebook", "status", "seconds", "made")]
    for step in steps:
        seconds = f"{step.marker.seconds:.0f}" if step.marker else ""
        made = step.marker.made if step.marker else ()
        shown = [name.removeprefix(figures) for name in made if name.startswith(figures)]
        others = len(made) - len(shown)
        parts = [f"{figures}: {', '.join(shown)}"] if shown else []
        parts += [f"{_count(others, 'file')} in {build}"] if others else []
        told = "; ".join(parts) or "nothing on disk" * bool(step.marker)
        rows.append((step.notebook.stem, step.status, seconds, told))
    return _table(rows)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[-1] = len(rows[0][-1])  # the last column may be long: no rule across the screen
    lines = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in lines
    )
