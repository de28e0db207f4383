"""Own films, reports, concepts and encoders: the contract, its errors, and what follows."""

import json
from pathlib import Path
from typing import get_type_hints

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_world import table_of_cases
from weights import save_stand_in

from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.datasets.nih import open_chestxray14, open_rsna
from rctpl_utils.datasets.own_films import read_films
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.features import image_features
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.explain import explain
from rctpl_utils.evaluation.metrics import patient_weights
from rctpl_utils.evaluation.table1 import Split, evaluate
from rctpl_utils.prompts.handwritten import class_names
from rctpl_utils.prompts.model import RCTPL
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.prompts.zero_shot import score_images
from rctpl_utils.reporting.predict import main
from rctpl_utils.text.concepts.spacy_extractor import SpacyExtractor
from rctpl_utils.text.own_reports import read_reports
from rctpl_utils.text.triplets import triplets_frame
from rctpl_utils.vocabulary import CONCEPTS
from rctpl_utils.workspace import NOTEBOOKS

NEW = {"Heart Failure": {"text": "a heart that fails", "attributes": ["large heart", "wet lungs"]}}


def films_table(folder: Path, count: int = 8) -> pd.DataFrame:
    """Small random films of two a patient in a folder, and a table that keeps the contract."""
    rng, rows = np.random.default_rng(0), []
    (folder / "films").mkdir(parents=True, exist_ok=True)
    for k in range(count):
        name, split = f"films/{k}.png", "validation" if k < count // 2 else "test"
        Image.fromarray(rng.integers(0, 256, (40, 36)).astype(np.uint8)).save(folder / name)
        rows.append((name, f"00{k // 2}", split, k % 2, 1 - k % 2 if k else None))
    return pd.DataFrame(rows, columns=["image", "patient", "split", "Edema", "Mass"])


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    return films_table(tmp_path)


@pytest.fixture
def reports() -> pd.DataFrame:
    text = "INDICATION: cough.\n\nFINDINGS: Small left pleural effusion, no edema.\n\nIMPRESSION: "
    splits = np.repeat(["train", "validation", "test"], 2)
    rows = [(f"r{k}", f"0{k // 2}", f"{text}Cardiomegaly {k}.", splits[k]) for k in range(6)]
    return pd.DataFrame(rows, columns=["report", "patient", "text", "split"])


def written(table: pd.DataFrame, folder: Path, name: str = "own.csv") -> Path:
    table.to_csv(folder / name, index=False)
    return folder / name


def refused(read, file: Path, message: str, **options) -> None:
    with pytest.raises(InputError, match=message) as error:
        read(file, **options)
    assert str(error.value).startswith(str(file)) and "official" not in str(error.value)
    assert error.value.cure.endswith(".")


# --- films


def test_it_is_a_data_set_like_the_others(table, tmp_path):
    file = written(table, tmp_path)
    films = read_films(file)
    assert isinstance(films, ChestXrayDataset)
    assert (films.name, films.split, films.concepts) == ("own", "test", ("Edema", "Mass"))
    assert films.records["patient_id"].tolist() == ["002", "002", "003", "003"]
    assert films.records["Edema"].tolist() == [0, 1, 0, 1]
    assert films.pixels(0).shape == (40, 36) and len(films.sample(2)) == 2
    assert not films.has_masks and not films.annotated("Edema").any()
    assert np.isnan(read_films(file, "validation").records["Mass"][0])


