"""A researcher's own reports; apart, so that an edit here leaves every kept training current."""

from pathlib import Path

from rctpl_utils.datasets.own_films import CONTRACT, check_split, own_cure
from rctpl_utils.datasets.tables import Screen, Skipped
from rctpl_utils.text.reports import Report
from rctpl_utils.text.sections import parse_sections

_SPLITS = {"train": "train", "validation": "validate", "test": "test"}  # MIMIC-CXR's words


def read_reports(
    file: str | Path, *, skip_bad: bool = False, skipped: list[Skipped] | None = None
) -> list[Report]:
    """Read a researcher's own reports, a CSV table; of a text findings and impression are kept.

    Columns: `report`, its identifier; `patient`; `text`, the whole report with its headings and
    line breaks, in quotes; if wanted `split`, as in a table of films (`datasets.own_films`).

    Without a column `split`, 20 % of the patients (by a hash) are for validation, and the rest is
    for training, since prompts are learned from reports. `skip_bad` leaves bad rows out instead of
    raising: with a blank cell, a report that is listed twice, a text without findings and
    impression, an unknown split or a patient in two; `skipped` takes them.
    """
    file, screen, columns = Path(file), Screen(skip_bad), ("report", "patient", "text")
    with own_cure():
        dtype = dict.fromkeys((*columns, "split"), "str")
        table = screen.read(file, columns, cure=CONTRACT, dtype=dtype)
        table.named(*columns)
        table.distinct("report")
        given = "split" in table.rows.columns
        check_split(table)
    if not given:
        table.rows = table.rows.assign(split=table["split"].replace("test", "train"))
    table.rows = table.rows.assign(parts=table["text"].map(parse_sections))
    silent = [not any(each) for each in table["parts"]]
    table.refuse(silent, "a text with neither findings nor impression")
    if skipped is not None:
        skipped += screen.skipped
    rows = table[["report", "patient", "parts", "split"]].itertuples(index=False)
    return [Report(report, patient, *both, _SPLITS[split]) for report, patient, both, split in rows]
