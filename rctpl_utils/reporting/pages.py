"""Every page whose numbers come from the committed results: `python -m rctpl_utils headline`.

Writes README.md, RESULTS.md, ARTIFACT.md and the model card anew; a test compares what stands there
with what the files say. The map in RESULTS.md is the runner's (`./run_all.sh --save-outputs`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from rctpl_utils.files import replace_section, write_text
from rctpl_utils.options import command
from rctpl_utils.reporting import front, headline
from rctpl_utils.workspace import PROJECT

SECTIONS: dict[str, dict[str, Callable[[], str]]] = {  # page -> its sections
    "README.md": {
        "verdict": front.verdict,
        "first result": front.first_result,
        "costs": front.costs,
    },
    "RESULTS.md": {"results": headline.headline},
    "ARTIFACT.md": {"one claim": front.one_claim},
    "docs/model_card.md": {"results": headline.measured, "weights": headline.weights},
}


def markers(section: str) -> tuple[str, str]:
    """The lines before and after a generated section."""
    return f"<!-- {section}: python -m rctpl_utils headline -->", f"<!-- end of {section} -->"


def written() -> dict[Path, str]:
    """The pages as they should be."""
    pages = {}
    for name, sections in SECTIONS.items():
        text = (PROJECT / name).read_text(encoding="utf-8")
        for section, made in sections.items():
            text = replace_section(text, made(), markers(section), f"{name}'s {section}")
        pages[PROJECT / name] = text
    return pages


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    command("headline", __doc__).parse_args(arguments)
    for path, text in written().items():
        write_text(path, text)
    return 0