@pytest.mark.parametrize(("kind", "column", "row", "value", "reason"), table_of_cases("own_rows"))
def test_a_bad_row_is_named_or_left_out(kind, column, row, value, reason, table, reports, tmp_path):
    own = (table if kind == "films" else reports).astype(object)
    own.loc[int(row) - 1, column] = value or None
    file = written(own, tmp_path)
    if kind == "films":
        refused(read_films, file, f"row {row}: {reason}")
        kept = [read_films(file, split, skip_bad=True) for split in ("validation", "test")]
        assert all(each.skipped for each in kept) and 5 <= sum(map(len, kept)) < len(table)
        return
    refused(read_reports, file, f"row {row}: {reason}")
    skipped: list = []
    assert len(read_reports(file, skip_bad=True, skipped=skipped)) < 6
    assert [each.row for each in skipped] == [int(row)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("Effusion", "; the nearest name is 'Pleural Effusion'"),
        ("edema", "; the nearest name is 'Edema'"),
        ("Weltschmerz", r"\. Rename or delete it\. Known are: Enl"),
    ],
)
def test_an_unknown_concept_is_named_with_the_nearest(given, message, table, tmp_path):
    file = written(table.rename(columns={"Edema": given}), tmp_path)
    refused(read_films, file, f"'{given}' names no concept{message}")
    assert read_films(file, known=(*CONCEPTS, given)).concepts == (given, "Mass")


def test_what_is_wrong_with_the_whole_table(table, tmp_path):
    refused(read_films, written(table.drop(columns="patient"), tmp_path), "no column 'patient'")
    refused(read_films, tmp_path / "none.csv", "the file is missing")
    file = written(table, tmp_path)
    with pytest.raises(InputError, match=r"no split 'dev'\. Choose one of: train"):
        read_films(file, "dev")
    with pytest.raises(InputError, match="no image in its train split"):
        read_films(file, "train")


def test_without_a_split_patients_are_divided_by_a_hash(tmp_path):
    table = films_table(tmp_path, 60).drop(columns="split")
    file = written(table, tmp_path)
    parts = [set(read_films(file, s).records["patient_id"]) for s in ("validation", "test")]
    assert all(parts) and not parts[0] & parts[1] and len(parts[0] | parts[1]) == 30


CELLS = st.sampled_from(["1", "0", ""])
NAMES = st.from_regex(r"[a-mo-z][a-z0-9 ,;\"]{0,6}[a-z0-9]", fullmatch=True)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    films_table(folder)
    return folder


