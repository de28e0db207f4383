"""Run the notebooks, each as soon as what it needs is done: `python -m rctpl_utils run`.

On a processor two run at a time (design, section 8). Fresh notebooks are skipped, a killed run
resumes where it stopped, a failing notebook stops the run with its cell, its error and what to do.
Exit status: 0 all is up to date, 1 a notebook failed, 2 the request was refused before anything
ran.
"""

import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rctpl_utils.errors import InputError, one_line
from rctpl_utils.run.atlas import write_figures_readme, write_readme_map
from rctpl_utils.run.busy import check_writable, exclusive_run
from rctpl_utils.run.execution import check_parameters, save_outputs
from rctpl_utils.run.freshness import Step, find_notebooks, plan, read_marker, select
from rctpl_utils.run.options import build_parser
from rctpl_utils.run.provenance import write_manifest
from rctpl_utils.run.schedule import default_jobs
from rctpl_utils.run.steps import run_steps
from rctpl_utils.run.summary import closing_table, listing
from rctpl_utils.workspace import NOTEBOOKS, PROJECT, Workspace


def main(arguments: Sequence[str] | None = None, notebooks: Path = NOTEBOOKS) -> int:
    """Run the command line; return the exit status.

    Args:
        arguments: the options (`--help` lists them); those of the process by default.
        notebooks: the folder of the numbered notebooks.
    """
    options = build_parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return _run(options, notebooks)
    except (InputError, OSError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to continue.", file=sys.stderr)
        return 130


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
    steps = plan(workspace, found, selected, options.force)
    if options.list:
        print(listing(steps))
        return 0
    with exclusive_run(workspace.output):
        steps = plan(workspace, found, selected, options.force)  # as it is now that we hold it
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
    try:
        workspace = Workspace.open(
            "retrained" if options.retrain else options.profile,
            output=output,
            data_root=options.data_root,
            checkpoint=options.checkpoint,
            device=options.device,
            skip_bad=options.skip_bad,
            allow_partial=options.allow_partial,
        )
        for folder in (workspace.build, workspace.figures):
            check_writable(folder)
        if workspace.checkpoint is not None:
            from rctpl_utils.encoders.loading import check_encoder  # torch takes seconds

            check_encoder(workspace)
        if workspace.profile.world is None:
            from rctpl_utils.datasets.availability import require_reports
            from rctpl_utils.datasets.counts import require_complete_root

            require_reports(workspace)
            require_complete_root(workspace.data_root, allow_partial=options.allow_partial)
    except OSError as error:
        raise InputError(
            f"the folder cannot be written ({error.strerror or error})",
            "Choose another one with --output DIR.",
            file=output,
        ) from error
    return workspace


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
    _warn_of_gaps(steps)
    jobs = options.jobs or default_jobs(workspace)
    outcome = run_steps(workspace, steps, parameters, jobs)
    markers = [read_marker(workspace, step.notebook) for step in steps]
    if not outcome.failures:
        write_manifest(workspace, [marker for marker in markers if marker])
        write_figures_readme(workspace)
        if options.save_outputs:
            write_readme_map(workspace)
            for step in chosen:
                save_outputs(step.notebook, workspace.executed / step.notebook.name)
    print(closing_table(workspace, chosen, outcome))
    if workspace.skip_bad or workspace.allow_partial:
        from rctpl_utils.reporting.skipped import summary  # pandas and torch take seconds

        print(summary(workspace))
    for failure in outcome.failures:
        print(f"\n{failure}", file=sys.stderr)
    return 1 if outcome.failures else 0


def _warn_of_gaps(steps: Sequence[Step]) -> None:
    """Say which notebooks before the chosen ones are not up to date, whose results are used."""
    last = max(i for i, step in enumerate(steps) if step.selected)
    for step in steps[:last]:
        if not step.selected and not step.fresh:
            state = "not up to date" if step.marker else "not run yet in this folder"
            print(f"note: {step.notebook.stem} is {state}; leave out --only or --from to run it")


def _terminate(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
