"""Where a number comes from: every file with its hash, the cell, the functions, each seed."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import tiny_world

from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.results import write_csv
from rctpl_utils.files import read_json, sha256_file, write_json, write_text
from rctpl_utils.run import trace as module
from rctpl_utils.run.trace import TABLES, main, trace
from rctpl_utils.workspace import NOTEBOOKS, PROJECT, Workspace

ASKED = "table1", "RC-TPL", "rsna", "auc"
METHODS = ("ConVIRT", "class names", "RC-TPL", "RC-TPL+", "CoOp, 16 labels a class")
SERIES = np.array([[0.5, 0.4, 0.6, 0.5], [0.7, 0.6, 0.8, 0.7]])  # two seeds, three resamples


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    """A run of two seeds with Table 1, its draws, weights and prompts, and tiny films."""
    opened = Workspace.open("smoke", output=tmp_path, device="cpu")
    rows = pd.DataFrame({"dataset": "rsna", "method": METHODS, "metric": "auc", "value": 0.6})
    rows = rows.assign(ci_low=0.5, ci_high=0.7, seeds=2, n=40, native=True, reported=None)
    rows.loc[0, "value"] = np.nan
    table = write_csv(opened.figures / "table1.csv", rows)
    write_json(opened.figures / "manifest.json", {"files": {"table1.csv": sha256_file(table)}})
    write_draws(opened, SERIES)
    for seed in opened.profile.seeds:
        write_text(opened.encoder(seed), f"weights {seed}")
        for stem in ("rc-tpl", "rc-tpl-plus", "coop-16"):
            write_text(opened.prompts / f"{stem}-{seed}.safetensors", f"{stem} {seed}")
    tiny_world.write("rsna", opened.data_root)
    write_text(opened.data_root / "manifest.json", "{}")
    return opened


def write_draws(workspace: Workspace, series: np.ndarray) -> None:
    """The draws of RC-TPL's AUC: one series, or one a seed."""
    row = {"dataset": "rsna", "method": "RC-TPL", "metric": "auc", "draws": series.tolist()}
    workspace.results.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([row]).to_parquet(workspace.results / "table1_draws.parquet", index=False)


def told(workspace: Workspace, *asked: str) -> dict[str, list[str]]:
    """What is told of a number, by the word in front of it."""
    found = {}
    for what, text in trace(workspace, *(asked or ASKED)):
        found.setdefault(what, []).append(text)
    return found


def test_all_that_a_number_stands_on_is_told(workspace):
    lines, table = told(workspace), workspace.figures / "table1.csv"
    assert lines["number"] == ["RC-TPL, rsna, auc: 0.600000 [0.500000, 0.700000], 95 % interval"]
    assert lines["file"] == [f"figures/smoke/table1.csv, sha256 {sha256_file(table)}"]
    assert lines["row"] == ["3 of 5"] and lines["seeds"] == ["0: 0.500000, 1: 0.700000"]
    assert lines[""] == ["as figures/smoke/manifest.json has it"]
    # over the seeds' means 0.5, 0.7, 0.6
    (resamples,) = lines["resamples"]
    assert resamples.startswith("3 of patients, mean 0.600000, deviation 0.081650, in build/smoke/")
    encoders = [workspace.encoder(seed) for seed in (0, 1)]
    draws, world = workspace.results / "table1_draws.parquet", workspace.data_root / "manifest.json"
    hashes = [text.split()[-1] for text in (*lines["encoder"], resamples, *lines["world"])]
    assert hashes == [*map(sha256_file, (*encoders, draws, world))]
    names = [text.split(",")[0] for text in lines["learned"]]
    assert names == [f"build/smoke/prompts/rc-tpl-{seed}.safetensors" for seed in (0, 1)]
    assert f"--profile smoke --output {workspace.output} --only 05 --force" in lines["again"][0]


def test_films_and_patients_are_those_of_the_test_split(workspace):
    """A column of COVID stands on the films of its set."""
    tiny_world.write("covidx", workspace.data_root)
    for column, name in (("rsna", "rsna"), ("covidx-normal", "covidx")):
        films = module.open_split(workspace, name, "test")
        patients = films.records["patient_id"].nunique()
        row = pd.Series({"dataset": column, "metric": "auc", "n": 40})
        expected = f"40 films of the test split: {len(films)} films of {patients} patients here"
        assert module._films(workspace, "table1", row) == expected
    films = module.open_split(workspace, "rsna", "test")
    drawn = films.annotated("Pneumonia").sum()
    row = pd.Series({"dataset": "rsna", "metric": "pointing_game", "n": 7})
    assert f": {drawn} films of" in module._films(workspace, "table2", row)
    assert drawn < len(films)


