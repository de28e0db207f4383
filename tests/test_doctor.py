"""The doctor's verdicts, and the official numbers against the official tables."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from released import medclip_shapes, write_base_model
from tiny_world import CASES, refused, write, write_mimic

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
from rctpl_utils.workspace import PROJECT

REPORT = "FINAL REPORT\n\nFINDINGS: No edema.\n\nIMPRESSION: Normal chest.\n"
NEEDED = len(OFFICIAL) - 1  # the paper's tables do without Open-I


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """All data sets, a few films each, and one report."""
    root = tmp_path_factory.mktemp("data")
    for name in CASES:
        write(name, root)
    folder = write_mimic(root) / "files/p10/p10000001"
    (folder / "s50000001.txt").write_text(REPORT)
    return root


@pytest.fixture
def root(tiny, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(tiny, tmp_path / "root")


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


@pytest.fixture
def told(capsys):
    """The command's exit status, and what it shows."""

    def tell(root, *options):
        return main(["--data-root", str(root), *map(str, options)]), capsys.readouterr().out

    return tell


def test_nothing_there(tmp_path, told):
    status, shown = told(tmp_path / "absent")
    assert status == 1 and shown.count(": not found") == len(OFFICIAL) + 1  # and the checkpoint
    assert shown.count("not run: ") == len(RUNS) and "https://physionet.org" in shown
    assert "Traceback" not in shown and "Python" in shown and "GB free" in shown


def test_all_there(tiny, checkpoint, as_official, told):
    status, shown = told(tiny, "--checkpoint", checkpoint)
    assert status == 0 and shown.count(": complete") == NEEDED + 1 and "not run" not in shown
    assert shown.count("  yes") == len(RUNS)
    for text in ("48 x 40 pixels", "Pneumonia on ", "rows 40 of 40", "chexpert5x200 test 5",
                 "s50000001.txt: 2 words of findings, 2 of impression", "shape fits",
                     "triplets by our own rules: no MIMIC-CXR_graphs.json"):  # fmt: skip
        assert text in " ".join(shown.split())


def test_short_release_is_partial(tiny, checkpoint, told):
    status, shown = told(tiny, "--checkpoint", checkpoint)
    assert status == 1 and shown.count(": partial") == NEEDED
    assert "images 4 of 112,120" in shown and "reports 1 of 227,835" in shown
    assert "on a part of mimic-cxr, chestxray14 (--allow-partial)" in shown


def test_what_is_missing_is_counted_and_named_and_leaves_the_rest(root, checkpoint, as_official):
    for file in sorted((root / "rsna" / "stage_2_train_images").glob("*.dcm"))[:7]:
        file.unlink()
    shutil.rmtree(root / "siim")
    diagnosis = examine(root, checkpoint)
    finding = next(f for f in diagnosis.datasets if f.name == "rsna")
    problems = " ".join(text for label, text in finding.facts if label == "problem")
    assert finding.state == "partial" and "images listed are missing: rsna-" in problems
    assert "--allow-partial" in problems
    verdicts = {makes: verdict for _, makes, verdict in diagnosis.runnable()}
    assert verdicts.pop("Table 3, SIIM-ACR") == "not run: needs siim"
    for table in ("Table 1, RSNA", "Table 2, RSNA"):
        assert verdicts.pop(table) == "on a part of rsna (--allow-partial)"
    assert set(verdicts.values()) == {"yes"} and not diagnosis.sound
    unweighed = replace(diagnosis, checkpoint=check_weights(None)).runnable()
    assert ("06", "Table 2, RSNA", "not run: needs checkpoint") in unweighed
    names = ("rsna", "siim", "covid-rural", "chexpert5x200")
    assert present_datasets(names, root) == ("rsna", "covid-rural", "chexpert5x200")


def test_embedded_world_needs_no_checkpoint(tiny, root, told):
    manifest = {"profile": "tiny", "size": {"chexpert_5x200": 1}}
    (root / "manifest.json").write_text(json.dumps(manifest))
    status, shown = told(root)
    assert status == 0 and shown.count(": simulated") == NEEDED and " of 112,120" not in shown
    assert read_world(root) == manifest and read_world(tiny) is None
    for text in ("[1", "[]", '{"name": 1}', '{"size": {}}', '{"size": 3}'):
        (root / "manifest.json").write_text(text)
        with pytest.raises(InputError, match=r"manifest\.json: not "):
            read_world(root)
    assert told(root)[0] == 1


