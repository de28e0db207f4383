"""What notebook 07 writes: Table 5 in three formats, the paired tests and their verdict."""

from collections.abc import Mapping, Sequence

import pandas as pd

from rctpl_utils.baselines.registry import why_absent
from rctpl_utils.evaluation.bootstrap_samples import save_draws
from rctpl_utils.evaluation.metrics import holm, named_interval, paired_p_value
from rctpl_utils.evaluation.results import (
    reported_retrieval,
    stacked,
    table_note,
    wide_table,
    with_reported,
    write_csv,
    write_table,
)
from rctpl_utils.evaluation.retrieval import (
    DIRECTIONS,
    OURS,
    RANKS,
    RAW,
    RAW_STANDARDIZED,
    Retrieval,
)
from rctpl_utils.evaluation.retrieval_sides import DATASET
from rctpl_utils.workspace import Workspace

AGAINST = (RAW, RAW_STANDARDIZED, "class names")
TESTED = ("precision_at_1", "precision_at_10")  # image to text, the paper's direction


def save_table5(
    workspace: Workspace, outcome: Retrieval | None, others: Mapping[str, bool] | None = None
) -> pd.DataFrame:
    """Write table5.csv, .md and .tex, the per-seed rows and the draws behind the intervals.

    Native are the frozen encoder's own retrieval and the class scores of RC-TPL; all other rows are
    extensions or references of ours.

    Args:
        outcome: None where the films are absent; our cells then say "not run".
        others: for the rows of other methods, whether they retrieve so themselves.

    Returns:
        one line a method: Precision@K in both directions with intervals, and the paper's numbers.
    """
    rows = stacked([] if outcome is None else [outcome.rows])
    methods = rows["method"].astype("str")
    native = methods.str.startswith("RC-TPL") | methods.eq(RAW)
    native |= methods.map(dict(others or {})).eq(True)
    table = with_reported(rows.assign(native=native), reported_retrieval())
    write_csv(workspace.figures / "table5.csv", table)
    if outcome is not None:
        write_csv(workspace.results / "table5_per_seed.csv", outcome.per_seed)
    save_draws(workspace.results, "retrieval", {} if outcome is None else outcome.draws)
    wide = wide_table(table, reasons=why_absent(workspace))
    names = [f"{metric}{rank}" for metric in DIRECTIONS for rank in RANKS]
    order = [(DATASET, each) for name in names for each in (name, f"{name} reported")]
    wide = wide[[column for column in order if column in wide.columns]]
    caption = (
        f"Table 5. Image-text retrieval on CheXpert-5x200, value [95 % interval]. "
        f"{table_note(workspace)} Right is what is of the query's class. Class-score rows compare "
        "scores standardized over the pool, as are the baselines' own vectors; 'plain cosine' rows "
        "do not. Columns 'reported': the "
        "paper's numbers, on real data with other encoders and sentences, not reruns."
    )
    write_table(workspace.figures / "table5", wide, caption)
    return wide[DATASET]


def retrieval_tests(
    workspace: Workspace, outcome: Retrieval, competitors: Sequence[str] = ()
) -> pd.DataFrame:
    """RC-TPL and RC-TPL+ against raw embeddings and class names, image to text; Holm-corrected.

    Args:
        competitors: names of rows that stand beside these.

    Returns:
        dataset, method, against, metric, value (the difference), ci_low, ci_high, p_value, p_holm.
    """
    rows = []
    for method in OURS:
        for other in (*AGAINST, *competitors):
            for metric in TESTED:
                one, two = (outcome.draws[DATASET, name, metric] for name in (method, other))
                key = {"dataset": DATASET, "method": method, "against": other, "metric": metric}
                difference = one - two
                p_value = paired_p_value(difference)
                rows.append({**key, **named_interval(difference, None), "p_value": p_value})
    tests = pd.DataFrame(rows)
    tests["p_holm"] = holm(tests["p_value"].to_numpy())
    write_csv(workspace.results / "table5_paired_tests.csv", tests)
    return tests


def retrieval_verdict(tests: pd.DataFrame) -> str:
    """In plain words: which differences remain after Holm's correction."""
    lines = []
    for row in tests.itertuples():
        word = "undecided against"
        if row.p_holm < 0.05:
            word = "better than" if row.value > 0 else "worse than"
        lines.append(f"{row.method}, {row.metric}: {word} {row.against} ({row.value:+.3f}).")
    return "\n".join(lines)
