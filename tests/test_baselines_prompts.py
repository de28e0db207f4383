"""TaI-DPT, CoOp, CoCoOp, DualCoOp: losses against literal versions, learning, state, extensions."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertModel

from rctpl_utils.baselines import learners, prompt_learners
from rctpl_utils.baselines.learners import CoCoOp, CoOp, DualCoOp, TaIDPT
from rctpl_utils.baselines.prompt_learners import token_features
from rctpl_utils.datasets.chexpert import COMPETITION
from rctpl_utils.encoders.base import ImageFeatures, freeze
from rctpl_utils.encoders.features import ImageFeatureFile
from rctpl_utils.encoders.text_tower import TextTower
from rctpl_utils.errors import InputError
from rctpl_utils.profiles import PromptLearnerTraining
from rctpl_utils.prompts.encode import build_corpus
from rctpl_utils.text.reports import Report

CONCEPTS = ("Edema", "Pneumothorax")
NAMES = ["edema", "pneumothorax"]  # as prompts have them
CPU = torch.device("cpu")
WIDTH = 64  # d, and W
ON_FILMS = (CoOp, CoCoOp, DualCoOp)
LIMITS = PromptLearnerTraining(steps=40, every=40, patience=3)
WET = ["Both lungs are wet.", "The lungs are congested and full of fluid on both sides."]
AIR = ["Air in the pleural space.", "The lung has come off the wall of the chest."]
SAID = [*WET, *AIR, "All is well.", WET[0]]  # by reports; the last text comes twice
REPORTS = [Report(f"s{k}", f"p{k}", text, "", "train") for k, text in enumerate(SAID)]
FOUND = [(f"s{k}", CONCEPTS[k in (2, 3)], None, "present") for k in (0, 1, 2, 3, 5)]
OTHERS = [("s4", "Edema", None, "absent"), ("s3", "Edema", None, "uncertain")]
COLUMNS = ["report_id", "concept", "location", "positive"]
TRIPLETS = pd.DataFrame(FOUND + OTHERS, columns=COLUMNS)


@pytest.fixture(scope="module")
def tiny(encoder):
    """A text tower of two random layers: what the learners use of an encoder, and fast."""
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "initializer_range": 0.2}
    config = BertConfig(num_hidden_layers=2, num_attention_heads=2, **sizes)
    bert = BertModel(config, add_pooling_layer=False)
    projection = nn.Linear(WIDTH, WIDTH, bias=False)
    text = freeze(TextTower(bert, encoder.text.tokenizer, projection))

    class Tiny(SimpleNamespace):
        __hash__ = object.__hash__

    return Tiny(
        text=text, dimension=WIDTH, context_width=WIDTH, device=CPU, text_key="tiny",
        logit_scale=torch.tensor(10.0).log(), encode_text=torch.no_grad()(text),
        encode_prompts=text.prompt,
    )  # fmt: skip


def random_labels(count, classes, generator):
    labels = torch.randint(0, 2, (count, classes), generator=generator).float()
    labels[torch.rand(count, classes, generator=generator) < 0.2] = math.nan
    return labels


def toy_films(seed, count=64, width=WIDTH):
    """Films with one of two findings in one of four cells, in directions unknown to the encoder."""
    kinds = torch.randn(2, width, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(seed)
    labels = np.eye(2, dtype=np.float32)[np.arange(count) % 2]
    dense = 0.3 * torch.randn(count, 2, 2, width, generator=generator) / width**0.5
    dense[:, 0, 0] += torch.from_numpy(labels) @ functional.normalize(kinds, dim=-1)
    dense = functional.normalize(dense, dim=-1)
    whole = functional.normalize(dense.mean(dim=(1, 2)), dim=-1)
    features = ImageFeatureFile(whole.numpy(), dense.half().numpy())
    return prompt_learners.LabeledFilms(features, labels)


def everything(films):
    return films.batch(np.arange(len(films)), CPU)


@pytest.fixture(scope="module")
def unseen():
    """Features of films that no model learned from."""
    return everything(toy_films(1))[0]


def right(model, films):
    """The share of films whose finding is the likelier of the two."""
    scores = model.classify(films, CONCEPTS)
    return (scores.argmax(dim=1) == torch.arange(len(scores)) % 2).float().mean()


class Judge:
    """Tells the values that it was given, one a look; then ever better ones."""

    def __init__(self, *values):
        self.values, self.states = values, []

    def __call__(self, model):
        assert not model.training
        self.states.append({name: value.clone() for name, value in model.state().items()})
        looks = len(self.states)
        return self.values[looks - 1] if looks <= len(self.values) else float(looks)


def learn_on(encoder, kind, data, size=64, rate=3e-2, seed=0, limits=LIMITS, judge=None):
    """A model that has learned to its end, and its history."""
    model = kind(encoder, seed, CONCEPTS, None if kind is TaIDPT else 32)
    model.batch_size, model.learning_rate = size, rate
    return model, prompt_learners.learn(model, data, limits, seed, judge or Judge())


@pytest.fixture(scope="module")
def learned(tiny):
    """Each learner on films: model, history."""
    films = toy_films(0)
    return {kind: learn_on(tiny, kind, films) for kind in ON_FILMS}


@pytest.fixture(scope="module")
def corpus(tiny, tmp_path_factory):
    given = REPORTS, TRIPLETS, CONCEPTS, tmp_path_factory.mktemp("tokens")
    return prompt_learners.token_corpora((tiny,), *given)[0]


@torch.no_grad()
def own_tokens(tower, text):
    """A text's token features, read alone, so without padding."""
    hidden = tower.bert(**tower.tokenize([text])).last_hidden_state[0]
    return functional.normalize(tower.projection(hidden), dim=-1)