@settings(max_examples=8)
@given(st.integers(0, 2**31))
def test_damage_never_raises(tiny, tmp_path_factory, seed):
    """Any file of any data set replaced by random bytes, cut, or turned into a folder."""
    rng = np.random.default_rng(seed)
    files = sorted(p for p in tiny.rglob("*") if p.suffix in {".csv", ".txt", ".gz", ".json"})
    place = files[rng.integers(len(files))].relative_to(tiny)
    name, root = place.parts[0], tmp_path_factory.mktemp("damaged")
    shutil.copytree(tiny / name, root / name)
    content = (root / place).read_bytes()
    (root / place).unlink()
    if kind := rng.integers(3):
        (root / place).write_bytes(rng.bytes(200) if kind == 1 else content[: len(content) // 2])
    else:
        (root / place).mkdir()
    finding = check_dataset(name, root)
    assert finding.state in {"partial", "unusable"} and finding.facts
    shutil.rmtree(root)


def test_checkpoints(tiny, checkpoint, tmp_path, told):
    assert check_weights(checkpoint).state == check_weights(checkpoint.parent).state == "complete"
    assert check_weights(None).state == "absent"
    assert check_weights(tmp_path / "none.bin").state == "unusable"
    write_base_model(tmp_path / "bioclinicalbert", layers=1)
    odd, shapes = tmp_path / "odd.bin", medclip_shapes("resnet50", layers=1)
    odd.write_bytes(b"no weights")
    swin = save(tmp_path / "vit.bin", medclip_shapes("vit", layers=1))
    name, _ = shapes.popitem()
    short = save(tmp_path / "short.bin", shapes)
    for file, text, profile in (
        (odd, "odd.bin: ", "paper"),
        (short, name, "paper"),
        (swin, "Swin-tiny, where ResNet-50", "paper"),
        (checkpoint, "ResNet-50, where Swin-tiny is wanted", "paper-vit"),
    ):
        finding = check_weights(file, profile)
        assert finding.state == "unusable" and text in finding.facts[0][1]
    _, shown = told(tiny / "rsna", "--profile", "paper-vit", "--checkpoint", swin)
    assert "medclip-vit (Wang" in shown and "every name and shape fits" in shown


# --- the official numbers ---


NIH, RSNA = "Data_Entry_2017_v2020.csv", "kaggle_stage_2_train_labels.csv.zip"
COPIES = {  # data set, packaged table -> official name, number of rows
    ("chestxray14", f"{NIH}.gz"): {NIH: None},
    ("chestxray14", "BBox_List_2017.csv.gz"): {"BBox_List_2017.csv": None},
    ("chexpert", "chexpert_train.csv.gz"): {"train.csv": None, "valid.csv": 234},
    ("rsna", RSNA): {"stage_2_train_labels.csv": None},
    ("siim", "siim-pneumothorax-train-rle.csv.gz"): {"train-rle.csv": None},
}


@pytest.mark.parametrize("name", ["chestxray14", "chexpert", "rsna", "siim"])
def test_official_tables_have_the_official_numbers(tmp_path, name):
    """Those that torchxrayvision packages; lists that it lacks are made up."""
    root = tmp_path / name
    root.mkdir()
    (root / "test_list.txt").write_text("".join(f"{k:08}_000.png\n" for k in range(25_596)))
    for (of, packaged), targets in COPIES.items():
        columns = ["Path"] if of == "chexpert" else None
        for target, rows in targets.items() if of == name else ():
            table = pd.read_csv(xrv_file(packaged), nrows=rows, usecols=columns, dtype=str)
            table.to_csv(root / target, index=False)
    require_complete(name, root)
    if name in ("rsna", "siim"):  # the loader, too: only the films are missing
        message = r"(\d+) of \1 images listed are missing"
        refused(name, tmp_path, "test", message, allow_partial=True)
    file = next(root.glob("*train*.csv"), root / "BBox_List_2017.csv")
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(InputError, match=r"not the official release: .* \(--allow-partial\)\.$"):
        require_complete(name, root)
    require_complete(name, root, allow_partial=True)


def test_a_root_is_held_to_the_official_numbers(tiny, tmp_path, as_official, monkeypatch):
    require_complete_root(tiny)  # as many as "official"
    monkeypatch.undo()
    with pytest.raises(InputError, match="chestxray14: not the official release"):
        require_complete_root(tiny)
    require_complete_root(tiny, allow_partial=True)
    with pytest.raises(InputError, match="training images 1 of 29,986, test images 3 of 400"):
        require_complete("covidx", tiny / "covidx")
    require_complete_root(tmp_path)  # nothing there, nothing to hold
    (tmp_path / "rsna").mkdir()
    (tmp_path / "manifest.json").write_text('{"size": {"chexpert_5x200": 1}}')
    require_complete_root(tmp_path)
    (tmp_path / "rsna" / "stage_2_train_labels.csv").write_text("patientId,target\n")
    with pytest.raises(InputError, match="no column 'Target'"):
        count("rsna", tmp_path / "rsna")


def test_counters_facts_and_cards_name_the_same_things(tiny):
    assert set(OFFICIAL) == {folder for folder, *_ in DATASETS.values()}
    assert {name for *_, name in RUNS if name} <= set(DATASETS)
    for name, one in OFFICIAL.items():
        assert one.counts and one.source and one.licence and one.tree, name
        assert one.apply.startswith("https://")
        assert count(name, tiny / name).keys() == one.counts.keys()
        text = (PROJECT / "docs" / "data" / f"{name}.md").read_text(encoding="utf-8")
        for number in one.counts.values():
            assert f"{number:,}" in text, (name, number)
        assert "python -m rctpl_utils doctor" in text
