"""What notebook 06 writes: Tables 2 to 4 in three formats, the paired tests, the gallery."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from rctpl_utils.datasets.availability import absent
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.features import image_features
from rctpl_utils.encoders.frame import on_film
from rctpl_utils.evaluation.bootstrap_samples import save_draws
from rctpl_utils.evaluation.classification import TEST_COLUMNS
from rctpl_utils.evaluation.grounding import GROUNDING_DATASETS, Grounding
from rctpl_utils.evaluation.grounding_methods import Films, Grounder
from rctpl_utils.evaluation.grounding_metrics import IOU, THRESHOLDS
from rctpl_utils.evaluation.heat_maps import on_scale, peak, scale_of, stretch
from rctpl_utils.evaluation.results import (
    FLOORS_NOTE,
    reported_grounding,
    stacked,
    table_note,
    with_absent,
)
from rctpl_utils.evaluation.retrieval import OURS
from rctpl_utils.plots import COLUMN_WIDTH, MASK_COLOR, NAMES, TEXT
from rctpl_utils.reporting.common import NOT_RERUNS, finished, paired_tests, save_table
from rctpl_utils.reporting.film_drawing import draw_film, draw_heat, fill_region, outline
from rctpl_utils.workspace import Workspace

TABLES = {"rsna": 2, "siim": 3, "covid-rural": 4}
AGAINST = ("lung-center prior", "mean-mask prior", "class names", "descriptions")
CASES = {"best": 1.0, "median": 0.5, "worst": 0.0}  # quantiles of the films' Dice


def save_grounding_tables(
    workspace: Workspace, outcomes: Mapping[str, Grounding]
) -> dict[int, pd.DataFrame]:
    """Write table2, table3 and table4 (.csv, .md, .tex) and the draws behind them.

    Args:
        outcomes: of the data sets that are there; the tables of the others say "not run".

    Returns:
        the tables as a reader sees them, by number.
    """
    reported, shown, draws = reported_grounding(), {}, {}
    rows = stacked(outcome.rows for outcome in outcomes.values())
    rows = with_absent(rows, absent(workspace, TABLES))
    for name, number in TABLES.items():
        concept, kind = GROUNDING_DATASETS[name]
        own = rows[rows["dataset"] == name].reset_index(drop=True)
        outcome = outcomes.get(name)
        caption = (
            f"Zero-shot grounding of {concept} ({kind}) on {name}, value [95 % "
            f"interval]. {table_note(workspace)} {_films(outcome)}. "
            f"{FLOORS_NOTE} {_no_grounding(outcome)}"
            f"Regions: 8-connected, matched at IoU >= {IOU}; precision, recall and dice_validation "
            "at the threshold with the best Dice on validation films; dice_oracle: threshold "
            f"chosen on the test films. The priors never look at the film. "
            f"{NOT_RERUNS}, not reruns."
        )
        own_reported = reported[reported["dataset"] == name]
        shown[number] = save_table(workspace, number, own, own_reported, caption)[name]
        draws |= outcome.draws if outcome else {}
    save_draws(workspace.results, "grounding", draws)
    return shown


def _no_grounding(outcome: Grounding | None) -> str:
    """Which rows mark so much of the film that a random map's Dice is as good: no grounding."""
    if outcome is None:
        return ""
    dices = outcome.rows[outcome.rows["metric"] == "dice_validation"].set_index("method")
    level = dices.loc["random map", "ci_high"]
    vain = [name for name in dices.index[dices["value"] <= level] if name != "random map"]
    return f"No better in Dice than a random map, so no grounding: {', '.join(vain) or 'none'}. "


def _films(outcome: Grounding | None) -> str:
    if outcome is None:
        return "The data set is absent"
    return f"{len(outcome.films)} films with a drawn lesion"