@given(
    st.lists(st.tuples(NAMES, CELLS, CELLS), min_size=1, max_size=8),
    st.sampled_from(",;\t|"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.booleans(),
)
@settings(max_examples=50)
def test_a_table_comes_back_as_it_was_written(shelf, rows, mark, encoding, shuffled):
    table = pd.DataFrame(rows, columns=["patient", "Edema", "COVID-19"])
    table = table.assign(image=[f"films/{k}.png" for k in range(len(rows))], split="test")
    table = table[sorted(table)] if shuffled else table
    file = shelf / "own.csv"
    table.to_csv(file, index=False, sep=mark, encoding=encoding)
    records = read_films(file).records
    for column in ("image", "patient"):
        assert records[f"{column}_id"].tolist() == table[column].tolist()
    for concept in ("Edema", "COVID-19"):
        wanted = pd.to_numeric(table[concept]).to_numpy(float)
        np.testing.assert_array_equal(records[concept].to_numpy(float), wanted)


def measured(file: Path, encoder, folder: Path) -> pd.Series:
    """The macro AUC of the class names on a table of films, by the package's own functions."""
    parts, films = {}, {split: read_films(file, split) for split in ("validation", "test")}
    for split, of in films.items():
        features = image_features(encoder, of, folder / "features")
        scores = score_images(features, {"names": class_names(encoder, of.concepts)})
        labels = of.records[list(of.concepts)].to_numpy(float)
        parts[split] = Split(labels, {"names": [scores["names"].both]})
    patients = films["test"].records["patient_id"]
    weights = patient_weights(patients, 20, np.random.default_rng(0))
    found = evaluate("own", of.concepts, parts["test"], parts["validation"], weights).rows
    return found[found["metric"] == "auc"].iloc[0]


def test_features_scores_and_intervals_work_unchanged(table, tmp_path, encoder):
    auc = measured(written(table, tmp_path), encoder, tmp_path)
    assert auc["ci_low"] <= auc["value"] <= auc["ci_high"] and auc["n"] == 4


@pytest.mark.parametrize(
    ("folder", "opener"), [("chestxray14-mini", open_chestxray14), ("rsna-mini", open_rsna)]
)
def test_real_films_in_an_own_table_are_those_of_their_own_layout(
    folder, opener, tmp_path, encoder
):
    """The table lies beside links to the samples' films, under names of its own."""
    places = (parent / "shared" / "data" / folder for parent in Path(__file__).resolve().parents)
    root = next(filter(Path.is_dir, places), None)
    if root is None:
        pytest.skip(f"no shared/data/{folder} beside the project")
    official = opener(root, "test", allow_partial=True).sample(60)
    names = [f"{k}{Path(path).suffix}" for k, path in enumerate(official.records["path"])]
    for name, path in zip(names, official.records["path"], strict=True):
        (tmp_path / name).symlink_to(path)
    table = official.records[list(official.concepts)].astype("Int64")
    table.insert(0, "image", names)
    table.insert(1, "patient", official.records["patient_id"])
    own = read_films(written(table.assign(split="test"), tmp_path))
    assert own.concepts == official.concepts and len(own) == len(official)
    for column in ("patient_id", *own.concepts):
        np.testing.assert_array_equal(own.records[column], official.records[column])
    for k in range(3):
        np.testing.assert_array_equal(own.pixels(k), official.pixels(k))
    hashed = table.assign(patient="own-" + table["patient"].astype(str))  # RSNA's split is the hash
    auc = measured(written(hashed, tmp_path, "hashed.csv"), encoder, tmp_path)
    assert 0 <= auc["ci_low"] <= auc["value"] <= auc["ci_high"] <= 1 and 30 < auc["n"] < 60


# --- reports


def test_reports_become_triplets_and_are_split_for_training_and_validation(reports, tmp_path):
    found = read_reports(written(reports, tmp_path))
    assert [each.split for each in found][::2] == ["train", "validate", "test"]
    assert found[0].text == "Small left pleural effusion, no edema. Cardiomegaly 0."
    assert (found[3].report_id, found[3].patient_id) == ("r3", "01")
    triplets = triplets_frame(SpacyExtractor().extract(found[:1]))
    assert set(zip(triplets["concept"], triplets["positive"], strict=True)) == {
        ("Pleural Effusion", "present"), ("Edema", "absent"), ("Cardiomegaly", "present"),
    }  # fmt: skip

    many = pd.concat([reports] * 10, ignore_index=True).drop(columns="split")
    names = [f"{k}" for k in range(60)]
    found = read_reports(written(many.assign(report=names, patient=names), tmp_path))
    assert {each.split for each in found} == {"train", "validate"}  # where no split is given


# --- a folder of films, a new concept


@pytest.fixture(scope="module")
def prompts(encoder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_stand_in(encoder, folder / "encoder.safetensors")
    generator = torch.Generator().manual_seed(1)
    report, concept = (torch.randn(2, encoder.context_width, generator=generator) for _ in "ab")
    metadata = {
        "encoder_file": "encoder.safetensors", "text_key": encoder.text_key, "key": "k1",
        "profile": "smoke", "seed": "0", "variant": "rc-tpl-plus",
    }  # fmt: skip
    return Prompts(report, concept, metadata).with_concepts(NEW).save(folder / "p.safetensors")


def test_a_folder_becomes_a_table_and_a_page_each(prompts, tmp_path, capsys):
    films_table(tmp_path, 4)
    folder, out = tmp_path / "films", tmp_path / "pages"
    (folder / "3.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no film")
    asked = ["--concepts", "Edema", "Heart Failure", "--prompts", str(prompts)]
    assert main([str(folder), "--output", str(out), "--format", "png", *asked]) == 0
    assert capsys.readouterr().out.endswith("wrote scores.csv and the pages of 4 of 5 pictures\n")
    scores = pd.read_csv(out / "scores.csv", keep_default_na=False).set_index("image")
    assert list(scores.columns[-2:]) == ["Edema", "Heart Failure"]
    assert "not a readable image" in scores["problem"]["3.jpg"]
    sound = scores.drop(index="3.jpg")
    assert (sound["problem"] == "").all() and (sound["domain"] == "not measured").all()
    assert sorted(path.stem for path in out.glob("*.json")) == ["0", "1", "2", "3.png"]
    record = json.loads((out / "0.json").read_text(encoding="utf-8"))
    of = {each["concept"]: each for each in record["findings"]}
    assert of["Heart Failure"]["sentence"] == "Heart Failure refers to a heart that fails."
    score = float(sound["Heart Failure"]["0.png"])
    assert of["Heart Failure"]["score"] == pytest.approx(score, abs=1e-6)


@pytest.mark.usefixtures("table")
def test_a_request_for_a_folder_is_refused_as_a_whole(prompts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for request, message in (
        ("films --output films/pages", "the pages would lie among the pictures"),
        ("films --output out --concepts Happiness", "'Happiness' is no concept"),
        ("empty --output out", "no picture there"),
    ):
        assert main([*request.split(), "--prompts", str(prompts)]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_new_concept_is_asked_for_by_its_looks(prompts, encoder):
    taught = Prompts.load(prompts)
    known = taught.embed(encoder, ["Edema", "Heart Failure"])
    looks = encoder.encode_prompts(taught.concept, NEW["Heart Failure"]["attributes"]).mean(dim=0)
    torch.testing.assert_close(known.concept[1], torch.nn.functional.normalize(looks, dim=0))
    film = np.random.default_rng(0).random((50, 40))
    model = RCTPL(encoder, taught)
    assert model.ground([film], "Heart Failure").shape[0] == 1
    assert explain(model, film, concepts=["Heart Failure"]).findings[0].grade == "not calibrated"


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"Edema": NEW["Heart Failure"]}, "'Edema' is a concept already"),
        ({"Croup": {"text": "a narrow airway", "attributes": []}}, "no knowledge about 'Croup'"),
        ({"Croup": {"attributes": ["steeple sign"]}}, "no knowledge about 'Croup'"),
    ],
)
def test_knowledge_that_is_none_is_refused(records, message, prompts):
    with pytest.raises(InputError, match=message):
        Prompts.load(prompts).with_concepts(records)


