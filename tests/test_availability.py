"""Which data sets a run has, what its options refuse, and what it lists as left out."""

import shutil
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from partial_root import write_checkpoint, write_root
from tiny_world import write

from rctpl_utils.datasets import open_dataset, splits
from rctpl_utils.datasets.official import OFFICIAL, count
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.consistency import measure_consistency
from rctpl_utils.evaluation.prompt_maps import compare_maps, map_differences
from rctpl_utils.evaluation.results import (
    load_draws,
    save_draws,
    stacked,
    with_absent,
    with_reported,
)
from rctpl_utils.files import read_json
from rctpl_utils.profiles import PROFILES, Profile
from rctpl_utils.reporting import reproduction, skipped, tables
from rctpl_utils.run import command as runner
from rctpl_utils.run.doctor import check_dataset
from rctpl_utils.run.manifest import write_manifest
from rctpl_utils.run.schedule import inputs_fingerprint
from rctpl_utils.simulation.overview import dataset_table
from rctpl_utils.workspace import Workspace

HERE = ("rsna", "covidx")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_root(tmp_path_factory.mktemp("data"), HERE, studies=8)


@pytest.fixture
def data(root, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(root, tmp_path / "data")


def opened(data, profile: Profile = PROFILES["paper"], **options: bool) -> Workspace:
    out = data.parent
    return Workspace(profile, out, data, out, torch.device("cpu"), **options)


# --- presence


def test_a_data_set_is_there_when_its_folder_is(root, capsys):
    workspace = opened(root)
    names = ("chexpert", "rsna", "siim", "covidx")
    assert splits.present(workspace, names) == ("rsna", "covidx")
    assert splits.absent(workspace, names) == ("chexpert", "siim")
    assert splits.can_run(workspace, "Table 2", "rsna")
    assert capsys.readouterr().out == ""
    assert not splits.can_run(workspace, "Figure 9", "rsna", "siim", "chexpert5x200")
    assert capsys.readouterr().out == "Figure 9: not run, data sets siim, chexpert5x200 absent.\n"
    assert splits.absence(["siim"]) == "data set siim absent"
    table = dataset_table(opened(root, allow_partial=True), None)
    assert table["note"]["siim", "test"] == "not found"
    assert table["images"]["siim", "test"] == 0 and table["images"]["covidx", "test"] == 12


def test_the_embedded_world_lacks_nothing_and_reports_are_always_needed(tmp_path):
    workspace = Workspace.open("smoke", output=tmp_path, device="cpu")  # nothing is written yet
    assert splits.absent(workspace, OFFICIAL) == ()
    splits.require_reports(workspace)
    with pytest.raises(InputError, match="mimic-cxr: data set 'mimic-cxr' is absent"):
        splits.require_reports(opened(tmp_path / "nothing"))


def test_reports_without_films_are_enough_but_for_what_shows_films(data, capsys):
    assert splits.can_run_on_training_films(opened(data), "Figure 1")
    for film in data.glob("mimic-cxr/files/*/*/*/*.jpg"):
        film.unlink()
    assert not splits.can_run_on_training_films(opened(data), "Figure 1")
    assert capsys.readouterr().out == "Figure 1: not run, no film of MIMIC-CXR is there.\n"
    finding = check_dataset("mimic-cxr", data)
    assert finding.state == "partial" and finding.usable == ("mimic-cxr",)
    assert "images listed are missing" in " ".join(text for _, text in finding.facts)


def test_rows_of_an_absent_set_are_empty():
    rows = pd.DataFrame({"dataset": "rsna", "method": ["a", "b"], "value": [0.1, 0.2]})
    reported = pd.DataFrame({"dataset": ["rsna", "siim"], "method": "a", "reported": [0.9, 0.8]})
    rows["metric"] = reported["metric"] = "auc"
    table = with_reported(with_absent(rows, ["siim"]), reported).set_index(["dataset", "method"])
    assert table["value"].dropna().to_dict() == {("rsna", "a"): 0.1, ("rsna", "b"): 0.2}
    assert table["reported"].dropna().to_dict() == {("rsna", "a"): 0.9, ("siim", "a"): 0.8}
    assert ("siim", "b") in table.index
    alone = with_reported(with_absent(stacked([]), ["siim"]), reported)
    assert alone["reported"].tolist() == [0.9, 0.8] and alone["value"].isna().all()


# --- the runner's options


def test_incomplete_sets_and_absent_reports_are_refused_other_absent_sets_not(
    root, tmp_path, capsys, monkeypatch
):
    weights, out = str(write_checkpoint(tmp_path)), str(tmp_path / "out")
    start = ["--profile", "paper", "--checkpoint", weights, "--output", out, "--list"]
    given, partial = [*start, "--data-root", str(root)], "--allow-partial"
    assert runner.main(given) == 2
    said = capsys.readouterr().err
    assert "not the official release" in said and "(--allow-partial)" in said
    assert runner.main([*given, partial]) == 0
    for name in (*HERE, "mimic-cxr"):  # as if all that is there were there in full
        ours = replace(OFFICIAL[name], counts=count(name, root / name))
        monkeypatch.setitem(OFFICIAL, name, ours)
    assert runner.main(given) == 0
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rsna").symlink_to(root / "rsna")
    assert runner.main([*start, "--data-root", str(tmp_path / "data"), partial]) == 2
    assert "'mimic-cxr' is absent" in capsys.readouterr().err


def test_a_data_set_that_arrives_later_makes_notebooks_run_again(data):
    before = inputs_fingerprint(opened(data))
    assert inputs_fingerprint(opened(data)) == before
    (data / "covid-rural").mkdir()  # its tables lie too deep to be listed
    assert inputs_fingerprint(opened(data)) != before
    (data / "covid-rural").rmdir()
    home = data / "chexpert" / "CheXpert-v1.0"
    home.mkdir(parents=True)
    known = inputs_fingerprint(opened(data))
    (home / "train.csv").write_text("Path\n")
    assert inputs_fingerprint(opened(data)) != known


def test_the_manifest_names_the_data_that_a_run_had(data):
    written = read_json(write_manifest(opened(data, allow_partial=True), []))["data"]
    assert written["present"] == ["covidx", "rsna", "mimic-cxr"]
    assert "siim" in written["absent"] and "chexpert5x200" in written["absent"]
    assert written["allow_partial"] is True and written["skip_bad"] is False


# --- what is left out


def test_skipped_films_are_counted_and_listed(data):
    films = open_dataset("rsna", data, "test").records
    folder = data / "rsna/stage_2_train_images"
    (folder / f"{films['image_id'][0]}.dcm").write_bytes(b"no film")
    (folder / f"{films['image_id'][1]}.dcm").unlink()
    workspace = opened(data, skip_bad=True, allow_partial=True)
    found = skipped.omissions(open_split(workspace, "rsna", "test"))
    assert [each.count for each in found] == [1, 1]
    assert found[0].file.endswith(f"{films['image_id'][0]}.dcm")
    assert found[1].reason == "image file missing"
    table = dataset_table(workspace, None)
    assert table["left out"]["rsna", "test"] == 2 and table["left out"].sum() == 2
    listed = pd.read_csv(workspace.results / "skipped_films.csv")
    name = f"rsna/stage_2_train_images/{films['image_id'][0]}.dcm"
    assert listed["file"].dropna().tolist() == [name]
    assert "2 rows and films (build/paper/results/skipped_films.csv)" in skipped.summary(workspace)
    assert str(data) not in listed.to_csv()
    twice = [*found, found[0]._replace(split="validation")]
    skipped.write_skipped(workspace, skipped.FILMS, twice)  # met by two splits, counted once
    assert "2 rows and films" in skipped.summary(workspace)


def test_skipped_reports_are_counted_and_listed(data):
    gone, broken = sorted((data / "mimic-cxr").rglob("s*.txt"))[:2]
    gone.unlink()
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="1 of 8 studies have no report: s50000000"):
        skipped.read_and_list_reports(opened(data))
    with pytest.raises(InputError, match="not a text file"):
        skipped.read_and_list_reports(opened(data, allow_partial=True))
    workspace = opened(data, skip_bad=True)
    assert len(skipped.read_and_list_reports(workspace)) == 6
    listed = pd.read_csv(workspace.results / "skipped_reports.csv")
    files = [data / "mimic-cxr/mimic-cxr-2.0.0-split.csv.gz", broken]
    assert listed["file"].tolist() == [file.relative_to(data).as_posix() for file in files]
    assert listed["row"][0] == "of study s50000000"
    assert listed["reason"][1].startswith("not a text file")
    assert "2 reports (build/paper/results/skipped_reports.csv)" in skipped.summary(workspace)