def grounding_tests(
    workspace: Workspace, outcomes: Mapping[str, Grounding], competitors: Sequence[str] = ()
) -> pd.DataFrame:
    """Pointing game of RC-TPL and RC-TPL+ against others, paired, Holm-corrected.

    Args:
        competitors: names of rows that stand beside floors and hand-written prompts.
    """
    pairs = (
        (outcome.draws, name, method, other, "pointing_game")
        for name, outcome in outcomes.items()
        for method in OURS
        for other in (*AGAINST, *competitors)
    )
    return paired_tests(workspace.results / "grounding_paired_tests.csv", pairs, TEST_COLUMNS)


def save_gallery(
    workspace: Workspace,
    encoder: Encoder,
    outcomes: Mapping[str, Grounding],
    methods: Sequence[Grounder],
) -> Figure:
    """Draw `grounding_gallery`: best, median and worst film of each data set, not only the best.

    Cases are chosen by the film's Dice at the validation threshold, first seed. Each is drawn with
    the region found, as it is measured, and below with its map on one scale for all films.

    Args:
        methods: one panel group each; their first maker is drawn.
    """
    columns = len(methods) * len(CASES)
    figure, axes = plt.subplots(
        2 * len(outcomes), columns, figsize=(COLUMN_WIDTH, 2.4 * len(outcomes) + 0.6),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    titles = [f"{method.name}\n{case}" for method in methods for case in CASES]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=TEXT)
    for pair, (name, outcome) in zip(axes.reshape(-1, 2, columns), outcomes.items(), strict=True):
        for m, method in enumerate(methods):
            part = pair[:, m * len(CASES) :][:, : len(CASES)]
            _draw_cases(part, workspace, encoder, name, outcome, method)
        pair[0, 0].set_ylabel(f"{NAMES[name]}\n{GROUNDING_DATASETS[name][0]}", fontsize=TEXT)
        pair[1, 0].set_ylabel("heat map", fontsize=TEXT)
    note = (
        "Look how much of the yellow lies inside the blue. Above: yellow is what the method "
        "marks (its map, stretched to its own range, at or above the validation threshold); blue: "
        "the drawn lesion. "
        "Below: the heat map on one scale for all films of the set, from the median to the 99.9th "
        "percentile of the cells of validation films, so that a weak map looks weak; cross: its "
        "maximum. Best, median and worst film by Dice."
    )
    return finished(workspace, figure, "grounding_gallery", note)


@torch.no_grad()
def _draw_cases(
    axes: np.ndarray,
    workspace: Workspace,
    encoder: Encoder,
    name: str,
    outcome: Grounding,
    method: Grounder,
) -> None:
    concept, maker = GROUNDING_DATASETS[name][0], method.makers[0]
    dataset, held_out = (open_split(workspace, name, split) for split in ("test", "validation"))
    file, other = (image_features(encoder, d, workspace.features) for d in (dataset, held_out))
    drawn = np.flatnonzero(held_out.annotated(concept))
    scale = scale_of(maker(Films(encoder, held_out, other, drawn, concept)).cpu().numpy())
    cut = outcome.thresholds[method.name][0]
    dices = outcome.measured[method.name][0].dice[:, int(np.flatnonzero(cut == THRESHOLDS)[0])]
    order = np.argsort(dices, kind="stable")
    for (above, below), quantile in zip(axes.T, CASES.values(), strict=True):
        place = order[round(quantile * (len(dices) - 1))]
        row = int(outcome.films[place])
        mask, pixels = dataset.mask(row, concept), dataset.pixels(row)
        cells = maker(Films(encoder, dataset, file, np.array([row]), concept)).cpu()
        film = on_film(cells, mask.shape)
        heat = stretch(film)[0].numpy()
        draw_film(above, pixels)
        fill_region(above, heat >= cut)
        draw_heat(below, pixels, on_scale(film, scale)[0].numpy())
        for axis in (above, below):
            outline(axis, mask, MASK_COLOR)
        down, across = peak(heat)
        below.plot(across, down, "x", color="white", ms=4, mew=1)
        above.set_xlabel(f"Dice {dices[place]:.2f}", fontsize=TEXT, labelpad=2)
