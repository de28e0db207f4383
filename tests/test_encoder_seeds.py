"""Seed k stands on encoder k: class embeddings, maps, vectors and prompts meet their own films."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy_films import feature_file, radiographs

from rctpl_utils.baselines.prompt_learners import token_features
from rctpl_utils.baselines.registry import Competitor, scorers
from rctpl_utils.encoders.base import per_encoder
from rctpl_utils.encoders.features import ImageFeatureFile, text_features
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.evaluation import grounding, retrieval, table1
from rctpl_utils.evaluation.ablations import Trial
from rctpl_utils.evaluation.grounding import dense_similarity, table_grounders
from rctpl_utils.evaluation.table1 import by_encoder, score_runs
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.prompts.training import Learned
from rctpl_utils.prompts.variants import UNTRAINED, VARIANTS, learn_all, table1_methods
from rctpl_utils.prompts.zero_shot import Method
from rctpl_utils.scoring import ClassEmbeddings
from rctpl_utils.vocabulary import TRAINING_CONCEPTS

TEXTS = ["edema", "a much longer text about the pleura and the lungs", "mass"]


class Numbered:
    """An encoder by its number; hashable by identity, with features of its own."""

    device, dimension = torch.device("cpu"), 4

    def __init__(self, number: int) -> None:
        self.name, self.text_key, self.image_key = (f"{k}{number}" for k in ("e", "text", "image"))
        self.cell = number


def films_of(encoder, *_) -> ImageFeatureFile:
    """Three films that point along the axis of their encoder's number, in the cell of it."""
    axis = np.eye(4)[encoder.cell]
    dense = np.tile(np.outer(axis, axis).reshape(2, 2, 4), (3, 1, 1, 1))
    return feature_file(np.tile(axis, (3, 1)), dense)


def along(axis: int):
    vectors = torch.eye(4)[[axis]]
    return lambda concepts: ClassEmbeddings(*(vectors.expand(len(concepts), 4),) * 2)


FIXED, RUNS = along(0), tuple(along(k) for k in range(3))
NO_FILES = SimpleNamespace(features=None)  # as much of a workspace as is asked for


@pytest.fixture
def encoders():
    return tuple(Numbered(number) for number in range(3))


def test_run_k_belongs_to_encoder_k_and_a_single_run_to_the_first(encoders):
    methods = [Method("fixed", (FIXED,)), Method("runs", RUNS), Method("branch", RUNS, "report")]
    found = by_encoder(encoders, methods)
    assert list(found.values()) == [[FIXED, RUNS[0]], [RUNS[1]], [RUNS[2]]]
    shared = by_encoder(encoders[:1] * 3, methods)  # a checkpoint serves all seeds
    assert shared == {encoders[0]: [FIXED, *RUNS]}
    with pytest.raises(ValueError, match="3 runs, but 2 encoders"):
        by_encoder(encoders[:2], methods)
    asked = []  # what is made of a shared encoder is made once
    made = per_encoder((*encoders, encoders[0]), lambda each: asked.append(each) or len(asked))
    assert made == (1, 2, 3, 1) and asked == list(encoders)


def test_each_run_is_scored_on_its_own_encoders_films_opened_once(encoders, monkeypatch):
    right, wrong = (tuple(along((k + shift) % 3) for k in range(3)) for shift in (0, 1))
    methods = [Method("right", right), Method("wrong", wrong)]
    found = score_runs(encoders, films_of, methods, lambda each: each(("Edema",)))
    assert all((found[each].report == 1).all() for each in right)
    assert all((found[each].report == 0).all() for each in wrong)
    opened = []
    monkeypatch.setattr(table1, "image_features", lambda encoder, *_: opened.append(encoder))
    films = table1.film_features(NO_FILES, squares())
    for encoder in (*encoders, *encoders):
        films(encoder)
    assert opened == list(encoders)


def squares(cell: int = 0):
    """Three films; the lesion of all is the given quarter."""
    quarter = np.kron(np.arange(4).reshape(2, 2) == cell, np.ones((8, 8), bool))
    films = radiographs({"COVID-19": [1.0] * 3}, "covid-rural")
    films.annotated = lambda concept: np.ones(3, bool)
    films.mask = lambda index, concept: quarter
    return films


def test_maps_and_pointing_of_a_run_are_those_of_its_encoder(encoders, monkeypatch):
    monkeypatch.setattr(grounding, "image_features", films_of)
    makers = tuple(map(dense_similarity, RUNS))
    rows = [grounding.Grounder("runs", makers), grounding.Grounder("fixed", makers[:1])]
    found = grounding.measure(NO_FILES, encoders, squares(1), "COVID-19", rows)
    assert [run.hits.mean() for run in found["runs"]] == [0, 1, 0]
    assert len(found["fixed"]) == 1
    trials = [Trial(RUNS), Trial((FIXED,))]
    found = grounding.pointing_of_runs(encoders, squares(2), films_of, "COVID-19", trials)
    assert found[0].mean(axis=1).tolist() == [0, 0, 1] and found[1].shape == (1, 3)
    shared = grounding.pointing_of_runs(encoders[:1] * 3, squares(0), films_of, "COVID-19", trials)
    assert shared[0].mean(axis=1).tolist() == [1, 0, 0]  # the others look along empty axes