# --- validation films


def test_a_sample_of_films_is_the_same_every_time_and_part_of_a_larger_one(tmp_path):
    write("rsna", tmp_path)
    whole = open_dataset("rsna", tmp_path, "test")
    names = whole.records["image_id"].tolist()
    few, more = (whole.sample(count) for count in (6, 11))
    chosen = few.records["image_id"].tolist()
    assert len(chosen) == 6 and chosen == [name for name in names if name in chosen]
    assert set(chosen) < set(more.records["image_id"]) < set(names)
    assert chosen == whole.sample(11).sample(6).records["image_id"].tolist()
    assert few.left_out["beyond the number asked for"] == len(names) - 6
    assert whole.sample(len(names)) is whole and len(whole) == len(names)
    for row, name in enumerate(chosen):
        other = names.index(name)
        assert few.annotated("Pneumonia")[row] == whole.annotated("Pneumonia")[other]
        assert (few.pixels(row) == whole.pixels(other)).all()
        assert (few.mask(row, "Pneumonia") == whole.mask(other, "Pneumonia")).all()


def test_only_validation_splits_are_capped(root):
    workspace = opened(root, replace(PROFILES["paper"], validation_films=3))
    assert len(open_split(workspace, "covidx", "validation")) == 3
    assert len(open_split(workspace, "covidx", "test")) == 12


# --- nothing but reports


def test_without_any_film_all_tables_say_not_run(tmp_path):
    workspace = opened(tmp_path / "data")
    assert tables.save_table1(workspace, {}).loc["RC-TPL", ("rsna", "auc")] == "not run"
    tests = tables.paired_tests(workspace, {})
    assert tests.empty and tables.verdict(tests) == ""
    assert tables.save_figure3(workspace, {}) is None
    shown = tables.save_grounding_tables(workspace, {})
    assert shown[2].loc["RC-TPL", "pointing_game"] == "not run"
    assert tables.grounding_tests(workspace, {}).empty
    assert tables.save_table5(workspace, None).loc["RC-TPL", "precision_at_1"] == "not run"
    assert measure_consistency(workspace, None).empty
    assert compare_maps(workspace, None, {}).empty
    assert map_differences(load_draws(workspace.results, "prompt_maps")).empty
    save_draws(workspace.results, "ablations", {})  # as where no trial was scored
    verdicts = reproduction.save_claims(workspace)
    assert set(verdicts["verdict"]) == {"not tested"}
    assert verdicts["note"].notna().all()
    cells = reproduction.save_reproduction(workspace)
    assert cells["value"].isna().all() and cells["reported"].notna().all()
    reproduction.claims_figure(workspace, verdicts)
    reproduction.reproduction_figure(workspace, cells)
    plt.close("all")
    assert (workspace.figures / "claims.png").exists()
