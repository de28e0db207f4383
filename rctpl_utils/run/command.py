"""Run the notebooks, each as soon as what it needs is done: `python -m rctpl_utils run`.

On a processor two run at a time (design, section 8). Fresh notebooks are skipped, a killed run
resumes where it stopped, a failing notebook stops the run with its cell, its error and what to do.
Exit status: 0 all is up to date, 1 a notebook failed, 2 the request was refused before anything
ran.
"""

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rctpl_utils.errors import InputError, one_line
from rctpl_utils.files import write_text
from rctpl_utils.options import run_of, runner
from rctpl_utils.run.command import run_steps
from rctpl_utils.run.execution import check_parameters, save_outputs
from rctpl_utils.run.manifest import write_figures_readme, write_manifest, write_results_map
from rctpl_utils.run.schedule import Step, default_jobs, find_notebooks, plan, read_marker, select
from rctpl_utils.run.steps import Outcome
from rctpl_utils.workspace import NOTEBOOKS, PROJECT, Workspace


def main(arguments: Sequence[str] | None = None, notebooks: Path = NOTEBOOKS) -> int:
    """Run the command line (`--help` lists the options); return the exit status."""
    options = runner().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return _run(options, notebooks)
    except (InputError, OSError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to continue.", file=sys.stderr)
        return 130


def _terminate(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _run(options: Namespace, folder: Path) -> int:
    found = find_notebooks(folder)
    selected = select(found, options.only, options.first)
    workspace = _open_workspace(options)
    if options.save_outputs and not (
        workspace.profile.name == "embedded" and workspace.output == PROJECT
    ):
        raise InputError(
            "--save-outputs keeps the outputs of profile embedded in this project only",
            "Leave out --output and --profile, or leave out --save-outputs.",
        )
    if options.list:
        print(listing(plan(workspace, found, selected, options.force)))
        return 0
    with exclusive_run(workspace.output):
        steps = plan(workspace, found, selected, options.force)
        parameters = _parameters(options, workspace)
        for step in steps:
            if step.selected and not step.fresh:
                check_parameters(step.notebook, parameters)
        return _run_steps(workspace, steps, parameters, options)


def _open_workspace(options: Namespace) -> Workspace:
    output = Path(options.output).expanduser().resolve() if options.output else PROJECT
    if options.retrain and options.profile != "embedded":
        raise InputError(
            "--retrain belongs to the default profile", "Leave out --profile, or --retrain."
        )
    profile = "retrained" if options.retrain else options.profile
    try:
        workspace = Workspace.open(**{**run_of(options), "profile": profile, "output": output})
        for folder in (workspace.build, workspace.figures):
            probe = folder / f".writable.{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
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


def _parameters(options: Namespace, workspace: Workspace) -> dict[str, Any]:
    """The values of the notebooks' parameters cells; None where the default is meant."""
    own_data = workspace.profile.world is None
    return {
        "profile": workspace.profile.name,
        "output": None if workspace.output == PROJECT else str(workspace.output),
        "data_root": str(workspace.data_root) if own_data else None,
        "checkpoint": str(workspace.checkpoint) if own_data else None,
        "device": options.device,
        "skip_bad": workspace.skip_bad,
        "allow_partial": workspace.allow_partial,
    }


def _run_steps(
    workspace: Workspace, steps: Sequence[Step], parameters: dict[str, Any], options: Namespace
) -> int:
    chosen = [step for step in steps if step.selected]
    for step in steps[: steps.index(chosen[-1])]:  # whose results are used
        if not step.selected and not step.fresh:
            state = "not up to date" if step.marker else "not run yet in this folder"
            print(f"note: {step.notebook.stem} is {state}; leave out --only or --from to run it")
    outcome = run_steps(workspace, steps, parameters, options.jobs or default_jobs(workspace))
    if not outcome.failures:
        markers = [read_marker(workspace, step.notebook) for step in steps]
        write_manifest(workspace, [marker for marker in markers if marker])
        write_figures_readme(workspace)
        if options.save_outputs:
            write_results_map(workspace)
            for step in chosen:
                save_outputs(step.notebook, workspace.executed / step.notebook.name)
    print(closing_table(workspace, chosen, outcome))
    if workspace.skip_bad or workspace.allow_partial:
        from rctpl_utils.reporting.skipped import summary  # pandas and torch take seconds

        print(summary(workspace))
    for failure in outcome.failures:
        print(f"\n{failure}", file=sys.stderr)
    return 1 if outcome.failures else 0


def listing(steps: Sequence[Step]) -> str:
    """Show every notebook, whether it is up to date, and how long it took."""
    rows = [("notebook", "state", "seconds")]
    for step in steps:
        state = "up to date" if step.fresh else "to be run again" if step.marker else "not run yet"
        seconds = f"{step.marker.seconds:.0f}" if step.marker else ""
        rows.append((step.notebook.stem, state, seconds))
    return _table(rows)


def closing_table(workspace: Workspace, steps: Sequence[Step], outcome: Outcome) -> str:
    """Show what became of each chosen notebook: its status, its seconds, what it made where."""
    rows = [("notebook", "status", "seconds", "made")]
    for step in steps:
        status = outcome.status.get(step.notebook.stem, "not reached")
        marker = read_marker(workspace, step.notebook)
        cost = (f"{marker.seconds:.0f}", _made(workspace, marker.made)) if marker else ("", "")
        rows.append((step.notebook.stem, status, *cost))
    done = list(outcome.status.values()).count("done")
    took = f"{_count(done, 'notebook')} done in {outcome.seconds:.0f} s"
    took += f", peak {outcome.peak_memory / 1e9:.1f} GB" if outcome.peak_memory else ""
    return f"\n{_table(rows)}\n\n{took}. All below {workspace.output}"


def _made(workspace: Workspace, names: Sequence[str]) -> str:
    """`figures/smoke/: table1.csv, fig3.png; 14 files in build/smoke/`."""
    figures, build = (
        f"{folder.relative_to(workspace.output).as_posix()}/"
        for folder in (workspace.figures, workspace.build)
    )
    shown = [name.removeprefix(figures) for name in names if name.startswith(figures)]
    parts = [f"{figures}: {', '.join(shown)}"] if shown else []
    others = len(names) - len(shown)
    parts += [f"{_count(others, 'file')} in {build}"] if others else []
    return "; ".join(parts) or "nothing on disk"


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
