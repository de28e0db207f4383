"""The options of the command lines; standard library only, so that help works before set-up."""

import argparse
from typing import Any, NoReturn


def command(name: str, text: str, **options: Any) -> argparse.ArgumentParser:
    """The parser of `python -m rctpl_utils NAME`; its help shows `text` as it is written."""
    form = argparse.RawDescriptionHelpFormatter
    prog = f"python -m rctpl_utils {name}"
    return argparse.ArgumentParser(prog=prog, description=text, formatter_class=form, **options)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which run is meant: those of `Workspace.open`."""
    add = parser.add_argument
    names = "smoke, embedded (default), paper or paper-vit"
    add("--profile", default="embedded", metavar="NAME", help=names)
    add("--output", metavar="DIR", help="where build/ and figures/ are (default: this project)")
    add("--data-root", metavar="DIR", help="the real data sets (profiles paper, paper-vit)")
    add("--checkpoint", metavar="FILE", help="the pre-trained encoder (the same profiles)")
    add("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    skip = "leave out bad rows, images and reports of real data; they are counted and listed"
    add("--skip-bad", action="store_true", help=skip)
    partial = "accept real data sets that are not complete; what is missing is counted"
    add("--allow-partial", action="store_true", help=partial)


def run_of(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `Workspace.open` that the options of `add_run_options` name."""
    names = ("profile", "output", "data_root", "checkpoint", "device", "skip_bad", "allow_partial")
    return {name: getattr(options, name) for name in names}


class _Parser(argparse.ArgumentParser):
    """An argument parser whose refusals are a sentence with the cure."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}. See ./run_all.sh --help for the options.\n")


def _jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of notebooks, 1 or more")
    return int(text)


def runner() -> argparse.ArgumentParser:
    """The runner's parser."""
    parser = _Parser(
        prog="./run_all.sh",
        allow_abbrev=False,
        description="Run the notebooks that are not up to date, each when what it needs is done.",
    )
    add_run_options(parser)
    add = parser.add_argument
    jobs = "notebooks at a time (default: 2 on a processor, 1 on an accelerator)"
    add("--jobs", type=_jobs, metavar="N", help=jobs)
    retrain = (
        "train all weights on this machine (hours on a processor) and use them instead of the "
        "released ones; results go to figures/retrained/"
    )
    add("--retrain", action="store_true", help=retrain)
    which = parser.add_mutually_exclusive_group()
    only = "only this notebook, such as 05; repeatable"
    which.add_argument("--only", action="append", metavar="NN", help=only)
    which.add_argument(
        "--from", dest="first", metavar="NN", help="this notebook and those after it"
    )
    force = "run the chosen notebooks even if up to date; they read kept results that are current"
    add("--force", action="store_true", help=force)
    add("--list", action="store_true", help="show the notebooks and whether they are up to date")
    save = "afterwards copy the outputs into notebooks/ (profile embedded, no --output)"
    add("--save-outputs", action="store_true", help=save)
    return parser


if __name__ == "__main__":
    runner().print_help()
