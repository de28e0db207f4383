"""Explain one picture on a page and in numbers: `python -m rctpl_utils predict IMAGE`.

Writes <name>.pdf (or .png) and <name>.json. A picture that is unlike the films of the calibration
is named as out of domain; not every one is caught. Research and teaching only; not a medical
device.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from rctpl_utils.datasets.film_notes import film_notes
from rctpl_utils.datasets.images import read_image
from rctpl_utils.errors import InputError, one_line
from rctpl_utils.evaluation.calibration import Calibration, calibration_path
from rctpl_utils.evaluation.explain import ANY_PICTURE, Explanation, explain
from rctpl_utils.files import atomic_path, sha256_file, write_text
from rctpl_utils.prompts.model import RCTPL
from rctpl_utils.reporting.explain_figure import draw_explanation, nothing_shown, shown_findings
from rctpl_utils.vocabulary import CONCEPTS
from rctpl_utils.workspace import PROJECT

DEFAULT_PROMPTS = PROJECT / "build" / "embedded" / "prompts" / "rc-tpl-plus-0.safetensors"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rctpl_utils predict", description=__doc__)
    parser.add_argument("image", type=Path, help="PNG, JPEG, TIFF or DICOM; color becomes gray")
    parser.add_argument(
        "--prompts", type=Path, default=DEFAULT_PROMPTS, metavar="FILE",
        help="learned prompts, with the encoder they name and, beside them, their calibration; by "
        "default those of RC-TPL+, seed 0, of the embedded run: RC-TPL's own concept branch "
        "leaves the image map behind, so that its heat maps point less well; the first seed "
        "was taken, not the best",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, default=Path(), metavar="FOLDER", help="default: this folder"
    )
    parser.add_argument("--format", choices=("pdf", "png"), default="pdf", help="of the page")
    parser.add_argument(
        "--concepts", nargs="+", default=CONCEPTS, metavar="CONCEPT",
        help='ask for these only, for example --concepts Edema "Pleural Effusion"; default: all '
        f"{len(CONCEPTS)}",
    )  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, or 2 for bad input."""
    options = build_parser().parse_args(arguments)
    try:
        page, numbers = _predict(options)
    except (InputError, OSError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    print(f"wrote {page.name} and {numbers.name}")
    return 0


def _predict(options: argparse.Namespace) -> tuple[Path, Path]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries', about headers
        image = read_image(options.image)
        notes = film_notes(options.image, image)
    page = _target(options.image, options.output, options.format)
    numbers = _target(options.image, options.output, "json")
    concepts = tuple(dict.fromkeys(options.concepts))
    model, calibration = _load(options.prompts)
    explanation = explain(model, image, calibration, concepts)
    for note in notes:
        print(f"note: {options.image.name}: {note}", file=sys.stderr)
    _print(explanation)
    file = {"name": options.image.name, "sha256": sha256_file(options.image), "notes": notes}
    record = {"image": file, **explanation.as_record()}
    figure = draw_explanation(image, explanation, title=options.image.name)
    plt.close(figure)  # a file, not a window or a notebook's output
    try:
        with atomic_path(page) as temporary:
            figure.savefig(temporary, dpi=200, bbox_inches="tight")
        write_text(numbers, json.dumps(record, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise InputError(
            f"the report cannot be written ({error.strerror or error})",
            "Choose another folder with --output FOLDER.",
            file=options.output,
        ) from error
    return page, numbers


def _load(path: Path) -> tuple[RCTPL, Calibration | None]:
    if not path.exists():
        raise InputError(
            "no learned prompts there",
            "Run ./run_all.sh first, or give others with --prompts FILE.",
            file=path,
        )
    beside = calibration_path(path)
    if not beside.exists():
        print(
            f"note: no calibration beside {path.name}: nobody can say how sure one may be of these "
            "scores (notebook 09 makes it)",
            file=sys.stderr,
        )
    return RCTPL.load(path), Calibration.load(beside) if beside.exists() else None


def _target(image: Path, folder: Path, suffix: str) -> Path:
    """The file to write; never the picture itself."""
    target = folder / f"{image.stem}.{suffix}"
    if target.resolve() == image.resolve():
        raise InputError(
            "the page would overwrite the picture",
            "Choose another folder with --output FOLDER, or --format pdf.",
            file=target,
        )
    return target


def _print(explanation: Explanation) -> None:
    print(explanation.warning)
    print(explanation.domain_note)
    print(ANY_PICTURE)
    for finding in shown_findings(explanation):
        of = finding.evidence
        print(
            f"{finding.concept}: {finding.grade} evidence, {finding.place}; "
            f"{of.as_high_present} of {of.as_high} validation films that score as high show it"
        )
    if not shown_findings(explanation) and not explanation.outside:
        print(nothing_shown(explanation))
