"""A researcher's own films: a CSV table beside them, checked row by row, to a data set.

Columns: `image`, the film's path relative to the table; `patient`; if wanted `split` (train,
validation or test); then one column a concept, by its name in `vocabulary.CONCEPTS`, with 1
present, 0 absent, empty unknown. Without `split`, 20 % of the patients (by a hash) are validation,
the rest test, as in the official data sets that have no split.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.datasets.tables import CheckedTable, Screen, Skipped, hash_split, read_table
from rctpl_utils.errors import InputError
from rctpl_utils.given_files import existing
from rctpl_utils.vocabulary import CONCEPTS

SPLITS = ("train", "validation", "test")
CONTRACT = "Mend the table; docs/your_own_data.md says what its columns are."
_NAMED = ("image", "patient")


def read_films(
    file: str | Path,
    split: str = "test",
    *,
    known: Sequence[str] = CONCEPTS,
    skip_bad: bool = False,
) -> ChestXrayDataset:
    """Read one split of a table of films; the films themselves are decoded when asked for.

    The data set is named after the file and has the concepts in the order of its columns, whose
    names must be among `known`: with a concept of one's own beside `CONCEPTS`.

    Raises:
        InputError: with file and row: a column that is absent or names no concept, a blank cell, a
            path that leaves the table's folder, a film that is listed twice or is not there, a
            label other than 1, 0 or empty, an unknown split or a patient in two. With `skip_bad`
            such rows and films are left out and listed.
    """
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}", f"Choose one of: {', '.join(SPLITS)}.")
    file, screen = Path(file), Screen(skip_bad)
    with own_cure():
        columns = list(read_table(file, _NAMED).columns)
        dtype = dict.fromkeys((*_NAMED, "split"), "str")
        table = screen.read(file, columns, cure=CONTRACT, whole="image", dtype=dtype)
        concepts = tuple(each for each in columns if each not in (*_NAMED, "split"))
        _check_names(concepts, known, file)
        table.named(*_NAMED)
        table.inside("image")
        names = table["image"].map(lambda name: PurePosixPath(name).as_posix())
        paths = [existing(str(file.parent / name)) for name in names]
        table.rows = table.rows.assign(image=names, path=paths)
        table.distinct("image")
        cure = "Check the path: it is relative to the table."
        table.refuse(table["path"].isna(), "the image file is missing", cure)
        cure = "Leave the cell empty where it is unknown or uncertain."
        for concept in concepts:
            table.numbers(concept)
            wrong = ~(table[concept].isna() | table[concept].isin([0, 1]))
            table.refuse(wrong, f"a label of {concept!r} that is not 1, 0 or empty", cure)
        check_split(table)
        records = table.rows[table["split"] == split]
        records = records.rename(columns={"image": "image_id", "patient": "patient_id"})
        records = records[["image_id", "patient_id", "path", *concepts]]
        return ChestXrayDataset(file.stem, split, concepts, records, screen=screen)


def check_split(table: CheckedTable) -> None:
    """Give the table a sound column `split`; by a hash of `patient` where it has none."""
    if "split" not in table.rows.columns:
        table.rows = table.rows.assign(split=hash_split(table["patient"]))
        return
    problem = f"a split that is none of {', '.join(SPLITS)}"
    table.refuse(~table["split"].isin(SPLITS), problem)
    elsewhere = table.rows.groupby("patient")["split"].transform("first") != table["split"]
    cure = "Move all rows of a patient to one split."
    table.refuse(elsewhere, "a patient who is in another split too", cure, whole="patient")


@contextmanager
def own_cure() -> Iterator[None]:
    """What the checks of official tables find wrong, with a cure for a table of one's own."""
    try:
        yield
    except InputError as error:
        if "official" not in error.cure:
            raise
        reason = Skipped.of(error).reason
        raise InputError(reason, CONTRACT, file=error.file, row=error.row) from error


def _check_names(concepts: Sequence[str], known: Sequence[str], file: Path) -> None:
    """Refuse a column that names no concept, and say which one it may mean."""
    spelled = {name.casefold(): name for name in known}
    for name in concepts:
        if name not in known:
            near = get_close_matches(name.casefold(), spelled, n=1)
            meant = f"; the nearest name is {spelled[near[0]]!r}" if near else ""
            cure = f"Rename or delete it. Known are: {', '.join(known)}."
            raise InputError(f"the column {name!r} names no concept{meant}", cure, file=file)
