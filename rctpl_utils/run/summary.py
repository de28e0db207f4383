"""What the runner prints: the list of notebooks, and the closing table."""

from collections.abc import Sequence

from rctpl_utils.run.freshness import Step, read_marker
from rctpl_utils.run.steps import Outcome
from rctpl_utils.workspace import Workspace


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
        name = step.notebook.stem
        marker = read_marker(workspace, step.notebook)
        seconds, made = (
            (f"{marker.seconds:.0f}", _made(workspace, marker.made)) if marker else ("", "")
        )
        rows.append((name, outcome.status.get(name, "not reached"), seconds, made))
    done = sum(state == "done" for state in outcome.status.values())
    took = f"{done} notebook{'s' * (done != 1)} done in {outcome.seconds:.0f} s"
    took += f", peak {outcome.peak_memory / 1e9:.1f} GB" if outcome.peak_memory else ""
    return f"\n{_table(rows)}\n\n{took}. All below {workspace.output}"


def _made(workspace: Workspace, names: Sequence[str]) -> str:
    """`figures/smoke/: table1.csv, fig3.png; 14 files in build/smoke/`."""
    figures = f"{workspace.figures.relative_to(workspace.output).as_posix()}/"
    build = f"{workspace.build.relative_to(workspace.output).as_posix()}/"
    shown = [name.removeprefix(figures) for name in names if name.startswith(figures)]
    parts = [f"{figures}: {', '.join(shown)}"] if shown else []
    others = len(names) - len(shown)
    parts += [f"{others} file{'s' * (others != 1)} in {build}"] if others else []
    return "; ".join(parts) or "nothing on disk"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    widths[-1] = len(rows[0][-1])  # the last column may be long: no rule across the screen
    rule = ["-" * width for width in widths]
    lines = [rows[0], rule, *rows[1:]]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in lines
    )
