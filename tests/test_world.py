"""The embedded world on disk: deterministic, resumable, whole or absent, read by the loaders."""

import errno
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from rctpl_utils import code_hash as sources
from rctpl_utils.datasets import open_dataset
from rctpl_utils.errors import InputError
from rctpl_utils.files import WRITES, read_json
from rctpl_utils.profiles import PROFILES, WorldSize
from rctpl_utils.simulation import world
from rctpl_utils.simulation.cases import SPLITS
from rctpl_utils.simulation.layouts import TABLES
from rctpl_utils.simulation.overview import dataset_table, finding_table
from rctpl_utils.simulation.radiograph import Radiograph
from rctpl_utils.simulation.world import NAMES, build_world, code_hash, dataset_key
from rctpl_utils.workspace import Workspace

SIZE = WorldSize(
    image_size=32,
    pretraining=60,
    chestxray14=24,
    chexpert=18,
    chexpert_5x200=2,
    covidx=12,
    rsna=16,
    siim=16,
    covid_rural=16,
)


def stub_render(case, anatomy, size):
    """A film of noise with a square for each lesion."""
    rng = np.random.default_rng(case.seed)
    pixels = rng.integers(0, 256, (size, size)) / 255
    square = np.zeros((size, size), dtype=bool)
    square[4:12, 4:12] = True
    masks = {lesion.concept: square for lesion in case.lesions}
    return Radiograph(pixels.astype(np.float32), masks)