def test_the_cross_entropy_over_names_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 5, generator=generator)
    labels = random_labels(12, 5, generator)
    labels[3] = 0  # no finding: no target
    labels[4] = math.nan
    terms = []
    for logit, label in zip(logits.numpy(), labels.numpy(), strict=True):
        total = np.exp(logit[~np.isnan(label)]).sum()
        if (label == 1).any():
            terms.append(-np.log(np.exp(logit[label == 1]) / total).mean())
    assert len(terms) < 11
    loss = learners.names_cross_entropy(logits, labels).item()
    assert loss == pytest.approx(np.mean(terms), rel=1e-5)
    target = torch.arange(12) % 5  # with one present class it is CoOp's own
    own = functional.cross_entropy(logits, target)
    assert torch.allclose(learners.names_cross_entropy(logits, torch.eye(5)[target]), own)
    logits.requires_grad_()  # films without a target leave a loss of zero, with a gradient
    loss = learners.names_cross_entropy(logits[:2], torch.tensor([[0] * 5, [math.nan] * 5]))
    loss.backward()
    assert loss == 0 and torch.equal(logits.grad, torch.zeros(12, 5))


def test_the_asymmetric_loss_is_its_formula_and_its_focus_has_no_gradient():
    """d/dz of -w log p with w = 1 - p held fixed is -(1 - p)^2."""
    generator = torch.Generator().manual_seed(2)
    logits = 4 * torch.randn(10, 6, generator=generator)
    labels = random_labels(10, 6, generator)
    total = 0.0
    for logit, label in zip(logits.flatten().tolist(), labels.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        if label == 1:
            total -= (1 - p) ** 1 * math.log(p)
        elif label == 0:
            shifted = max(p - 0.05, 0)
            total -= shifted**2 * math.log(1 - shifted)
    assert learners.asymmetric_loss(logits, labels).item() == pytest.approx(total / 10, rel=1e-4)
    logit = torch.tensor([[0.3]], requires_grad=True)
    learners.asymmetric_loss(logit, torch.ones(1, 1)).backward()
    assert logit.grad.item() == pytest.approx(-((1 - torch.tensor(0.3).sigmoid().item()) ** 2))


def test_tai_dpts_loss_is_its_formula_over_tokens(tiny, corpus):
    """Each caption alone, so without padding; loops over tokens and over pairs of classes."""
    model = TaIDPT(tiny, 0, CONCEPTS)
    whole, local = (each.detach() for each in model.encoded(CONCEPTS))
    labels = {0: [1, 0], 1: [1, 0], 2: [0, 1], 3: [None, 1], 5: [1, 0]}  # 4: no present class
    losses = []
    for number, label in labels.items():
        states, feature = own_tokens(tiny.text, SAID[number]), tiny.encode_text([SAID[number]])[0]
        branches = [[4 * float(feature @ each) for each in whole], []]
        for each in local:
            cosines = np.array([float(state @ each) for state in states])
            weights = np.exp(50 * cosines)
            branches[1].append(4 * float(weights / weights.sum() @ cosines))
        pairs = [(i, 1 - i) for i in (0, 1) if label[i] == 1 and label[1 - i] == 0]
        losses.append(sum(max(0.0, 1 - of[i] + of[j]) for of in branches for i, j in pairs))
    loss = model.loss(corpus.batch(np.arange(5), CPU)).item()
    assert loss == pytest.approx(np.mean(losses), abs=2e-3)  # cached tokens are float16


def test_a_corpus_is_rc_tpls_with_each_texts_tokens_made_once(tiny, corpus, tmp_path, monkeypatch):
    ours = build_corpus(tiny, REPORTS, TRIPLETS, CONCEPTS, tmp_path)
    assert np.array_equal(corpus.labels, ours.labels, equal_nan=True)
    assert np.allclose(corpus.report_features, ours.report_features, atol=1e-6)
    texts = ["mass", *WET, "a " * 100]
    states, counts = token_features((tiny,), texts, tmp_path)[tiny]
    assert states.shape == (4, 77, WIDTH) and states.dtype == np.float16
    for text, found, count in zip(texts, states, counts, strict=True):
        alone = own_tokens(tiny.text, text)
        assert count == len(alone) and not found[count:].any()
        assert np.allclose(found[:count], alone, atol=2e-3)
    assert counts[-1] == 77
    monkeypatch.setattr(TextTower, "tokenize", None)
    again = token_features((tiny,), texts, tmp_path)[tiny]
    assert np.array_equal(states, again[0]) and np.array_equal(counts, again[1])


@pytest.mark.parametrize("kind", [TaIDPT, *ON_FILMS])
def test_gradient_reaches_the_learned_tensors_only(tiny, corpus, kind):
    model = kind(tiny, 0, CONCEPTS)
    batch = corpus.batch(np.arange(5), CPU) if kind is TaIDPT else everything(toy_films(0, 4))
    model.loss(batch).backward()
    learned = dict(model.named_parameters())
    assert learned and all(each.grad.abs().sum() > 0 for each in learned.values())
    assert all(each.grad is None for each in tiny.text.parameters())
    assert set(model.state()) - set(learned) <= {"middle", "reach"}, "the encoder is no part of it"


@pytest.mark.parametrize("kind, contexts", [
    (CoOp, {"context": 16}), (CoCoOp, {"context": 4}), (TaIDPT, {"whole": 16, "local": 16}),
    (DualCoOp, {"positive": 16, "negative": 16}),
])  # fmt: skip
def test_two_contexts_or_one_of_the_published_lengths(tiny, kind, contexts):
    first, again, second = (kind(tiny, seed).state() for seed in (0, 0, 1))
    assert all(first[name].shape == (count, WIDTH) for name, count in contexts.items())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], second[name]) for name in contexts)