def test_sides_hold_every_encoders_embeddings(encoders, monkeypatch):
    names = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
    labels = {name: [float(name == "Edema")] * 3 for name in names}
    dataset = radiographs(labels, patients=["p"] * 3)
    monkeypatch.setattr(retrieval, "open_split", lambda *_: dataset)
    monkeypatch.setattr(table1, "image_features", films_of)
    methods = [Method("runs", RUNS)]
    side = retrieval.image_side(NO_FILES, encoders, methods, retrieval.embed_classes(methods))
    assert [each.argmax(axis=1).tolist() for each in side.embeddings] == [[0] * 3, [1] * 3, [2] * 3]
    assert len(side.scores["runs"]) == 3 and len(side.take(np.array([1])).embeddings[2]) == 1


def test_model_k_reads_the_films_of_encoder_k():
    def reader(number):
        return lambda dataset: lambda rows: torch.full((len(rows), 1), float(number))

    model = SimpleNamespace(classify=lambda films, concepts: films)
    competitor = Competitor("m", (model, model), (reader(5), reader(6)))
    dataset = radiographs({"Edema": [1.0] * 3})
    for scorer, number in zip(scorers([competitor])["m"], (5, 6), strict=True):
        assert (scorer(dataset, ("Edema",)) == number).all()


# texts are read once for all stand-ins


@pytest.fixture(scope="module")
def standins(encoder):
    """Two stand-ins with one MiniLM and projections of their own."""
    other = StandIn(encoder.image_size).eval().requires_grad_(False)
    other.text.projection.weight.normal_(generator=torch.Generator().manual_seed(7))
    return encoder, other


def test_standins_share_what_minilm_read(standins, tmp_path, monkeypatch):
    first, second = standins
    found = text_features(first, TEXTS, tmp_path)
    monkeypatch.setattr(type(first.text), "pooled", None)  # no text is read again
    other = text_features(second, TEXTS, tmp_path)
    monkeypatch.undo()
    assert len(list(tmp_path.glob("pooled-*.npy"))) == 1
    assert np.allclose(found, first.encode_text(TEXTS), atol=1e-5)
    assert np.allclose(other, second.encode_text(TEXTS), atol=1e-5)
    assert not np.allclose(found, other, atol=1e-2)
    key = first.pooled_key
    monkeypatch.setattr(first.text, "pooling", "cls")  # is read anew
    assert first.pooled_key != key


def test_tokens_of_two_standins_are_those_of_each_alone(standins, tmp_path):
    together = token_features(standins, TEXTS, tmp_path / "both")
    for each in standins:
        states, counts = token_features((each,), TEXTS, tmp_path / each.text_key[:8])[each]
        assert np.allclose(together[each][0], states, atol=2e-3)  # float16
        assert np.array_equal(together[each][1], counts)


# prompts


def test_seed_k_learns_on_encoder_k(encoders, tmp_path):
    profile = SimpleNamespace(name="toy", seeds=(4, 5, 6), prompts=None, encoder="standin")
    workspace = SimpleNamespace(
        profile=profile, prompts=tmp_path, encoder=lambda seed: tmp_path / f"{seed}.safetensors"
    )
    corpora = [SimpleNamespace(key=f"corpus{k}") for k in range(3)]
    seen = []

    def learner(encoder, corpus, seed):
        seen.append((encoder.name, corpus.key, seed))
        return Learned(torch.zeros(2, 3), torch.zeros(2, 3), [{"epoch": 1, "seconds": 0.0}])

    found, curves = learn_all(workspace, encoders, "rc-tpl", corpora, learner, "key")
    assert seen == [("e0", "corpus0", 4), ("e1", "corpus1", 5), ("e2", "corpus2", 6)]
    assert found[5].metadata["text_key"] == "text1"
    assert found[5].metadata["encoder_file"] == "5.safetensors"
    assert curves["seed"].tolist() == [4, 5, 6]
    learn_all(workspace, encoders, "rc-tpl", corpora, learner, "key")
    assert len(seen) == 3
    changed = (encoders[0], Numbered(9), encoders[2])  # another stand-in, of one seed
    learn_all(workspace, changed, "rc-tpl", corpora, learner, "key")
    assert seen[3:] == [("e9", "corpus1", 5)]


def test_rows_have_a_run_an_encoder_and_untrained_contexts_are_the_drawn_ones(standins):
    seeds, drawn = (3, 4), {}
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        drawn[seed] = [torch.randn(2, 384, generator=generator) * 0.02 for _ in "rc"]
    learned = {seed: Prompts(torch.ones(2, 384), torch.ones(2, 384), {}) for seed in seeds}
    prompts = dict.fromkeys(VARIANTS, learned)
    rows = {each.name: each for each in table1_methods(standins, prompts)}
    assert {len(each.embedders) for each in rows.values()} == {2}
    for k, seed in enumerate(seeds):
        found = rows[UNTRAINED].embedders[k](TRAINING_CONCEPTS[:2])
        expected = Prompts(*drawn[seed], {}).embed(standins[k], TRAINING_CONCEPTS[:2])
        assert torch.allclose(found.report, expected.report, atol=1e-6)
        assert torch.allclose(found.concept, expected.concept, atol=1e-6)
    one = {each.name: each for each in table1_methods(standins[:1] * 2, prompts)}
    assert len(one["class names"].embedders) == 1 and len(one["RC-TPL"].embedders) == 2
    grounders = {each.name: each for each in table_grounders(rows.values(), np.ones((4, 4)), seeds)}
    assert len(grounders["RC-TPL, Grad-CAM"].makers) == len(grounders[UNTRAINED].makers) == 2