@pytest.mark.parametrize("table", TABLES)
def test_every_table_is_written_in_a_cell_that_exists(table):
    measures, writes, _ = TABLES[table]
    notebook, cell = module._cell(writes)
    source = "".join(read_json(NOTEBOOKS / notebook.name)["cells"][cell]["source"])
    assert f"{writes.split(':')[1]}(" in source
    for name in (f"evaluation.{measures}", f"reporting.{writes}"):
        place, function = module._function(name).split(" ")
        path, line = place.split(":")
        text = (PROJECT / path).read_text(encoding="utf-8").splitlines()[int(line) - 1]
        assert text.startswith(f"def {function}(")


@pytest.mark.parametrize(
    ("table", "method", "stems"),
    [
        ("table1", "RC-TPL, concept branch", ["rc-tpl"]),
        ("table5", "RC-TPL+, plain cosine", ["rc-tpl-plus"]),
        ("table1", "CoOp, 1 label a class", ["coop-1"]),
        ("table1", "supervised reference (labels)", ["reference"]),
        ("table1", "MedCLIP-ViT", ["medclip-vit"]),
        ("ablations", "knowledge: none", ["ablation-knowledge-none", "ablation-m-12"]),
        ("ablations", "M=12", ["ablation-m-12"]),
    ],
)
def test_the_files_that_a_method_has_learned(table, method, stems):
    assert module._stems(table, method) == stems


def test_a_single_series_and_a_constant(workspace):
    write_draws(workspace, np.array([0.6, 0.5, np.nan, 0.7]))
    lines = told(workspace)
    assert lines["seeds"] == ["1 series, 0.600000 to 0.600000"]
    assert lines["resamples"][0].startswith("2 of patients, mean 0.600000")
    constant = told(workspace, "table1", "class names", "rsna", "auc")
    assert constant["seeds"] == ["no resamples: it is a constant"]


def test_other_runs_files_are_told_and_a_lone_table_traced_as_far_as_it_goes(workspace, tmp_path):
    write_draws(workspace, SERIES + 0.01)
    (workspace.figures / "manifest.json").write_text('{"files": {"table1.csv": "another"}}')
    assert told(workspace)[""] == [
        "NOT as figures/smoke/manifest.json has it",
        "NOT of the run that made the table: their values differ",
    ]
    (workspace.figures / "manifest.json").unlink()
    assert "did not end" in told(workspace)[""][0]
    (workspace.results / "table1_draws.parquet").unlink()
    lines = told(dataclasses.replace(workspace, data_root=tmp_path / "nowhere"))
    assert "not here; run it again" in lines["seeds"][0]
    assert "patients cannot be counted" in lines["films"][0]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("table9, RC-TPL, rsna, auc", "no table is called 'table9'.*'table1'"),
        ("table2, RC-TPL, rsna, auc", "table2.csv: the table is not there. Run"),
        ("table1, rc tpl, rsna, auc", "no method 'rc tpl'. The nearest: 'RC-TPL', 'RC-TPL"),
        ("table1, RC-TPL, RSNA, auc", "no dataset 'RSNA'. There are: 'rsna'"),
        ("table1, RC-TPL, rsna, AUROC", "no metric 'AUROC'. There are: 'auc'"),
        ("table1, ConVIRT, rsna, auc", "was not run: table1 has only the paper's number"),
        ("table1, RC-TPL, covidx, auc", "no method 'RC-TPL' for covidx, auc. There are"),
    ],
)
def test_a_number_that_does_not_exist(workspace, asked, message):
    """Or names that exist, but not together."""
    path = workspace.figures / "table1.csv"
    rows = pd.read_csv(path)
    other = rows.assign(dataset="covidx", method=[f"method {k}" for k in range(len(rows))])
    if "RSNA" not in asked:
        write_csv(path, pd.concat([rows, other]))
    with pytest.raises(InputError, match=message):
        trace(workspace, *asked.split(", "))


def test_the_command_line(workspace, capsys):
    run = ["--profile", "smoke", "--output", str(workspace.output)]
    assert main([*ASKED, *run]) == 0
    assert capsys.readouterr().out.startswith("number    RC-TPL, rsna, auc: 0.600000")
    assert main(["table1", "RCTPL", "rsna", "auc", *run]) == 2
    assert capsys.readouterr().err.startswith("error: table1 has no method 'RCTPL'")