@pytest.fixture(scope="module", autouse=True)
def stub_anatomy():
    """No anatomy to project, and no code that could change meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "load_anatomy", lambda cache: None)
        patch.setattr(world, "code_hash", lambda renderer: "code")
        yield


def open_workspace(folder, size=SIZE):
    workspace = Workspace.open("smoke", output=folder, device="cpu")
    return replace(workspace, profile=replace(workspace.profile, world=size))


def build(folder, size=SIZE):
    return build_world(open_workspace(folder, size), processes=1, renderer=stub_render)


@pytest.fixture(scope="module")
def built(tmp_path_factory, stub_anatomy):
    folder = tmp_path_factory.mktemp("world")
    build(folder)
    return open_workspace(folder)


def stamps(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_two_builds_give_the_same_bytes_and_every_file_is_noted_where_it_lies_in_the_end(
    built, tmp_path, monkeypatch
):
    monkeypatch.setenv(WRITES, str(tmp_path / "writes"))
    assert build(tmp_path) == read_json(built.data_root / "manifest.json")
    noted = (tmp_path / "writes").read_text(encoding="utf-8").splitlines()
    files = stamps(open_workspace(tmp_path).data_root)
    assert set(map(str, files)) <= set(noted) and len(files) > 200


def test_another_seed_gives_other_bytes(built, tmp_path):
    other = build(tmp_path, replace(SIZE, seed=1))["datasets"]
    here = read_json(built.data_root / "manifest.json")["datasets"]
    assert all(other[name]["images_sha256"] != here[name]["images_sha256"] for name in NAMES)


def test_a_second_call_writes_nothing(built):
    before = stamps(built.data_root)
    build_world(built, processes=1, renderer=stub_render)
    assert stamps(built.data_root) == before


def test_an_interrupted_data_set_is_written_anew_and_the_others_kept(built):
    root, before = built.data_root, stamps(built.data_root)
    manifest = read_json(root / "manifest.json")
    (root / ".complete" / "siim.json").unlink()
    (root / "siim" / "train-rle.csv").unlink()
    assert build_world(built, processes=1, renderer=stub_render) == manifest
    after = stamps(root)
    rewritten = {path.relative_to(root).parts[0] for path in after if after[path] != before[path]}
    assert rewritten == {"siim", ".complete"}


def test_a_changed_size_rewrites_only_its_data_set(built, tmp_path):
    root = open_workspace(tmp_path).data_root
    shutil.copytree(built.data_root, root)
    before = stamps(root)
    build(tmp_path, replace(SIZE, covidx=15))
    changed = {p.relative_to(root).parts[0] for p, t in stamps(root).items() if before.get(p) != t}
    assert changed == {"covidx", ".complete", "manifest.json"}


def test_a_data_set_depends_on_its_code_and_its_size_alone():
    key = dataset_key("covidx", SIZE, code_hash())
    assert key == dataset_key("covidx", replace(SIZE, rsna=99), code_hash())
    assert key != dataset_key("covidx", replace(SIZE, covidx=99), code_hash())
    assert key != dataset_key("covidx", SIZE, code_hash(stub_render))


def test_an_edit_of_a_reader_redraws_nothing_and_one_of_the_drawing_all(tmp_path, monkeypatch):
    def edited(*paths):
        for path in paths:
            with path.open("a", encoding="utf-8") as file:
                file.write("EDITED = 1\n")
        sources._scan.cache_clear()
        return code_hash()

    package = tmp_path / "rctpl_utils"
    shutil.copytree(sources.ROOT / "rctpl_utils", package, ignore=shutil.ignore_patterns("data"))
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    sources._scan.cache_clear()
    before = code_hash()
    drawn = {package / "datasets/openi.py", package / "datasets/masks.py"}  # what and how outlined
    assert edited(*set(package.glob("datasets/*.py")) - drawn) == before
    for name in ("datasets/openi", "simulation/lungs", "simulation/layouts", "simulation/styles"):
        before, key = edited(package / f"{name}.py"), before
        assert before != key, name
    sources._scan.cache_clear()


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    def fail(folder, rows):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setitem(TABLES, "chexpert", fail)
        with pytest.raises(InputError, match=r"the disk is full.*run again"):
            build(tmp_path)
    root = open_workspace(tmp_path).data_root
    names = {path.name for path in root.iterdir()}
    assert names == {"mimic-cxr", "chestxray14", ".complete"}
    build(tmp_path)
    assert {path.name for path in root.iterdir()} == {*NAMES, ".complete", "manifest.json"}


def test_no_patient_is_on_two_sides(built):
    for name in NAMES:
        splits = [s for s in SPLITS if s != "train" or name == "mimic-cxr"]
        sides = [_patients(built, name, split) for split in splits]
        assert all(sides)
        assert len(set().union(*sides)) == sum(map(len, sides))
    five = _patients(built, "chexpert5x200", "test")
    assert not five & _patients(built, "chexpert", "validation")


def _patients(workspace, name, split):
    options = {"per_class": SIZE.chexpert_5x200} if name.startswith("chexpert") else {}
    return set(open_dataset(name, workspace.data_root, split, **options).records["patient_id"])


def test_the_loaders_find_what_the_manifest_counts(built):
    manifest = read_json(built.data_root / "manifest.json")
    for name in NAMES:
        if name == "chexpert":
            continue  # its test split and 5x200 are counted together; see the next test
        for split, counts in manifest["datasets"][name]["counts"].items():
            found = open_dataset(name, built.data_root, split)
            assert len(found) == counts["images"]
            for concept in set(found.concepts) - {"Pneumonia"} & set(counts["concepts"]):
                assert (found.records[concept] == 1).sum() == counts["concepts"][concept]


def test_chexpert_5x200_is_found_by_its_rule(built):
    five = open_dataset("chexpert5x200", built.data_root, "test", per_class=2)
    assert len(five) == 10 and (five.records[list(five.concepts)].sum() == 2).all()
    assert len(open_dataset("chexpert", built.data_root, "test")) == SIZE.chexpert


def test_packed_tables_hold_no_time_and_no_name_of_a_temporary_file(built):
    packed = sorted((built.data_root / "mimic-cxr").glob("*.csv.gz"))
    assert len(packed) == 3
    for path in packed:
        header = path.read_bytes()[:8]  # RFC 1952: byte 3 are flags, bytes 4 to 7 the time
        assert header[3] == 0 and header[4:] == bytes(4), path.name


def test_labels_are_closed_upwards(built):
    records = open_dataset("chexpert", built.data_root, "test").records
    for child, parent in (
        ("Cardiomegaly", "Enlarged Cardiomediastinum"),
        ("Atelectasis", "Lung Opacity"),
        ("Edema", "Lung Opacity"),
    ):
        assert (records[parent] >= records[child]).all()
    table = pd.read_csv(built.data_root / "mimic-cxr" / "mimic-cxr-2.0.0-chexpert.csv.gz")
    assert (table["Lung Opacity"].fillna(0) >= table["Pneumonia"].fillna(0)).all()
    assert not (table["No Finding"].eq(1) & table["Lung Opacity"].eq(1)).any()


def test_covid19_is_nowhere_in_the_training_data(built):
    root = built.data_root / "mimic-cxr"
    assert "COVID-19" not in set(pd.read_csv(root / "drawn.csv")["concept"])
    texts = [path.read_text(encoding="utf-8").lower() for path in root.rglob("s*.txt")]
    assert texts and not any("covid" in text for text in texts)


def test_templated_reports_are_marked_and_counted(built):
    root = built.data_root
    table = pd.read_csv(root / "mimic-cxr" / "mimic-cxr-2.0.0-metadata.csv.gz")
    made = table[table["templated"] == 1]
    assert (made["subject_id"] >= 99_000_000).all() and (made["source"] == "templated").all()
    assert table.loc[table["templated"] == 0, "source"].str.startswith("CXR").all()
    counts = read_json(root / "manifest.json")["datasets"]["mimic-cxr"]["reports"]
    assert sum(part["templated"] for part in counts.values()) == made["study_id"].nunique()
    assert counts["test"]["templated"] == 0


def test_tables_of_the_manifest(built):
    manifest = read_json(built.data_root / "manifest.json")
    assert dataset_table(built, manifest)["images"].sum() == sum(
        len(list((built.data_root / n).rglob(f"*.{s}")))
        for n in NAMES
        for s in ("dcm", "jpg", "png")
    ) - len(list((built.data_root / "covid-rural" / "pngs_masks").glob("*.png")))
    assert finding_table(manifest).loc["COVID-19", "mimic-cxr"] == 0
    assert all(source["licence"] and source["sha256"] for source in manifest["sources"])


def test_a_profile_with_real_data_has_no_world(built):
    paper = replace(built, profile=PROFILES["paper"])
    with pytest.raises(InputError, match="uses real data"):
        build_world(paper)