# --- the notebook's encoder


def test_the_notebooks_encoder_keeps_the_protocol_in_few_lines(encoder, prompts):
    cells = nbformat.read(NOTEBOOKS / "12_your_own_data.ipynb", as_version=4).cells
    source = next(cell.source for cell in cells if "class Translated" in cell.source)
    assert len([line for line in source.splitlines() if line.strip()]) <= 45
    scope: dict = {}
    exec(source, scope)
    texts = [f"{side} {concept}" for side in ("left", "right", "mild", "no", "old", "large", "new")
             for concept in CONCEPTS]  # fmt: skip
    own = scope["Translated"](encoder, encoder, texts)
    members = {*get_type_hints(Encoder, localns={"TextTower": object}), "encode_text"}
    for name in (*members, "encode_prompts", "preprocess", "encode_image"):
        assert hasattr(own, name), name
    film = np.random.default_rng(0).random((60, 60)).astype(np.float32)
    features = own.encode_image(own.preprocess(film)[None])
    assert features.global_features.shape == (1, own.dimension)
    torch.testing.assert_close(features.dense_features.norm(dim=-1), torch.ones(1, 8, 8))
    learned = Prompts.load(prompts)
    ours, theirs = (RCTPL(e, learned).classify([film], ["Edema", "Mass"]) for e in (own, encoder))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert own.image_key != encoder.image_key
