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

# studies and films of MIMIC-CXR, then films of each set
SIZE = WorldSize(32, 60, 60, 24, 18, 2, 12, 16, 16, 16)


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


def test_a_seed_gives_the_same_bytes_another_others_and_every_file_is_noted_in_its_place(
    built, tmp_path, monkeypatch
):
    monkeypatch.setenv(WRITES, str(tmp_path / "writes"))
    assert build(tmp_path) == read_json(built.data_root / "manifest.json")
    noted = (tmp_path / "writes").read_text(encoding="utf-8").splitlines()
    files = stamps(open_workspace(tmp_path).data_root)
    assert set(map(str, files)) <= set(noted) and len(files) > 200
    here, other = (build(tmp_path, replace(SIZE, seed=seed))["datasets"] for seed in (2024, 1))
    assert all(other[name]["images_sha256"] != here[name]["images_sha256"] for name in NAMES)


def test_only_what_is_missing_interrupted_or_outdated_is_written(built, tmp_path):
    root = open_workspace(tmp_path).data_root
    shutil.copytree(built.data_root, root)

    def written(size=SIZE):
        before = stamps(root)
        build(tmp_path, size)
        return {p.relative_to(root).parts[0] for p, t in stamps(root).items() if before.get(p) != t}

    assert not written()
    (root / ".complete" / "siim.json").unlink()
    (root / "siim" / "train-rle.csv").unlink()
    assert written() == {"siim", ".complete"}
    assert read_json(root / "manifest.json") == read_json(built.data_root / "manifest.json")
    assert written(replace(SIZE, covidx=15)) == {"covidx", ".complete", "manifest.json"}


def test_a_data_set_depends_on_its_code_and_its_size_alone():
    code = code_hash()
    key = dataset_key("covidx", SIZE, code)
    assert key == dataset_key("covidx", replace(SIZE, rsna=99), code)
    assert key != dataset_key("covidx", replace(SIZE, covidx=99), code)
    assert key != dataset_key("covidx", SIZE, code_hash(stub_render))


def test_an_edit_of_a_reader_redraws_nothing_and_one_of_the_drawing_all(tmp_path, monkeypatch):
    def edited(*paths):
        for path in paths:
            with path.open("a", encoding="utf-8") as file:
                file.write("EDITED = 1\n")
        sources._scan.cache_clear()
        return code_hash()

    package = tmp_path / "rctpl_utils"
    shutil.copytree(sources.ROOT / "rctpl_utils", package)
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    sources._scan.cache_clear()
    before = code_hash()
    drawn = {package / "datasets/openi.py", package / "datasets/masks.py"}  # what and how outlined
    others = package / "given_files.py", package / "simulation/world.py"
    weights = package / "data/release/manifest.json"
    assert edited(*set(package.glob("datasets/*.py")) - drawn, *others, weights) == before
    modules = ["datasets/openi.py", *(f"simulation/{n}.py" for n in ("lungs", "layouts", "films"))]
    for name in (*modules, "data/drawing.json", "data/report_phrases.json", "data/sources.json"):
        before, key = edited(package / name), before
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


def test_the_loaders_find_what_the_manifest_counts_and_no_patient_on_two_sides(built):
    manifest = read_json(built.data_root / "manifest.json")
    for name in NAMES:
        counts, sides = manifest["datasets"][name]["counts"], []
        for split in SPLITS if name == "mimic-cxr" else SPLITS[1:]:
            options = {"per_class": SIZE.chexpert_5x200} if name == "chexpert" else {}
            found = open_dataset(name, built.data_root, split, **options)
            sides.append(set(found.records["patient_id"]))
            if name == "chexpert":
                continue  # its test split and 5x200 are counted together; see below
            assert len(found) == counts[split]["images"]
            for concept in set(found.concepts) - {"Pneumonia"} & set(counts[split]["concepts"]):
                assert (found.records[concept] == 1).sum() == counts[split]["concepts"][concept]
        assert all(sides) and len(set().union(*sides)) == sum(map(len, sides))
        if name == "chexpert":
            assert len(open_dataset(name, built.data_root, "test")) == SIZE.chexpert
            five = open_dataset("chexpert5x200", built.data_root, "test", per_class=2)
            assert len(five) == 10 and (five.records[list(five.concepts)].sum() == 2).all()
            assert not set(five.records["patient_id"]) & sides[0]


def test_labels_are_closed_upwards_and_packed_tables_hold_no_time_and_no_name(built):
    records = open_dataset("chexpert", built.data_root, "test").records
    assert (records["Enlarged Cardiomediastinum"] >= records["Cardiomegaly"]).all()
    assert (records["Lung Opacity"] >= records[["Atelectasis", "Edema"]].max(axis=1)).all()
    table = pd.read_csv(built.data_root / "mimic-cxr" / "mimic-cxr-2.0.0-chexpert.csv.gz")
    assert (table["Lung Opacity"].fillna(0) >= table["Pneumonia"].fillna(0)).all()
    assert not (table["No Finding"].eq(1) & table["Lung Opacity"].eq(1)).any()
    packed = sorted((built.data_root / "mimic-cxr").glob("*.csv.gz"))
    assert len(packed) == 3
    for path in packed:
        header = path.read_bytes()[:8]  # RFC 1952: byte 3 are flags, bytes 4 to 7 the time
        assert header[3] == 0 and header[4:] == bytes(4), path.name


def test_templated_reports_are_marked_and_counted_and_covid19_is_nowhere_in_training(built):
    root = built.data_root
    assert "COVID-19" not in set(pd.read_csv(root / "mimic-cxr" / "drawn.csv")["concept"])
    texts = [path.read_text(encoding="utf-8").lower() for path in root.rglob("s*.txt")]
    assert texts and not any("covid" in text for text in texts)
    table = pd.read_csv(root / "mimic-cxr" / "mimic-cxr-2.0.0-metadata.csv.gz")
    made = table[table["templated"] == 1]
    assert (made["subject_id"] >= 99_000_000).all() and (made["source"] == "templated").all()
    assert table.loc[table["templated"] == 0, "source"].str.startswith("CXR").all()
    counts = read_json(root / "manifest.json")["datasets"]["mimic-cxr"]["reports"]
    assert sum(part["templated"] for part in counts.values()) == made["study_id"].nunique()
    assert counts["test"]["templated"] == 0


def test_tables_of_the_manifest_and_that_real_data_have_no_world(built):
    manifest, root = read_json(built.data_root / "manifest.json"), built.data_root
    images = [path for s in ("dcm", "jpg", "png") for path in root.rglob(f"*.{s}")]
    films = [path for path in images if path.parent.name != "pngs_masks"]
    assert dataset_table(built, manifest)["images"].sum() == len(films)
    assert finding_table(manifest).loc["COVID-19", "mimic-cxr"] == 0
    assert all(source["licence"] and source["sha256"] for source in manifest["sources"])
    paper = replace(built, profile=PROFILES["paper"])
    with pytest.raises(InputError, match="uses real data"):
        build_world(paper)
