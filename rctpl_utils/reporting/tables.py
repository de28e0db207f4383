"""What notebooks 05, 06 and 07 write: Tables 1 to 5 in three formats, paired tests, Figure 3."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from textwrap import fill, shorten

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from rctpl_utils.baselines.registry import why_absent
from rctpl_utils.datasets.images import read_image
from rctpl_utils.datasets.questions import QUESTIONS
from rctpl_utils.datasets.splits import absent, can_run
from rctpl_utils.evaluation import results, retrieval
from rctpl_utils.evaluation.grounding import GROUNDING_DATASETS, Grounding
from rctpl_utils.evaluation.grounding_metrics import IOU
from rctpl_utils.evaluation.metrics import BOOTSTRAP_SEED, holm, named_interval, paired_p_value
from rctpl_utils.evaluation.results import Draws, save_draws
from rctpl_utils.evaluation.retrieval import (
    DATASET,
    OURS,
    RANKS,
    Retrieval,
    Side,
    equal_share,
    represent,
    top,
)
from rctpl_utils.evaluation.table1 import SUPERVISED, TEST_COLUMNS, Classification
from rctpl_utils.plots import TEXT, panels, per_class_auc
from rctpl_utils.prompts.training import BRANCHES
from rctpl_utils.prompts.variants import HANDWRITTEN
from rctpl_utils.reporting.common import draw_film, finished, paired_outcomes
from rctpl_utils.vocabulary import CHESTXRAY14_CONCEPTS, CHEXPERT_CONCEPTS
from rctpl_utils.workspace import Workspace

NOT_RERUNS = "Columns 'reported': the paper's numbers, on real data with other encoders"
TESTED = (
    "dataset", "method", "against", "metric", "value", "ci_low", "ci_high", "p_value", "p_holm",
)  # fmt: skip
FIGURE3 = ("chestxray14", "chexpert")
GROUNDING_TABLES = {"rsna": 2, "siim": 3, "covid-rural": 4}
GROUNDING_RIVALS = ("lung-center prior", "mean-mask prior", "class names", "descriptions")
# the frozen encoder's own retrieval, and RC-TPL's scores in all their forms
NATIVE_RETRIEVAL = (
    retrieval.RAW, *OURS, *(name + retrieval.PLAIN_SUFFIX for name in OURS),
    *(f"{OURS[0]}, {branch} branch" for branch in BRANCHES),
)  # fmt: skip
RETRIEVAL_RIVALS = (retrieval.RAW, retrieval.RAW_STANDARDIZED, "class names")
IMAGE_TO_TEXT = ("precision_at_1", "precision_at_10")  # what is tested: the paper's direction
LONGEST_QUOTE = 90  # characters: Open-I's license allows to show little
MAPS = 5  # random maps a width, averaged
SENTENCES, FILMS = 3, 4  # shown of each query's answers
_RIGHT, _WRONG = (sns.color_palette("colorblind")[k] for k in (0, 3))


def save_table1(workspace: Workspace, outcomes: Mapping[str, Classification]) -> pd.DataFrame:
    """Write table1.csv, .md and .tex (returned), the per-seed and per-class rows, and the draws;
    `outcomes` are by column, of the data sets that are there.
    """
    rows = results.stacked(outcome.rows for outcome in outcomes.values())
    rows["native"] = rows["method"] != SUPERVISED
    rows = results.with_absent(rows, [column for column in QUESTIONS if column not in outcomes])
    for name in ("per_class", "per_seed"):
        part = results.stacked(getattr(outcome, name) for outcome in outcomes.values())
        results.write_csv(workspace.results / f"table1_{name}.csv", part)
    draws = [outcome.draws for outcome in outcomes.values()]
    save_draws(workspace.results, "table1", {k: v for part in draws for k, v in part.items()})
    caption = (
        f"Zero-shot classification, value [95 % interval]. {results.table_note(workspace)} "
        f"{results.FLOORS_NOTE} acc_oracle: threshold chosen on the test set; acc_validation: on "
        f"the validation split. {NOT_RERUNS}, not reruns."
    )
    return _save_table(workspace, 1, rows, results.reported_table1(), caption)


def paired_tests(
    workspace: Workspace,
    outcomes: Mapping[str, Classification],
    competitors: Sequence[str] | None = None,
) -> pd.DataFrame:
    """RC-TPL and RC-TPL+ against each hand-written method on each data set, Holm-corrected.

    Where `competitors` are given, against each of those instead, in a file of their own.
    """
    path, others = workspace.figures / "table1_paired_tests.csv", HANDWRITTEN
    if competitors is not None:
        path, others = workspace.results / "table1_competitor_tests.csv", competitors
    pairs = (
        (outcome.draws, outcome.rows["dataset"].iloc[0], method, other, "auc")
        for method, outcome, other in product(OURS, outcomes.values(), others)
    )
    return _save_tests(path, pairs, TEST_COLUMNS)


def verdict(tests: pd.DataFrame) -> str:
    """In plain words, for each of our two methods: where it wins, loses, or neither."""
    lines = []
    for (method, other), part in tests.groupby(["method", "against"], sort=False):
        groups = part.groupby(paired_outcomes(part), observed=True)["dataset"]
        said = [f"{word} on {', '.join(names)}" for word, names in groups]
        lines.append(f"{method} against {other}: {'; '.join(said)}.")
    return "\n".join(lines)


def save_figure3(workspace: Workspace, outcomes: Mapping[str, Classification]) -> Figure | None:
    """Figure 3: AUC by class on two sets, the paper's unseen classes in color; an absent set has no
    panel, without both there is no figure, and that is said.
    """
    shown = [name for name in FIGURE3 if can_run(workspace, f"Figure 3, {name}", name)]
    if not shown:
        return None
    rows = pd.concat([outcomes[name].per_class for name in shown])
    outside = set(CHESTXRAY14_CONCEPTS) - set(CHEXPERT_CONCEPTS)
    there, drawn = set(rows["method"]), ("class names", "descriptions", *OURS, SUPERVISED)
    methods, rivals = ([k for k in names if k in there] for names in (drawn, results.BASELINES))
    note = (
        "A mark to the right of its gray bar is above every baseline. Colored bars: 95 % intervals "
        "over patients and seeds; those of the baselines are in the results' files. Orange: the "
        "paper's unseen classes, here among the training classes."
    )
    figure = per_class_auc(rows, methods, {"chestxray14": outside}, rivals)
    return finished(workspace, figure, "fig3", note)


def save_grounding_tables(
    workspace: Workspace, outcomes: Mapping[str, Grounding]
) -> dict[int, pd.DataFrame]:
    """Write table2, table3 and table4 (.csv, .md, .tex) and the draws; return them by number. Those
    of data sets without an outcome say "not run".
    """
    reported, shown, draws = results.reported_grounding(), {}, {}
    rows = results.stacked(outcome.rows for outcome in outcomes.values())
    rows = results.with_absent(rows, absent(workspace, GROUNDING_TABLES))
    for name, number in GROUNDING_TABLES.items():
        concept, kind = GROUNDING_DATASETS[name]
        films, vain = "The data set is absent", ""
        if outcome := outcomes.get(name):
            films, vain = f"{len(outcome.films)} films with a drawn lesion", _no_grounding(outcome)
            draws |= outcome.draws
        caption = (
            f"Zero-shot grounding of {concept} ({kind}) on {name}, value [95 % "
            f"interval]. {results.table_note(workspace)} {films}. "
            f"{results.FLOORS_NOTE} {vain}"
            f"Regions: 8-connected, matched at IoU >= {IOU}; precision, recall and dice_validation "
            "at the threshold with the best Dice on validation films; dice_oracle: threshold "
            f"chosen on the test films. The priors never look at the film. "
            f"{NOT_RERUNS}, not reruns."
        )
        own = (each[each["dataset"] == name].reset_index(drop=True) for each in (rows, reported))
        shown[number] = _save_table(workspace, number, *own, caption)[name]
    save_draws(workspace.results, "grounding", draws)
    return shown


def _no_grounding(outcome: Grounding) -> str:
    """Which rows mark so much of the film that a random map's Dice is as good: no grounding."""
    dices = outcome.rows[outcome.rows["metric"] == "dice_validation"].set_index("method")
    level = dices.loc["random map", "ci_high"]
    vain = [name for name in dices.index[dices["value"] <= level] if name != "random map"]
    return f"No better in Dice than a random map, so no grounding: {', '.join(vain) or 'none'}. "


