"""The doctor's verdicts, and the official numbers against the official tables."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from released import medclip_shapes, write_base_model
from tiny_world import CASES, edit, write, write_mimic

from rctpl_utils.datasets import DATASETS, present_datasets
from rctpl_utils.datasets.official import (
    OFFICIAL,
    count,
    read_world,
    require_complete,
    require_complete_root,
)
from rctpl_utils.datasets.openi import xrv_file
from rctpl_utils.errors import InputError
from rctpl_utils.run.doctor import RUNS, check_dataset, check_weights, examine, main

REPORT = "FINAL REPORT\n\nFINDINGS: No edema.\n\nIMPRESSION: Normal chest.\n"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """All data sets, a few films each, and one report."""
    root = tmp_path_factory.mktemp("data")
    for name in CASES:
        write(name, root)
    folder = write_mimic(root) / "files/p10/p10000001"
    (folder / "s50000001.txt").write_text(REPORT)
    return root


NEEDED = len(OFFICIAL) - 1  # the paper's tables do without Open-I


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Names and shapes of MedCLIP's ResNet-50 release, the base model beside it."""
    folder = tmp_path_factory.mktemp("weights")
    write_base_model(folder / "bioclinicalbert", layers=1)
    return save(folder / "pytorch_model.bin", medclip_shapes("resnet50", layers=1))


def save(file, shapes):
    """Zeros that take no room in the file."""
    torch.save({name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}, file)
    return file


@pytest.fixture
def as_official(tiny, monkeypatch):
    """Pretend that the tiny world's numbers are the official ones."""
    for name in OFFICIAL:
        if (tiny / name).is_dir():
            ours = replace(OFFICIAL[name], counts=count(name, tiny / name))
            monkeypatch.setitem(OFFICIAL, name, ours)
    monkeypatch.setattr("rctpl_utils.run.doctor.PER_CLASS", 1)


def test_every_data_set_has_its_facts():
    assert set(OFFICIAL) == {folder for folder, *_ in DATASETS.values()}
    for name, one in OFFICIAL.items():
        assert one.counts and one.source and one.licence and one.tree, name
        assert one.apply.startswith("https://")
    assert {name for *_, name in RUNS if name} <= set(DATASETS)


def test_nothing_there(tmp_path, capsys):
    assert main(["--data-root", str(tmp_path / "absent")]) == 1
    shown = capsys.readouterr().out
    assert shown.count(": not found") == len(OFFICIAL) + 1  # and the checkpoint
    assert shown.count("not run: ") == len(RUNS) and "https://physionet.org" in shown
    assert "Traceback" not in shown and "Python" in shown and "GB free" in shown


def test_all_there(tiny, checkpoint, as_official, capsys):
    assert main(["--data-root", str(tiny), "--checkpoint", str(checkpoint)]) == 0
    shown = capsys.readouterr().out
    assert shown.count(": complete") == NEEDED + 1 and "not run" not in shown
    assert shown.count("  yes") == len(RUNS)
    for text in ("48 x 40 pixels", "Pneumonia on ", "rows 40 of 40", "chexpert5x200 test 5",
                 "s50000001.txt: 2 words of findings, 2 of impression", "shape fits",
                     "triplets by our own rules: no MIMIC-CXR_graphs.json"):  # fmt: skip
        assert text in " ".join(shown.split())


def test_short_release_is_partial(tiny, checkpoint, capsys):
    assert main(["--data-root", str(tiny), "--checkpoint", str(checkpoint)]) == 1
    shown = capsys.readouterr().out
    assert shown.count(": partial") == NEEDED
    assert "images 4 of 112,120" in shown and "reports 1 of 227,835" in shown
    assert "on a part of mimic-cxr, chestxray14 (--allow-partial)" in shown


def test_missing_files_are_counted_and_named(tiny, tmp_path, as_official):
    root = tmp_path / "root"
    shutil.copytree(tiny, root)
    gone = sorted((root / "rsna" / "stage_2_train_images").glob("*.dcm"))[:7]
    for file in gone:
        file.unlink()
    finding = next(f for f in examine(root).datasets if f.name == "rsna")
    problems = " ".join(text for label, text in finding.facts if label == "problem")
    assert finding.state == "partial" and "images listed are missing: rsna-" in problems
    assert "--allow-partial" in problems


def test_one_absent_data_set_leaves_the_rest(tiny, tmp_path, checkpoint, as_official):
    root = tmp_path / "root"
    shutil.copytree(tiny, root)
    shutil.rmtree(root / "siim")
    diagnosis = examine(root, checkpoint)
    verdicts = {makes: verdict for _, makes, verdict in diagnosis.runnable()}
    assert verdicts.pop("Table 3, SIIM-ACR") == "not run: needs siim"
    assert set(verdicts.values()) == {"yes"} and not diagnosis.sound
    names = ("rsna", "siim", "covid-rural", "chexpert5x200")
    assert present_datasets(names, root) == ("rsna", "covid-rural", "chexpert5x200")


def test_embedded_world_needs_no_checkpoint(tiny, tmp_path, capsys):
    root = tmp_path / "root"
    shutil.copytree(tiny, root)
    manifest = {"profile": "tiny", "size": {"chexpert_5x200": 1}}
    (root / "manifest.json").write_text(json.dumps(manifest))
    assert main(["--data-root", str(root)]) == 0
    shown = capsys.readouterr().out
    assert shown.count(": simulated") == NEEDED and " of 112,120" not in shown
    assert read_world(root) == manifest and read_world(tiny) is None
    for text in ("[1", "[]", '{"name": 1}', '{"size": {}}', '{"size": 3}'):
        (root / "manifest.json").write_text(text)
        with pytest.raises(InputError, match=r"manifest\.json: not "):
            read_world(root)
        assert main(["--data-root", str(root)]) == 1


