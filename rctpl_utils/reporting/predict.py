"""Explain a picture, or a folder of them, on a page each: `python -m rctpl_utils predict IMAGE`.

Writes <name>.pdf (or .png) and <name>.json; of a folder also scores.csv, a row a picture. What is
unlike the films of the calibration is named as out of domain; not every such picture is caught.
Research and teaching only; not a medical device.
"""

import argparse
import json
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from tqdm import tqdm

from rctpl_utils.datasets.dicom import is_dicom
from rctpl_utils.datasets.images import film_notes, read_image
from rctpl_utils.errors import InputError, one_line
from rctpl_utils.evaluation.calibration import Calibration, calibration_path
from rctpl_utils.evaluation.explain import ANY_PICTURE, Explanation, explain
from rctpl_utils.evaluation.results import write_csv
from rctpl_utils.files import atomic_path, sha256_file, write_text
from rctpl_utils.given_files import files_below
from rctpl_utils.prompts.model import RCTPL
from rctpl_utils.reporting.explain_figure import draw_explanation, nothing_shown, shown_findings
from rctpl_utils.reporting.kept_model import KEPT_PROMPTS
from rctpl_utils.vocabulary import CONCEPTS

SCORES = "scores.csv"  # of a folder
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
_ELSEWHERE = "Choose another folder with --output FOLDER."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, or 2 for bad input."""
    options = _parser().parse_args(arguments)
    concepts = tuple(dict.fromkeys(options.concepts))
    try:
        model, calibration = _load(options.prompts)
        given = (options.image, model, calibration, concepts, options.output, options.format)
        if options.image.is_dir():
            read = explain_folder(*given)["problem"].eq("")
            done = f"wrote {SCORES} and the pages of {read.sum()} of {len(read)} pictures"
        else:
            explanation, page, numbers = explain_file(*given)
            _print(explanation)
            done = f"wrote {page.name} and {numbers.name}"
    except (InputError, OSError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    print(done)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rctpl_utils predict", description=__doc__)
    parser.add_argument(
        "image", type=Path,
        help="PNG, JPEG, TIFF or DICOM, or a folder of them; color becomes gray",
    )  # fmt: skip
    parser.add_argument(
        "--prompts", type=Path, default=KEPT_PROMPTS, metavar="FILE",
        help="learned prompts, with the encoder they name and, beside them, their calibration; by "
        "default those of RC-TPL+, seed 0, that lie with the embedded run's results: RC-TPL's own "
        "concept branch leaves the image map behind, so that its heat maps point less well; the "
        "first seed was taken, not the best",
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


def explain_file(
    path: Path,
    model: RCTPL,
    calibration: Calibration | None = None,
    concepts: Sequence[str] = CONCEPTS,
    output: Path = Path(),
    form: str = "pdf",
    name: str | None = None,
) -> tuple[Explanation, Path, Path]:
    """Explain one picture; return what was found, its page (`form` pdf or png) and its numbers,
    written to `output`. An `InputError` for what cannot be read or written; as `explain`.
    """
    page, numbers = (output / f"{name or path.stem}.{each}" for each in (form, "json"))
    for target in (page, numbers):
        if target.resolve() == path.resolve():
            cure = "Choose another folder with --output FOLDER, or --format pdf."
            raise InputError("the page would overwrite the picture", cure, file=target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries', about headers
        image = read_image(path)
        notes = film_notes(path, image)
    explanation = explain(model, image, calibration, concepts)
    for note in notes:
        print(f"note: {path.name}: {note}", file=sys.stderr)
    file = {"name": path.name, "sha256": sha256_file(path), "notes": notes}
    record = {"image": file, **explanation.as_record()}
    figure = draw_explanation(image, explanation, title=path.name)
    plt.close(figure)  # a file, not a window or a notebook's output
    try:
        with atomic_path(page) as temporary:
            figure.savefig(temporary, dpi=200, bbox_inches="tight")
        write_text(numbers, json.dumps(record, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        problem = f"the report cannot be written ({error.strerror or error})"
        raise InputError(problem, _ELSEWHERE, file=output) from error
    return explanation, page, numbers


def explain_folder(
    folder: Path,
    model: RCTPL,
    calibration: Calibration | None = None,
    concepts: Sequence[str] = CONCEPTS,
    output: Path = Path(),
    form: str = "pdf",
) -> pd.DataFrame:
    """Explain every picture below a folder, none of which needs a label: `SCORES` and the pages.

    Pictures (PNG, JPEG, TIFF, BMP and DICOM) lie in folders of any depth, the pages likewise. An
    `InputError` for no picture, an output folder among them, an unknown concept; as `explain`.
    Returned is the file: a row a picture, its distance in units of the domain's limit, what was
    found with some evidence, the problem where it could not be read, the score of each concept.
    """
    if output.resolve().is_relative_to(folder.resolve()):
        raise InputError("the pages would lie among the pictures", _ELSEWHERE, file=output)
    paths = [Path(path) for _, path in files_below([folder], ("",))]
    paths = [path for path in paths if path.suffix.lower() in SUFFIXES or is_dicom(path)]
    if not paths:
        raise InputError("no picture there", "Give a folder with PNG, JPEG or DICOM.", file=folder)
    model.prompts.embed(model.encoder, list(concepts))  # refused once, not for every picture
    if calibration is not None:
        calibration.check(model.prompts.metadata.get("key"), model.encoder.image_key)
    names = Counter(path.with_suffix("") for path in paths)
    rows = []
    for path in tqdm(paths, desc="pages", unit="picture"):
        inner = path.relative_to(folder)
        name = path.name if names[path.with_suffix("")] > 1 else path.stem
        there = output / inner.parent
        try:
            of, _, _ = explain_file(path, model, calibration, concepts, there, form, name)
            domain = "OUT OF DOMAIN" if of.outside else "inside"
            found = (f"{each.concept} ({each.grade})" for each in shown_findings(of))
            row = {each.concept: each.score for each in of.findings}
            row |= {"distance": of.distance, "found": "; ".join(found), "problem": ""}
            row["domain"] = "not measured" if of.distance is None else domain
        except InputError as error:
            row = {"domain": "", "problem": str(error)}
        rows.append({"image": inner.as_posix(), **row})
    columns = ["image", "domain", "distance", "found", "problem", *concepts]
    table = pd.DataFrame(rows).reindex(columns=columns)
    write_csv(output / SCORES, table)
    return table


def _load(path: Path) -> tuple[RCTPL, Calibration | None]:
    if not path.exists():
        cure = "Run ./run_all.sh, or give others with --prompts FILE."
        raise InputError("no learned prompts there", cure, file=path)
    if (beside := calibration_path(path)).exists():
        return RCTPL.load(path), Calibration.load(beside)
    print(
        f"note: no calibration beside {path.name}: nobody can say how sure one may be of these "
        "scores (notebook 09 makes it)",
        file=sys.stderr,
    )
    return RCTPL.load(path), None


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