def grounding_tests(
    workspace: Workspace, outcomes: Mapping[str, Grounding], competitors: Sequence[str] = ()
) -> pd.DataFrame:
    """Pointing game of RC-TPL and RC-TPL+ against floors, hand-written prompts and competitors."""
    others = (*GROUNDING_RIVALS, *competitors)
    pairs = (
        (outcome.draws, name, method, other, "pointing_game")
        for (name, outcome), method, other in product(outcomes.items(), OURS, others)
    )
    return _save_tests(workspace.results / "grounding_paired_tests.csv", pairs, TEST_COLUMNS)


def save_table5(
    workspace: Workspace,
    outcome: Retrieval | None,
    others: Mapping[str, bool] | None = None,
) -> pd.DataFrame:
    """Write table5.csv, .md and .tex (returned), the per-seed rows and the draws.

    Without an `outcome` our cells say "not run". Native are the frozen encoder's own retrieval,
    RC-TPL's scores, and those of the `others` that retrieve so themselves.
    """
    rows, draws = results.stacked([]), {}
    if outcome is not None:
        rows, draws = outcome.rows, outcome.draws
        results.write_csv(workspace.results / "table5_per_seed.csv", outcome.per_seed)
    save_draws(workspace.results, "retrieval", draws)
    native = {name for name, known in (others or {}).items() if known} | set(NATIVE_RETRIEVAL)
    caption = (
        f"Image-text retrieval on CheXpert-5x200, value [95 % interval]. "
        f"{results.table_note(workspace)} Right is what is of the query's class. Class-score rows "
        "compare scores standardized over the pool, as are the baselines' own vectors; 'plain "
        f"cosine' rows do not. {NOT_RERUNS} and sentences, not reruns."
    )
    rows = rows.assign(native=rows["method"].isin(native))
    names = [f"{metric}{rank}" for metric, rank in product(retrieval.DIRECTIONS, retrieval.RANKS)]
    order = [(DATASET, each) for name in names for each in (name, f"{name} reported")]
    return _save_table(workspace, 5, rows, results.reported_retrieval(), caption, order)[DATASET]