@settings(max_examples=8)
@given(st.integers(0, 2**31))
def test_damage_never_raises(tiny, tmp_path_factory, seed):
    """Any file of any data set replaced by random bytes, cut, or turned into a folder."""
    root = tmp_path_factory.mktemp("damaged") / "root"
    shutil.copytree(tiny, root)
    rng = np.random.default_rng(seed)
    files = sorted(p for p in root.rglob("*") if p.suffix in {".csv", ".txt", ".gz", ".json"})
    file = files[rng.integers(len(files))]
    kind = rng.integers(3)
    content = file.read_bytes()
    file.unlink()
    if kind == 0:
        file.write_bytes(rng.bytes(200))
    elif kind == 1:
        file.write_bytes(content[: len(content) // 2])
    else:
        file.mkdir()
    finding = check_dataset(file.relative_to(root).parts[0], root)
    assert finding.state in {"partial", "unusable"} and finding.facts
    shutil.rmtree(root.parent)


def test_checkpoints(checkpoint, tmp_path):
    assert check_weights(checkpoint).state == check_weights(checkpoint.parent).state == "complete"
    assert check_weights(None).state == "absent"
    assert check_weights(tmp_path / "none.bin").state == "unusable"
    write_base_model(tmp_path / "bioclinicalbert", layers=1)
    (tmp_path / "odd.bin").write_bytes(b"no weights")
    shapes = medclip_shapes("resnet50", layers=1)
    name, _ = shapes.popitem()
    wrong = {
        tmp_path / "odd.bin": "odd.bin: ",
        save(tmp_path / "short.bin", shapes): name,
        save(tmp_path / "vit.bin", medclip_shapes("vit", layers=1)): "Swin-tiny, where ResNet-50",
    }
    for file, text in wrong.items():
        finding = check_weights(file)
        assert finding.state == "unusable" and text in finding.facts[0][1]


# --- the official numbers ---


def official_copy(name, root):
    """The official tables that torchxrayvision packages; lists that it lacks are made up."""
    root.mkdir()
    if name == "chestxray14":
        for table in ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"):
            pd.read_csv(xrv_file(f"{table}.gz"), dtype=str).to_csv(root / table, index=False)
        (root / "test_list.txt").write_text("".join(f"{k:08}_000.png\n" for k in range(25_596)))
    elif name == "chexpert":
        table = pd.read_csv(xrv_file("chexpert_train.csv.gz"), usecols=["Path"])
        table.to_csv(root / "train.csv", index=False)
        table.head(234).to_csv(root / "valid.csv", index=False)
    elif name == "rsna":
        table = pd.read_csv(xrv_file("kaggle_stage_2_train_labels.csv.zip"), dtype=str)
        table.to_csv(root / "stage_2_train_labels.csv", index=False)
    else:
        table = pd.read_csv(xrv_file("siim-pneumothorax-train-rle.csv.gz"), dtype=str)
        table.to_csv(root / "train-rle.csv", index=False)
    return root


@pytest.mark.parametrize("name", ["chestxray14", "chexpert", "rsna", "siim"])
def test_official_tables_have_the_official_numbers(tmp_path, name):
    root = official_copy(name, tmp_path / name)
    require_complete(name, root)
    file = next(root.glob("*train*.csv"), root / "BBox_List_2017.csv")
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(InputError, match=r"not the official release: .* \(--allow-partial\)\.$"):
        require_complete(name, root)
    require_complete(name, root, allow_partial=True)


def test_a_shorter_list_names_both_numbers(tiny):
    with pytest.raises(InputError, match="training images 1 of 29,986, test images 3 of 400"):
        require_complete("covidx", tiny / "covidx")


def test_a_root_is_held_to_the_official_numbers(tiny, tmp_path, as_official, monkeypatch):
    require_complete_root(tiny)  # as many as "official"
    monkeypatch.undo()
    with pytest.raises(InputError, match="chestxray14: not the official release"):
        require_complete_root(tiny)
    require_complete_root(tiny, allow_partial=True)
    require_complete_root(tmp_path)  # nothing there, nothing to hold
    (tmp_path / "rsna").mkdir()
    (tmp_path / "manifest.json").write_text('{"size": {"chexpert_5x200": 1}}')
    require_complete_root(tmp_path)


def test_counts_need_their_tables(tiny, tmp_path):
    root = tmp_path / "rsna"
    shutil.copytree(tiny / "rsna", root)
    edit(root / "stage_2_train_labels.csv", "Target", "target")
    with pytest.raises(InputError, match="no column 'Target'"):
        count("rsna", root)


def test_counters_and_facts_name_the_same_things(tiny):
    for name in OFFICIAL:
        assert count(name, tiny / name).keys() == OFFICIAL[name].counts.keys()
        card = Path(__file__).resolve().parents[1] / "docs" / "data" / f"{name}.md"
        text = card.read_text(encoding="utf-8")
        for number in OFFICIAL[name].counts.values():
            assert f"{number:,}" in text, (name, number)
        assert "python -m rctpl_utils doctor" in text


def test_the_other_profile_wants_the_other_tower(tiny, tmp_path, checkpoint, capsys):
    write_base_model(tmp_path / "bioclinicalbert", layers=1)
    swin = save(tmp_path / "pytorch_model.bin", medclip_shapes("vit", layers=1))
    given = ["--data-root", str(tiny), "--profile", "paper-vit", "--checkpoint"]
    main([*given, str(swin)])
    shown = capsys.readouterr().out
    assert "medclip-vit (Wang" in shown and "every name and shape fits" in shown
    main([*given, str(checkpoint)])
    assert "ResNet-50, where Swin-tiny is wanted" in " ".join(capsys.readouterr().out.split())
