"""What notebook 07 writes: Table 5 in three formats, the paired tests and their verdict."""

from collections.abc import Mapping, Sequence

import pandas as pd

from rctpl_utils.evaluation.bootstrap_samples import save_draws
from rctpl_utils.evaluation.results import reported_retrieval, stacked, table_note, write_csv
from rctpl_utils.evaluation.retrieval import (
    DIRECTIONS,
    OURS,
    PLAIN_SUFFIX,
    RANKS,
    RAW,
    RAW_STANDARDIZED,
    Retrieval,
)
from rctpl_utils.evaluation.retrieval_sides import DATASET
from rctpl_utils.prompts.training import BRANCHES
from rctpl_utils.reporting.common import NOT_RERUNS, by_outcome, paired_tests, save_table
from rctpl_utils.workspace import Workspace

# the frozen encoder's own retrieval, and RC-TPL's scores in all their forms
NATIVE = (
    RAW, *OURS, *(name + PLAIN_SUFFIX for name in OURS),
    *(f"{OURS[0]}, {branch} branch" for branch in BRANCHES),
)  # fmt: skip
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
    native = rows["method"].isin(NATIVE) | rows["method"].map(dict(others or {})).eq(True)
    if outcome is not None:
        write_csv(workspace.results / "table5_per_seed.csv", outcome.per_seed)
    save_draws(workspace.results, "retrieval", {} if outcome is None else outcome.draws)
    caption = (
        f"Image-text retrieval on CheXpert-5x200, value [95 % interval]. "
        f"{table_note(workspace)} Right is what is of the query's class. Class-score rows compare "
        "scores standardized over the pool, as are the baselines' own vectors; 'plain cosine' rows "
        f"do not. {NOT_RERUNS} and sentences, not reruns."
    )
    names = [f"{metric}{rank}" for metric in DIRECTIONS for rank in RANKS]
    order = [(DATASET, each) for name in names for each in (name, f"{name} reported")]
    rows = rows.assign(native=native)
    return save_table(workspace, 5, rows, reported_retrieval(), caption, order)[DATASET]


def retrieval_tests(
    workspace: Workspace, outcome: Retrieval, competitors: Sequence[str] = ()
) -> pd.DataFrame:
    """RC-TPL and RC-TPL+ against raw embeddings and class names, image to text; Holm-corrected.

    Args:
        competitors: names of rows that stand beside these.

    Returns:
        dataset, method, against, metric, value (the difference), ci_low, ci_high, p_value, p_holm.
    """
    pairs = (
        (outcome.draws, DATASET, method, other, metric)
        for method in OURS
        for other in (*AGAINST, *competitors)
        for metric in TESTED
    )
    return paired_tests(workspace.results / "table5_paired_tests.csv", pairs)


def retrieval_verdict(tests: pd.DataFrame) -> str:
    """In plain words: which differences remain after Holm's correction; of no test, nothing."""
    if tests.empty:
        return ""
    words = {"better": "better than", "worse": "worse than", "undecided": "undecided against"}
    told = pd.concat([part.assign(word=words[w]) for w, part in by_outcome(tests).items()])
    return "\n".join(
        f"{row.method}, {row.metric}: {row.word} {row.against} ({row.value:+.3f})."
        for row in told.sort_index().itertuples()
    )