@pytest.mark.parametrize("kind", ON_FILMS)
def test_it_learns_survives_a_file_and_scores_films_alone(tiny, learned, unseen, kind, tmp_path):
    model, history = learned[kind]
    beginner = kind(tiny, 0, CONCEPTS)
    beginner.settle(toy_films(0))
    assert right(beginner.eval(), unseen) < 0.75
    assert right(model, unseen) > 0.85
    assert [row["step"] for row in history] == list(range(LIMITS.steps + 1))
    assert history[-1]["loss"] < 0.6 * history[1]["loss"]
    assert model.name.endswith("32 labels a class") and model.published == {"classify"}
    save_file(model.state(), tmp_path / "learned.safetensors")
    copy = kind(tiny, 9, CONCEPTS, 32).load(load_file(tmp_path / "learned.safetensors"))
    assert torch.equal(copy.classify(unseen, CONCEPTS), model.classify(unseen, CONCEPTS))
    assert copy.name == model.name and not copy.training
    alone = model.classify(ImageFeatures(*(each[3:4] for each in unseen)), CONCEPTS)
    assert torch.allclose(alone[0], model.classify(unseen, CONCEPTS)[3], atol=1e-4)


@pytest.mark.parametrize("steps, every, patience, values, looks, end", [
    (40, 2, 3, (0.5, 0.6, 0.7, 0.7, 0.65, 0.6), [0, 2, 4, 6, 8, 10], (10, 4, 0.7, True)),
    (5, 2, 3, (), [0, 2, 4, 5], (5, 5, 4.0, False)),  # meets its limit, on no plateau
    (40, 1, 2, (0.9, 0.8, 0.7), [0, 1, 2], (2, 0, 0.9, True)),  # steps that only harm are undone
])  # fmt: skip
def test_a_run_ends_and_keeps_its_best_state(tiny, steps, every, patience, values, looks, end):
    """Of equal looks the earlier one is the best."""
    limits = PromptLearnerTraining(steps=steps, every=every, patience=patience)
    judge = Judge(*values)
    model, history = learn_on(tiny, CoOp, toy_films(0), limits=limits, judge=judge)
    assert [row["step"] for row in history if "validation_auc" in row] == looks
    ended = dict(zip(("steps", "best_step", "validation_auc", "plateau"), end, strict=True))
    assert prompt_learners.stop(history, limits) == ended and not model.training
    same = [torch.equal(model.context, each["context"]) for each in judge.states]
    assert [looks[k] for k, kept in enumerate(same) if kept] == [ended["best_step"]]


