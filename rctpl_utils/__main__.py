"""The package's commands: `python -m rctpl_utils COMMAND [options]`; each explains its `--help`."""

import sys
from importlib import import_module

COMMANDS = {  # name -> (module, what it does)
    "run": ("run.command", "run the notebooks, what is up to date left out (as ./run_all.sh)"),
    "check": ("run.check", "compare this machine's results with the committed ones"),
    "trace": ("run.trace", "say where a number of a table comes from"),
    "doctor": ("run.doctor", "say which data and weights are there, and what can be run"),
    "predict": ("reporting.predict", "explain one picture on a page and in numbers"),
    "encode": ("prompts.encode", "encode texts and films ahead of the notebooks"),
    "learn": ("prompts.learn", "learn prompts ahead of the notebooks, on several processors"),
    "headline": ("reporting.pages", "write the generated parts of README, RESULTS, ... anew"),
    "world": ("simulation.world", "write the embedded (simulated) world"),
    "release": ("simulation.stand_ins", "train the released weights from nothing"),
}


def main(arguments: list[str]) -> int:
    """Run one command with the arguments after its name; return the exit status."""
    if arguments and arguments[0] in COMMANDS:
        module, _ = COMMANDS[arguments[0]]
        return import_module(f"rctpl_utils.{module}").main(arguments[1:])
    asked = bool(arguments) and arguments[0] in ("-h", "--help")
    stream = sys.stdout if asked else sys.stderr
    print(__doc__, file=stream)
    for name, (_, text) in COMMANDS.items():
        print(f"  {name:9} {text}", file=stream)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
