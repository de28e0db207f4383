"""The command line of the runner; standard library only, so that help works before set-up."""

import argparse
from typing import NoReturn


class _Parser(argparse.ArgumentParser):
    """An argument parser whose refusals are a sentence with the cure."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}. See ./run_all.sh --help for the options.\n")


def _jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of notebooks, 1 or more")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """Return the runner's argument parser."""
    parser = _Parser(
        prog="./run_all.sh",
        allow_abbrev=False,
        description="Run the notebooks that are not up to date, each when what it needs is done.",
    )
    add = parser.add_argument
    add(
        "--profile",
        default="embedded",
        metavar="NAME",
        help="smoke, embedded (default), paper or paper-vit",
    )
    add("--data-root", metavar="DIR", help="the real data sets (profiles paper, paper-vit)")
    add("--checkpoint", metavar="FILE", help="the pre-trained encoder (the same profiles)")
    add(
        "--skip-bad",
        action="store_true",
        help="leave out bad rows, images and reports of real data; they are counted and listed",
    )
    add(
        "--allow-partial",
        action="store_true",
        help="accept real data sets that are not complete; what is missing is counted",
    )
    add("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    add(
        "--jobs",
        type=_jobs,
        metavar="N",
        help="notebooks at a time (default: 2 on a processor, 1 on an accelerator)",
    )
    add("--output", metavar="DIR", help="where build/ and figures/ go (default: this project)")
    add(
        "--retrain",
        action="store_true",
        help="train all weights on this machine (hours on a processor) and use them instead of "
        "the released ones; results go to figures/retrained/",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--only", action="append", metavar="NN", help="only this notebook, such as 05; repeatable"
    )
    which.add_argument(
        "--from", dest="first", metavar="NN", help="this notebook and those after it"
    )
    add(
        "--force",
        action="store_true",
        help="run the chosen notebooks even if up to date; they read kept results that are current",
    )
    add("--list", action="store_true", help="show the notebooks and whether they are up to date")
    add(
        "--save-outputs",
        action="store_true",
        help="afterwards copy the outputs into notebooks/ (profile embedded, no --output)",
    )
    return parser


if __name__ == "__main__":
    build_parser().print_help()