def test_tai_dpt_learns_from_captions_and_sees_films(tiny, corpus, unseen):
    limits = PromptLearnerTraining(steps=30, every=30)
    model, history = learn_on(tiny, TaIDPT, corpus, 8, 1e-2, limits=limits)
    assert history[-1]["loss"] < 0.8 * history[1]["loss"] and model.name == "TaI-DPT"
    texts = ["The lungs are wet on both sides.", "There is air in the pleural space."]
    shown = tiny.encode_text(texts)
    scores = model.classify(ImageFeatures(shown, shown[:, None, None]), CONCEPTS)
    assert (scores.argmax(dim=1) == torch.arange(2)).all(), "paraphrases of the two findings"
    local = model.encoded(["Edema"])[1][0].detach()
    found = model.ground(unseen, "Edema")
    assert found[5, 1, 0] == pytest.approx(float(unseen.dense_features[5, 1, 0] @ local), abs=1e-5)


def test_a_seed_repeats_itself_and_names_say_how_many_labels_were_used(tiny, learned):
    names = [CoOp(tiny, 0, CONCEPTS, shots).name for shots in (None, 1, 16)]
    assert names == ["CoOp", "CoOp, 1 label a class", "CoOp, 16 labels a class"]
    again, history = learn_on(tiny, CoOp, toy_films(0))
    assert torch.equal(again.context, learned[CoOp][0].context)
    assert [r["loss"] for r in history[1:]] == [r["loss"] for r in learned[CoOp][1][1:]]
    other, _ = learn_on(tiny, CoOp, toy_films(0), seed=1)
    assert not torch.equal(other.context, again.context)


def test_tensors_replace_what_was_encoded_but_another_learners_do_not(tiny, learned, unseen):
    with pytest.raises(InputError, match="another prompt learner"):
        CoOp(tiny, 0).load(learned[DualCoOp][0].state())
    model = CoOp(tiny, 0, CONCEPTS).eval()
    before = model.classify(unseen, CONCEPTS)
    assert model.encoded(CONCEPTS)[0] is model.encoded(CONCEPTS)[0], "encoded once"
    after = model.load(learned[CoOp][0].state()).classify(unseen, CONCEPTS)
    assert not torch.allclose(before, after)


