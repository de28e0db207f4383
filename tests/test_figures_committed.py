"""Every figure that a committed table holds, drawn from it: all its text can be read."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from figure_checks import assert_readable, made_workspace
from matplotlib.colors import to_rgba

from rctpl_utils import plots
from rctpl_utils.evaluation.bootstrap_samples import save_draws
from rctpl_utils.evaluation.bridges import figure_bridges
from rctpl_utils.evaluation.table1 import SUPERVISED
from rctpl_utils.reporting.ablation_report import figure4, other_ablations
from rctpl_utils.reporting.claims import FLOORS, load_claims
from rctpl_utils.reporting.claims_report import LOOKS, claims_figure
from rctpl_utils.reporting.compare_reported import METHOD, reproduction_figure
from rctpl_utils.reporting.method_map import save_method_map, valid_draws
from rctpl_utils.workspace import PROJECT


def committed(name: str) -> pd.DataFrame:
    return pd.read_csv(PROJECT / "figures" / "embedded" / f"{name}.csv")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    yield made_workspace(tmp_path, monkeypatch)
    plt.close("all")


@pytest.mark.parametrize(
    ("draw", "table"),
    [(figure4, "ablations"), (other_ablations, "ablations"), (figure_bridges, "bridges"),
     (reproduction_figure, "reproduction"), (claims_figure, "claims")],
)  # fmt: skip
def test_figures_of_committed_tables_can_be_read(workspace, draw, table):
    figure = draw(workspace, committed(table))
    assert_readable(figure)
    assert "imulated" in figure.get_supxlabel()


def test_time_has_an_axis_of_its_own(workspace):
    figure = figure4(workspace, committed("ablations"))
    assert [axes.get_ylabel() for axes in figure.axes[::4]] == [
        "CheXpert, macro AUC", "training,\ns a seed"
    ]  # fmt: skip


def test_the_reported_stand_apart_from_ours(workspace):
    cells = committed("reproduction")
    figure = reproduction_figure(workspace, cells)
    ours = cells[(cells["method"] == METHOD) & cells["value"].notna()]
    marks = [[len(line.get_xdata()) for line in axes.lines] for axes in figure.axes]
    assert all(len(found) == 1 for found in marks), "no axis has two series, nor a line between"
    assert sum(count for (count,) in marks) == 2 * len(ours)


def test_claims_stand_in_panels_of_one_unit_and_in_the_color_of_their_verdict(workspace):
    verdicts = committed("claims")
    figure = claims_figure(workspace, verdicts)
    units = [axes.get_xlabel() for axes in figure.axes]
    assert len(set(units)) == len(units) > 1
    metrics = verdicts.set_index("in_words")["metric"]
    for axes in figure.axes:
        titles = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
        kinds = {metrics[title].split("_at_")[0] for title in titles}
        assert len(kinds) == 1 or kinds <= {"region_recall", "region_precision", "dice_oracle"}
        verdict = verdicts.set_index("in_words")["verdict"][titles[0]]
        assert to_rgba(axes.lines[0].get_color()) == to_rgba(LOOKS[verdict][0])
    assert "Holm" in figure.get_supxlabel()


def test_a_title_of_a_tested_claim_names_opponent_and_measure():
    for claim in (each for each in load_claims() if each.tests):
        assert any(word in claim.claim for word in ("above", "within", "nearer", "nearest")), (
            claim.claim
        )
        assert ": " in claim.claim, claim.claim


def test_the_map_leaves_out_what_cannot_tell(workspace):
    rng = np.random.default_rng(0)
    draws = {
        (dataset, method, "auc"): rng.normal(value, 0.001, 50)
        for dataset, reference in (("rsna", 0.9), ("siim", 0.6))
        for method, value in ((SUPERVISED, reference), (FLOORS[0], 0.5), ("RC-TPL", 0.7))
    }
    save_draws(workspace.results, "table1", draws)
    save_draws(workspace.results, "grounding", {("rsna", "RC-TPL", "pointing_game"): rng.random(9)})
    assert {key[0] for key in valid_draws(workspace)["auc"]} == {"rsna"}
    figure = save_method_map(workspace, committed("method_map"))
    assert_readable(figure)
    assert "AUC on RSNA; pointing game on RSNA" in figure.get_supxlabel()
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert "CoOp, 16 labels a class" in names and "CoOp, 1 label a class" not in names


def test_the_baselines_of_figure_3_are_a_bar_with_ends():
    rng = np.random.default_rng(1)
    concepts, methods = ("Edema", "Enlarged Cardiomediastinum", "Mass"), ("RC-TPL", "class names")
    rows = [
        (dataset, method, concept, value, value - 0.02, value + 0.02)
        for dataset in ("chestxray14", "chexpert")
        for concept in concepts
        for method, value in zip((*methods, "A", "B", "C"), rng.uniform(0.4, 0.98, 5), strict=True)
    ]
    columns = ["dataset", "method", "concept", "value", "ci_low", "ci_high"]
    rows = pd.DataFrame(rows, columns=columns)
    figure = plots.per_class_auc(rows, list(methods), {"chestxray14": {"Mass"}}, "A.", list("ABC"))
    assert_readable(figure)
    part = rows[(rows["dataset"] == "chestxray14") & rows["method"].isin(list("ABC"))]
    ends = part.groupby("concept", sort=False)["value"].agg(["min", "max"]).to_numpy()
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in figure.axes[0].patches]
    assert np.allclose(bars, ends)
    plt.close(figure)
