"""The notebooks on real layouts with data sets absent: each runs to its end and says so.

The cells of the notebooks themselves are executed, in this process and with the parameters of a
run; the profile is the paper's with few epochs.
"""

from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from partial_root import write_checkpoint, write_root
from toy_project import run_cells

from rctpl_utils.evaluation import calibration, real_samples
from rctpl_utils.profiles import PROFILES, PromptLearning
from rctpl_utils.run.schedule import find_notebooks
from rctpl_utils.workspace import NOTEBOOKS, Workspace

pytestmark = pytest.mark.slow
PRESENT, ABSENT = ("covidx", "rsna", "covid-rural"), ("chestxray14", "chexpert", "siim")
PROFILE = "paper-in-small"
SHORT = PromptLearning(epochs=1, batch_size=512, learning_rate=2e-5)
LEARNERS = replace(PROFILES["smoke"].prompt_learners, labeled=("coop",), shots=(1,), steps=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workspace of a run, and what each notebook printed."""
    folder = tmp_path_factory.mktemp("partial")
    data = write_root(folder / "data", PRESENT)
    (folder / "weights").mkdir()
    parameters = {
        "profile": PROFILE,
        "output": str(folder / "out"),
        "data_root": str(data),
        "checkpoint": str(write_checkpoint(folder / "weights")),
        "device": "cpu",
        "skip_bad": True,
        "allow_partial": True,
    }
    broken = next(data.glob("mimic-cxr/files/p10/*/*.txt"))
    broken.write_bytes(b"\xff\xfe\xfa not text")
    short = replace(
        PROFILES["paper"], name=PROFILE, prompts=SHORT, ablations=SHORT, bootstrap=20,
        validation_films=8, prompt_learners=LEARNERS, seeds=(0,),
    )  # fmt: skip
    matplotlib.use("Agg")
    describe = calibration.described
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, PROFILE, short)
        # Hundreds of pictures through a full ResNet-50 take minutes; the smoke run reads them.
        patch.setattr(real_samples, "OPENERS", {})
        patch.setattr(calibration, "described", lambda encoder, films: describe(encoder, films[:3]))
        for notebook in find_notebooks(NOTEBOOKS):
            run_cells(notebook, parameters)
            plt.close("all")
        yield Workspace.open(**parameters)


def read(finished: Workspace, name: str) -> pd.DataFrame:
    return pd.read_csv(finished.figures / name)


def ours(finished: Workspace, name: str) -> pd.DataFrame:
    """RC-TPL's rows with a number of the paper's."""
    table = read(finished, name)
    return table[(table["method"] == "RC-TPL") & table["reported"].notna()]


def test_table_1_has_values_where_there_are_films(finished):
    table = read(finished, "table1.csv").query("method == 'RC-TPL'")
    assert table.loc[table["dataset"].isin(PRESENT), "value"].notna().all()
    absent = table[table["dataset"].isin(ABSENT)]
    assert len(absent) and absent["value"].isna().all() and absent["reported"].notna().any()
    assert "| RC-TPL | not run |" in (finished.figures / "table1.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("number", "ran"), [(2, True), (3, False), (4, True), (5, False)])
def test_tables_of_one_set_are_written_either_way(finished, number, ran):
    rows = ours(finished, f"table{number}.csv")
    assert len(rows) and rows["value"].notna().all() == ran
    text = (finished.figures / f"table{number}.md").read_text(encoding="utf-8")
    assert ("not run" in next(line for line in text.splitlines() if "| RC-TPL |" in line)) != ran


def test_figures_of_absent_sets_are_not_drawn(finished):
    stems = {path.stem for path in finished.figures.glob("*.png")}
    assert {"fig1", "fig2", "fig4", "grounding_gallery", "claims", "reproduction"} <= stems
    assert not {"fig3", "fig5", "fig6", "saliency_sanity", "retrieval_examples"} & stems
    assert "prompt_learner_curves" in stems and "baseline_curves" not in stems  # none is trained


def test_claims_on_absent_sets_are_not_tested_and_name_them(finished):
    claims = read(finished, "claims.csv").set_index("claim")
    assert "not tested" not in set(claims["verdict"][["names-rsna", "knowledge-grounding"]])
    for claim, names in {
        "names-chexpert": "data set chexpert",
        "pointing-siim": "data set siim",
        "retrieval": "data set chexpert5x200",
        "length-best": "data set chexpert",
        "different-films": "data set chestxray14",
        "text-transfer": "data sets chestxray14, chexpert",
    }.items():
        assert tuple(claims.loc[claim, ["verdict", "note"]]) == ("not tested", f"{names} absent")


def test_the_report_beside_the_paper_says_what_was_not_run(finished):
    cells = read(finished, "reproduction.csv").query("method == 'RC-TPL'")
    assert cells["value"].notna().groupby(cells["dataset"]).all().to_dict() == {
        **dict.fromkeys(("covidx-normal", "covidx-pneumonia", "rsna", "covid-rural"), True),
        **dict.fromkeys(("chestxray14", "chexpert", "chexpert5x200", "siim"), False),
    }


def test_ablations_leave_the_absent_set_empty(finished):
    filled = read(finished, "ablations.csv").groupby("dataset")["value"].count()
    assert filled["chexpert"] == 0
    assert filled[["covid-rural", "covidx-normal", "covidx-pneumonia"]].gt(0).all()


def test_what_was_skipped_is_listed(finished):
    reports = pd.read_csv(finished.results / "skipped_reports.csv")
    assert len(reports) == 1
    assert reports["file"][0].startswith("mimic-cxr/files/p10/")
    assert reports["reason"][0].startswith("not a text file")
    assert (finished.results / "skipped_films.csv").exists()
