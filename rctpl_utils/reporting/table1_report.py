"""What notebook 05 writes: Table 1 in three formats, the paired tests, Figure 3."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from rctpl_utils.datasets.availability import can_run
from rctpl_utils.datasets.questions import QUESTIONS
from rctpl_utils.evaluation.bootstrap_samples import save_draws
from rctpl_utils.evaluation.classification import TEST_COLUMNS, Classification
from rctpl_utils.evaluation.results import (
    BASELINES,
    FLOORS_NOTE,
    data_note,
    reported_table1,
    stacked,
    table_note,
    with_absent,
    write_csv,
)
from rctpl_utils.evaluation.retrieval import OURS
from rctpl_utils.evaluation.table1 import SUPERVISED
from rctpl_utils.plots import per_class_auc, save_figure
from rctpl_utils.prompts.variants import HANDWRITTEN
from rctpl_utils.reporting import common
from rctpl_utils.reporting.common import NOT_RERUNS, by_outcome, save_table
from rctpl_utils.vocabulary import CHESTXRAY14_CONCEPTS, CHEXPERT_CONCEPTS
from rctpl_utils.workspace import Workspace

FIGURE3 = ("chestxray14", "chexpert")


def save_table1(workspace: Workspace, outcomes: Mapping[str, Classification]) -> pd.DataFrame:
    """Write table1.csv, .md and .tex, and the per-seed and per-class rows beside the results.

    Args:
        outcomes: by column, of the data sets that are there.

    Returns:
        one line a method: AUC and accuracies with intervals, and what the paper reports.
    """
    rows = stacked(outcome.rows for outcome in outcomes.values())
    rows["native"] = rows["method"] != SUPERVISED
    rows = with_absent(rows, [column for column in QUESTIONS if column not in outcomes])
    for name in ("per_class", "per_seed"):
        part = stacked(getattr(outcome, name) for outcome in outcomes.values())
        write_csv(workspace.results / f"table1_{name}.csv", part)
    draws = [outcome.draws for outcome in outcomes.values()]
    save_draws(workspace.results, "table1", {k: v for part in draws for k, v in part.items()})
    caption = (
        f"Zero-shot classification, value [95 % interval]. {table_note(workspace)} "
        f"{FLOORS_NOTE} acc_oracle: threshold chosen on the test set; acc_validation: on the "
        f"validation split. {NOT_RERUNS}, not reruns."
    )
    return save_table(workspace, 1, rows, reported_table1(), caption)


def paired_tests(workspace: Workspace, outcomes: Mapping[str, Classification]) -> pd.DataFrame:
    """RC-TPL and RC-TPL+ against each hand-written method on each data set, Holm-corrected."""
    return _tests(outcomes, HANDWRITTEN, workspace.figures / "table1_paired_tests.csv")


def competitor_tests(
    workspace: Workspace, outcomes: Mapping[str, Classification], names: Sequence[str]
) -> pd.DataFrame:
    """RC-TPL and RC-TPL+ against each trained competitor on each data set, Holm-corrected."""
    return _tests(outcomes, names, workspace.results / "table1_competitor_tests.csv")


def _tests(
    outcomes: Mapping[str, Classification], names: Sequence[str], path: Path
) -> pd.DataFrame:
    pairs = (
        (outcome.draws, outcome.rows["dataset"].iloc[0], method, other, "auc")
        for method in OURS
        for outcome in outcomes.values()
        for other in names
    )
    return common.paired_tests(path, pairs, TEST_COLUMNS)


def verdict(tests: pd.DataFrame) -> str:
    """In plain words, for each of our two methods: where it wins, loses, or neither."""
    lines = []
    for (method, other), part in tests.groupby(["method", "against"], sort=False):
        said = [
            f"{word} on {', '.join(rows['dataset'])}" for word, rows in by_outcome(part).items()
        ]
        lines.append(f"{method} against {other}: {'; '.join(said)}.")
    return "\n".join(lines)


def save_figure3(workspace: Workspace, outcomes: Mapping[str, Classification]) -> Figure | None:
    """Figure 3: AUC by class on two sets, the paper's unseen classes in color.

    A set that is absent has no panel; without both there is no figure. That is said.
    """
    shown = [name for name in FIGURE3 if can_run(workspace, f"Figure 3, {name}", name)]
    if not shown:
        return None
    rows = pd.concat([outcomes[name].per_class for name in shown])
    outside = set(CHESTXRAY14_CONCEPTS) - set(CHEXPERT_CONCEPTS)
    methods = ["class names", "descriptions", *OURS, SUPERVISED]
    methods = [name for name in methods if (rows["method"] == name).any()]
    rivals = [name for name in BASELINES if (rows["method"] == name).any()]
    note = (
        f"{data_note(workspace)} A mark to the right of its gray bar is above every baseline. "
        "Colored bars: 95 % intervals over patients and seeds; those of the baselines are in the "
        "results' files. Orange: the paper's unseen classes, here among the training classes."
    )
    figure = per_class_auc(rows, methods, {"chestxray14": outside}, note, rivals)
    save_figure(figure, workspace.figures / "fig3")
    return figure