def retrieval_tests(
    workspace: Workspace, outcome: Retrieval, competitors: Sequence[str] = ()
) -> pd.DataFrame:
    """RC-TPL and RC-TPL+ against raw embeddings, class names and competitors, image to text."""
    others = (*RETRIEVAL_RIVALS, *competitors)
    keys = product([outcome.draws], [DATASET], OURS, others, IMAGE_TO_TEXT)
    return _save_tests(workspace.results / "table5_paired_tests.csv", keys, TESTED)


def retrieval_verdict(tests: pd.DataFrame) -> str:
    """In plain words: which differences remain after Holm's correction; of no test, nothing."""
    if tests.empty:
        return ""
    words = {"better": "better than", "worse": "worse than", "undecided": "undecided against"}
    return "\n".join(
        f"{row.method}, {row.metric}: {words[outcome]} {row.against} ({row.value:+.3f})."
        for row, outcome in zip(tests.itertuples(), paired_outcomes(tests), strict=True)
    )


def _save_table(
    workspace: Workspace,
    number: int,
    rows: pd.DataFrame,
    reported: pd.DataFrame,
    caption: str,
    columns: Sequence[tuple[str, str]] | None = None,
) -> pd.DataFrame:
    """Write our rows with the paper's numbers beside them; return one line a method, where wanted
    in the order of `columns` (dataset, metric).
    """
    table = results.with_reported(rows, reported)
    stem = workspace.figures / f"table{number}"
    results.write_csv(stem.with_suffix(".csv"), table)
    wide = results.wide_table(table, reasons=why_absent(workspace))
    if columns is not None:
        wide = wide[[column for column in columns if column in wide.columns]]
    results.write_table(stem, wide, f"Table {number}. {caption}")
    return wide


def _save_tests(
    path: Path, pairs: Iterable[tuple[Draws, str, str, str, str]], columns: Sequence[str]
) -> pd.DataFrame:
    """Test differences on the same resamples, Holm-corrected over all; `pairs` are draws, dataset,
    method, the other method, metric, and `columns` of `TESTED`.
    """
    rows = []
    for draws, *key in pairs:
        dataset, method, other, metric = key
        difference = draws[dataset, method, metric] - draws[dataset, other, metric]
        row = dict(zip(TESTED, key, strict=False)) | named_interval(difference, None)
        rows.append(row | {"p_value": paired_p_value(difference)})
    tests = pd.DataFrame(rows, columns=[name for name in columns if name != "p_holm"])
    tests["p_holm"] = holm(tests["p_value"].to_numpy(float))
    results.write_csv(path, tests)
    return tests


# --- what notebook 07 shows beside Table 5: a few queries, smaller pools, random maps


def other_pools(sentences: Side) -> dict[str, Side]:
    """Smaller pools: each sentence once with classes of equal size; of held-out reports only. One
    with fewer than max(`RANKS`) sentences, as small worlds have, is left out.
    """
    held_out = sentences.take(sentences.records["held_out"].to_numpy())
    parts = {"distinct": sentences, "held out, distinct": held_out}
    pools = {name: part.take(equal_share(part.records)) for name, part in parts.items()}
    return {
        f"{name} ({len(pool.records)})": pool
        for name, pool in pools.items()
        if len(pool.records) >= max(RANKS)
    }