def test_coops_scores_are_cosines_and_retrieval_goes_by_them(tiny, learned, unseen):
    model = learned[CoOp][0]
    scores = unseen.global_features @ tiny.encode_prompts(model.context, NAMES).T
    assert torch.allclose(model.classify(unseen, CONCEPTS), scores, atol=1e-5)
    assert learners.logit_scale(tiny) == pytest.approx(10)
    images, texts = model.embed_images(unseen), model.embed_texts(WET)
    assert images.shape == (64, 5) and texts.shape == (2, 5)
    assert torch.equal(images, model.classify(unseen, COMPETITION))
    scores = tiny.encode_text(WET) @ model.encoded(COMPETITION)[0].T
    assert torch.allclose(texts, scores, atol=1e-5)


@torch.no_grad()
def test_cocoop_shifts_every_context_vector_by_the_films_own_bias(tiny, learned, unseen):
    """Parabolas go through their points; a map is the cosine with the film's own embedding."""
    model, features = learned[CoCoOp][0], unseen.global_features[:3]
    with pytest.raises(ValueError, match="after it has learned"):
        CoCoOp(tiny, 0).classify(unseen, CONCEPTS)
    embedded = model.prompted(model.activations(features), NAMES)
    for film, feature in enumerate(features):
        context = model.context + model.expand(torch.relu(model.squeeze(feature)))
        assert torch.allclose(embedded[film], tiny.encode_prompts(context, NAMES), atol=1e-5)
    middle, slope, curvature = model.encoded(CONCEPTS)
    for sign in (-1, 1):
        for unit, step in enumerate(model.reach.diag()):
            exact = model.prompted((model.middle + sign * step)[None], NAMES)[0]
            assert torch.allclose(middle + sign * slope[unit] + curvature[unit], exact, atol=1e-4)
    own = model.conditioned(unseen.global_features, ["Edema"])[5, 0]
    found, cell = model.ground(unseen, "Edema"), unseen.dense_features[5, 1, 0]
    assert found.shape == (64, 2, 2)
    assert found[5, 1, 0] == pytest.approx(float(cell @ own), abs=1e-5)


@torch.no_grad()
def test_cocoops_parabolas_stand_for_the_text_encoder(encoder):
    """MiniLM, films that it did not learn from: errors are small beside what the shift does."""
    films = toy_films(0, width=encoder.dimension)
    limits = PromptLearnerTraining(steps=8, every=8)
    with torch.enable_grad():
        model, _ = learn_on(encoder, CoCoOp, films, 2, 3e-3, limits=limits)
    shown, _ = everything(toy_films(1, 16, encoder.dimension))
    whole = shown.global_features
    own = model.prompted(model.activations(whole), NAMES)
    fixed = model.prompted(model.middle[None], NAMES).expand_as(own)
    exact, unshifted = (torch.einsum("nd,nld->nl", whole, each) for each in (own, fixed))
    found = model.classify(shown, CONCEPTS)
    assert (found - exact).abs().mean() < 0.1 * (unshifted - exact).abs().mean()
    assert np.corrcoef(found.flatten(), exact.flatten())[0, 1] > 0.9999
    assert (found - exact).abs().max() < 5e-3


def test_dualcoops_scores_are_log_odds_and_rank_as_its_probability(tiny, learned, unseen):
    model = learned[DualCoOp][0]
    positive, negative = model.encoded(CONCEPTS)
    cells = unseen.dense_features.flatten(1, 2)
    weights = (20 * cells @ positive.T).softmax(dim=1)
    pair = torch.stack([(weights * (cells @ each.T)).sum(dim=1) for each in (positive, negative)])
    p = (learners.logit_scale(tiny) * pair).softmax(dim=0)[0]
    assert torch.allclose(model.classify(unseen, CONCEPTS).sigmoid(), p, atol=1e-4)


def test_maps_find_the_cell_that_films_differ_in(learned, unseen):
    finding, films = torch.arange(64) % 2, torch.arange(64)
    for kind in (CoOp, DualCoOp):
        maps = torch.stack([learned[kind][0].ground(unseen, c) for c in CONCEPTS], dim=-1)
        assert maps.shape == (64, 2, 2, 2)
        more = maps[films, :, :, finding] - maps[films, :, :, 1 - finding]
        assert (more.flatten(1).argmax(dim=1) == 0).float().mean() > 0.6  # one cell of four
