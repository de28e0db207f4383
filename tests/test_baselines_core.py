"""What all baselines share: frozen features, material, views, the loop, the files it leaves."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import toy_baselines as toy
from safetensors.torch import load_file
from torch.nn.functional import normalize
from toy_baselines import CONCEPTS, CPU, ToyReader, batch_of, untrained

from rctpl_utils.baselines import miniatures, training
from rctpl_utils.baselines import model as base_model
from rctpl_utils.baselines.contrastive import BioViL, CheXzero, ConVIRT
from rctpl_utils.baselines.model import PatchTransformer, Reader, Setup
from rctpl_utils.baselines.training import cool_down_begins, kept_look, rate_share, validation_auc
from rctpl_utils.baselines.training_data import all_cells, backbone, stated_labels, stated_places
from rctpl_utils.encoders.features import MASKED_SHARE, word_states
from rctpl_utils.encoders.pretraining import store
from rctpl_utils.encoders.release import manifest
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.profiles import BaselineTraining
from rctpl_utils.vocabulary import TRAINING_CONCEPTS

BUDGET = {"views": 64, "look_every": 16, "patience": 3, "cool_down": 32}
QUICK = BaselineTraining(**BUDGET, batch_size=16, rates=(1e-3, 3e-3))
TEXTS = ["left pleural effusion.", "no pneumothorax", "heart size is normal. " * 5]
COLUMNS = ["report_id", "concept", "location", "positive"]


@pytest.fixture(scope="module")
def material():
    return toy.toy_material(64)


@pytest.fixture(scope="module")
def setup(material):
    return Setup.of(material, ToyReader())


@pytest.fixture(scope="module")
def given(material, setup):
    return material, setup, toy.toy_validation(40)[0], QUICK


def test_the_encoder_is_the_backbone_and_its_last_two_layers(encoder):
    batch = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    cells = encoder.image.widen(backbone(encoder, batch).permute(0, 3, 1, 2).float())
    dense = normalize(encoder.image.projection(cells.permute(0, 2, 3, 1)), dim=-1)
    # bfloat16 where the processor has it
    assert torch.allclose(dense, encoder.encode_image(batch).dense_features, atol=2e-2)


def test_word_states_are_the_towers_own_whatever_the_batch(encoder, tmp_path, monkeypatch):
    """Means are those of each text alone, in the order asked for."""
    file, hidden = word_states(encoder.text, TEXTS, tmp_path)
    assert not hidden.any()
    for row, text in enumerate(TEXTS):
        words = file.batch(np.array([row]), CPU)
        with torch.no_grad():
            alone = encoder.text.pooled([text])
        # read in bfloat16 where the processor has it, kept in half precision
        assert torch.allclose(words.pooled(), alone, atol=2e-2)
        assert torch.cosine_similarity(words.pooled(), alone).item() > 0.9995
        assert words.ids[0].tolist() == encoder.text.tokenize([text])["input_ids"][0].tolist()
    both = file.batch(np.array([1, 2]), CPU)
    assert both.seen.sum(dim=1).tolist() == file.lengths[[1, 2]].tolist()
    read = Reader(encoder.text).words(TEXTS[:1])
    assert torch.allclose(read.pooled(), file.batch(np.array([0]), CPU).pooled(), atol=2e-2)
    monkeypatch.setattr("rctpl_utils.encoders.features.TEXT_BATCH", 2)  # of three texts
    found = file.means(np.array([2, 0, 1]))
    assert found.dtype == np.float32
    for row, mean in zip((2, 0, 1), found, strict=True):
        length = file.lengths[row]
        literal = np.asarray(file.states[row, :length], np.float64).sum(axis=0) / length
        assert mean == pytest.approx(literal, abs=1e-5)


def test_word_states_do_not_depend_on_the_projection(encoder, tmp_path):
    file, _ = word_states(encoder.text, TEXTS, tmp_path)
    names = set(tmp_path.iterdir())
    other = StandIn(64)  # the same MiniLM, another projection
    assert other.text.key != encoder.text.key
    again, _ = word_states(other.text, TEXTS, tmp_path)
    assert set(tmp_path.iterdir()) == names and np.array_equal(again.states, file.states)
    with torch.no_grad():
        other.text.bert.embeddings.LayerNorm.bias += 1
    word_states(other.text, TEXTS, tmp_path)
    assert set(tmp_path.iterdir()) > names


def test_hidden_words_are_a_share_of_real_words_and_unknown_to_their_states(encoder, tmp_path):
    texts = [f"the {word} is clear and the heart is normal in size" for word in ("lung", "bone")]
    file, hidden = word_states(encoder.text, texts * 200, tmp_path, masked_by=0)
    special = np.isin(file.ids, [101, 102, 0])  # [CLS], [SEP], padding in BERT's vocabulary
    assert not (hidden & special).any()
    assert hidden.sum() / (~special).sum() == pytest.approx(MASKED_SHARE, abs=0.04)
    rows = np.flatnonzero(hidden[:, 2] & (hidden.sum(axis=1) == 1))  # the second word alone
    lung, bone = (next(row for row in rows if row % 2 == kind) for kind in (0, 1))
    states = file.batch(np.array([lung, bone]), CPU).states
    assert torch.allclose(states[0], states[1], atol=2e-3)


def test_a_view_is_one_cell_of_every_block(material):
    batch = batch_of(material, 5)
    places = batch.places.numpy()
    assert ((places // 4 // 2) * 2 + places % 4 // 2 == np.arange(4)).all()
    flat = material.maps.reshape(64, 16, -1)
    assert (batch.cells.numpy() == flat[np.arange(5)[:, None], places]).all()
    cells, numbers = all_cells(torch.from_numpy(material.maps[:5]))
    assert cells.shape == (5, 16, 8) and numbers[0].tolist() == list(range(16))


def test_a_batch_counts_the_tokens_that_are_read_from_it(material):
    batch, lengths = batch_of(material), material.words.lengths
    assert batch.words(np.array([0, 1])).ids.shape[0] == 2
    batch.words(np.array([1]))
    hidden = batch.words(np.array([2]), masked=True)
    assert hidden.states[0, 1].abs().max() == 0
    assert sum(batch.tokens) == lengths[0] + 2 * lengths[1] + material.masked.lengths[2]


def test_what_is_not_mentioned_is_not_stated():
    said = ["a Edema present", "a Pneumothorax absent", "a Mass uncertain", "b Edema absent"]
    said += ["b Edema present", "z Mass absent"]
    columns = ["report_id", "concept", "positive"]
    triplets = pd.DataFrame([each.split() for each in said], columns=columns)
    found = pd.DataFrame(stated_labels(triplets, ["a", "b"]), ["a", "b"], TRAINING_CONCEPTS)
    assert found.loc["a", ["Edema", "Lung Opacity", "Pneumothorax"]].tolist() == [1, 1, 0]
    assert np.isnan(found.loc["a", ["Mass", "Hernia"]]).all()
    assert found.loc["b", "Edema"] == 1 and np.isnan(found.loc["b", "Pneumothorax"])


def test_places_are_those_that_reports_name_often_enough():
    rows = [(f"r{i}", "Edema", "left base", "present") for i in range(5)]
    rows += [("r0", "Mass", "right apex", "present"), ("r1", "Mass", "left base", "absent")]
    triplets = pd.DataFrame(rows, columns=COLUMNS)
    positions, names = stated_places(triplets, [f"r{i}" for i in range(6)])
    assert names == ("left base",)
    edema, mass = (TRAINING_CONCEPTS.index(name) for name in ("Edema", "Mass"))
    assert positions[:, edema, 0].tolist() == [True] * 5 + [False]
    assert not positions[:, mass].any()


def test_the_transformer_knows_where_a_cell_was(material, setup):
    tower = untrained(PatchTransformer, setup)
    cells, places = all_cells(torch.from_numpy(material.maps[:2]))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    plain, shuffled = tower(cells, places), tower(cells[:, order], places[:, order])
    assert torch.allclose(plain[:, 0], shuffled[:, 0], atol=1e-5)  # cell and place move together
    moved = tower(cells[:, order], places)
    assert not torch.allclose(plain[:, 0], moved[:, 0], atol=1e-3)


@torch.no_grad()
def test_a_transformer_sees_a_whole_film_as_four_views(material, setup):
    model = untrained(CheXzero, setup)
    films = torch.from_numpy(material.maps[:3])  # (3, 4, 4, 8)
    whole, local = model.film_vectors(films)
    for film, vector, cells in zip(films, whole, local, strict=True):
        seen = []
        for down, across in np.ndindex(2, 2):
            part = film[down::2, across::2].reshape(1, 4, -1)
            rows = [4 * (down + 2 * r) + across + 2 * c for r in (0, 1) for c in (0, 1)]
            image, inside = model.image_vectors(part.float(), torch.tensor([rows]))
            seen.append(image[0])
            assert torch.allclose(inside[0], cells[rows], atol=1e-5)
        assert torch.allclose(vector, normalize(sum(seen), dim=-1), atol=1e-5)


@torch.no_grad()
def test_class_vectors_average_the_phrases(setup, monkeypatch):
    model = ConVIRT(setup)
    monkeypatch.setattr(base_model, "PHRASES", ("{}", "there is {}"))
    one, two = (model.text_vectors(model.read([each]))[0] for each in ("edema", "there is edema"))
    assert torch.allclose(model.class_vectors(["Edema"])[0], normalize(one + two, dim=-1))


def looks(*values: float, every: int = 16) -> list[dict[str, float]]:
    return [{"views": (k + 1) * every, "auc": value} for k, value in enumerate(values)]


def test_the_rate_falls_from_the_plateau_or_limit_and_an_overfitted_model_gives_way():
    settings = replace(QUICK, views=96, patience=2, tolerance=0.01)
    assert cool_down_begins(looks(0.5, 0.6, 0.605), settings) == np.inf  # one stale look
    assert cool_down_begins(looks(0.5, 0.6, 0.605, 0.609, 0.9), settings) == 64
    assert cool_down_begins(looks(0.5, 0.6, 0.7, 0.8, 0.9, 0.95), settings) == 96
    settings = replace(QUICK, views=96, patience=2, batch_size=4)
    assert [rate_share(v, [], settings) for v in (0, 4, 12, 40)] == [0.25, 0.5, 1, 1]
    over = looks(0.5, 0.5, 0.5)
    assert [rate_share(v, over, settings) for v in (48, 64, 76)] == [1, 0.5, 0.125]
    assert rate_share(80, looks(0.5, 0.5, 0.5, 0.5), settings) == 0
    assert rate_share(80, looks(0.5, 0.5, 0.5, 0.5, 0.5), settings) is None
    settings = replace(QUICK, overfit=0.05)
    assert kept_look(looks(0.5, 0.7, 0.66), settings) == 2
    assert kept_look(looks(0.5, 0.7, 0.64), settings) == 1


def test_a_killed_training_goes_on_and_ends_as_an_undisturbed_one(given, tmp_path, monkeypatch):
    undisturbed = training.train(ConVIRT, *given, 1e-3, 0, CPU)
    assert undisturbed.history[-1]["views"] <= QUICK.views + QUICK.cool_down
    monkeypatch.setattr("rctpl_utils.encoders.pretraining.CHECKPOINT_SECONDS", -1.0)
    part = tmp_path / "part"

    def killed(checkpoint, state):
        store(checkpoint, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("rctpl_utils.encoders.pretraining.store", killed)
        with pytest.raises(KeyboardInterrupt):
            training.train(ConVIRT, *given, 1e-3, 0, CPU, part)
    resumed = training.train(ConVIRT, *given, 1e-3, 0, CPU, part)
    for one, other in zip(undisturbed.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(undisturbed.history, resumed.history, strict=True):
        assert (one["auc"], one["tokens"]) == (other["auc"], other["tokens"])
    assert not list(tmp_path.iterdir())


def test_validation_does_not_depend_on_the_part_it_is_made_in(given, setup, monkeypatch):
    model, validation = untrained(ConVIRT, setup), given[2]
    whole = validation_auc(model, validation, CPU)
    monkeypatch.setattr(training, "SCORED", 7)
    assert validation_auc(model, validation, CPU) == pytest.approx(whole, abs=1e-5)


def test_the_first_seed_tries_every_rate_and_others_take_its_best(given, tmp_path, monkeypatch):
    """A file holds what inference needs, is verified, and is made once."""
    material, _, validation, settings = given
    tried, whole = [], training.train(BioViL, *given, 1e-3, 0, CPU)

    def trained(make, *rest):
        rate, seed = rest[4:6]
        tried.append((seed, rate))
        auc = {"auc": 0.7 if rate == 3e-3 else 0.6}
        return whole._replace(history=[row | auc for row in whole.history])

    labels = pd.DataFrame(validation.labels, columns=CONCEPTS)
    held_out = SimpleNamespace(records=labels, concepts=CONCEPTS)
    monkeypatch.setattr(miniatures, "MINIATURES", (BioViL,))
    made = {"Reader": ToyReader(), "build_material": material, "open_split": held_out}
    for name, value in {**made, "backbone_maps": validation.maps}.items():
        monkeypatch.setattr(miniatures, name, lambda *_, value=value: value)
    monkeypatch.setattr(training, "train", trained)
    encoder = SimpleNamespace(text=None, context_width=toy.WIDTH, device=CPU)
    profile = SimpleNamespace(baselines=settings, weights="self", seeds=(4, 5))
    folders = {"features": None, "build": tmp_path, "weights": tmp_path}
    workspace = SimpleNamespace(profile=profile, device=CPU, **folders)
    run = miniatures.train_miniatures(workspace, [encoder] * 2, [], None)["BioViL"]
    assert tried == [(4, 1e-3), (4, 3e-3), (5, 3e-3)]
    assert run["rate"] == 3e-3 and run["kept"] == [0.7, 0.7]
    rates = [{"learning_rate": 1e-3, "auc": 0.6}, {"learning_rate": 3e-3, "auc": 0.7}]
    assert run["rates"] == rates
    assert {row["seed"] for row in run["history"]} == {4, 5}
    assert miniatures.train_miniatures(workspace, [encoder] * 2, [], None)["BioViL"] == run
    assert len(tried) == 3 and "rates" not in manifest(tmp_path)["files"]["biovil-5.safetensors"]
    loaded = miniatures.load_miniature(BioViL, encoder, 5, tmp_path)
    films = torch.from_numpy(validation.maps[:4])
    found, expected = (each.classify(films, CONCEPTS) for each in (loaded, whole.model))
    assert torch.allclose(found, expected, atol=2e-3)  # matrices in half precision
    stored = load_file(tmp_path / "biovil-5.safetensors")
    assert "logit_scale" in stored and not any(name.startswith("guess") for name in stored)