def compare_pools(outcomes: Mapping[str, Retrieval]) -> pd.DataFrame:
    """Precision@1 and @10, image to text, of each method, by pool of sentences, with intervals."""
    parts = {}
    for name, outcome in outcomes.items():
        rows = outcome.rows[outcome.rows["metric"].isin(IMAGE_TO_TEXT)]
        parts[name] = results.wide_table(rows.assign(reported=np.nan))[DATASET]
    return pd.concat(parts, axis=1)


def random_map_precision(films: Side, sentences: Side, widths: Sequence[int]) -> pd.DataFrame:
    """Precision, image to text, by cosine after random linear maps of both embeddings, first seed:
    a row a width (how many random directions stand for class embeddings), a column a K.
    """
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    rows = {}
    for width in widths:
        found = []
        for _ in range(MAPS):
            directions = generator.normal(size=(films.embeddings[0].shape[1], width))
            both = (side.embeddings[0] @ directions for side in (films, sentences))
            best = top(*(retrieval.unit(retrieval.standardized(scores)) for scores in both))
            found.append(retrieval.precisions(best, films.classes, sentences.classes).mean(axis=0))
        rows[width] = np.mean(found, axis=0)
    columns = [f"precision_at_{rank}" for rank in RANKS]
    return pd.DataFrame.from_dict(rows, "index", columns=columns).rename_axis("random directions")


def found_sentences(images: Side, sentences: Side, method: str) -> pd.DataFrame:
    """For the first film of each class by its identifier, the sentences found first (first seed),
    each once; where a report must not be quoted, only its identifier.
    """
    pair = represent(images, sentences)[method][0]
    queries, rows = np.unique(images.classes, return_index=True)[1], []  # the first of each
    found = top(pair.images[queries], pair.sentences, min(len(sentences.records), 40 * SENTENCES))
    for query, items in zip(queries, found, strict=True):
        film = images.records.iloc[query]
        once = sentences.records.iloc[items].drop_duplicates("sentence").head(SENTENCES)
        for rank, item in enumerate(once.itertuples(), start=1):
            right, (quote, source) = item.concept == film["concept"], _quote(item)
            name = film["item_id"].split("/", 2)[-1]
            rows.append((name, film["concept"], rank, quote, item.concept, right, source))
    columns = ["film", "shows", "rank", "sentence", "class", "right", "source"]
    return pd.DataFrame(rows, columns=columns)


def found_images(workspace: Workspace, images: Side, sentences: Side, method: str) -> Figure:
    """Draw `retrieval_examples`: for the first sentence of each class by its identifier, the films
    found first (first seed), with hit or miss and their own class.
    """
    pair = represent(images, sentences)[method][0]
    queries = np.unique(sentences.classes, return_index=True)[1]  # the first of each
    found = top(pair.sentences[queries], pair.images, FILMS)
    figure, axes = panels(len(queries), FILMS, 1.65 * len(queries))
    for line, query, items in zip(axes, queries, found, strict=True):
        asked = sentences.records.iloc[query]
        for axis, item in zip(line, items, strict=True):
            film = images.records.iloc[item]
            right = film["concept"] == asked["concept"]
            draw_film(axis, read_image(film["path"]))
            axis.set_title(f"{'hit' if right else 'miss'}: {film['concept']}", fontsize=TEXT)
            for spine in axis.spines.values():
                spine.set(color=_RIGHT if right else _WRONG, linewidth=2.0)
                spine.set_linestyle("-" if right else "--")
        quote, source = _quote(asked)
        label = f"{asked['concept']}\n{fill(quote, 24)}\n({source})"
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
    note = (
        "Left: a sentence, its class in the first line; right: the films found first, from left to "
        "right. Hit (solid frame): the film's own class is the sentence's; miss (dashed): it is "
        f"another. {method}, first seed; the first sentence of each class by identifier."
    )
    return finished(workspace, figure, "retrieval_examples", note)


def _quote(sentence: pd.Series) -> tuple[str, str]:
    """The sentence, shortened where it is long, its identifier where nobody may quote it; and its
    source: the Open-I report, or this project's templates.
    """
    if not (sentence.source or sentence.templated):
        return f"[not quoted: {sentence.item_id}]", sentence.report_id
    quote = shorten(sentence.sentence, LONGEST_QUOTE, placeholder=" ...")
    return quote, "templated, ours" if sentence.templated else f"Open-I {sentence.source}"
