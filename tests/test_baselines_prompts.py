"""TaI-DPT, CoOp, CoCoOp, DualCoOp: losses against literal versions, learning, state, extensions."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertModel

from rctpl_utils.baselines.coop import region_margin
from rctpl_utils.baselines.learners import (
    CoCoOp,
    CoOp,
    DualCoOp,
    TaIDPT,
    asymmetric_loss,
    logit_scale,
    names_cross_entropy,
)
from rctpl_utils.baselines.prompt_learners import LabeledFilms, stop, token_corpora, token_features
from rctpl_utils.baselines.prompt_learning import PromptSettings, learn
from rctpl_utils.encoders.base import ImageFeatures, freeze
from rctpl_utils.encoders.features import ImageFeatureFile
from rctpl_utils.encoders.text_tower import TextTower
from rctpl_utils.errors import InputError
from rctpl_utils.profiles import PromptLearnerTraining
from rctpl_utils.prompts.encode import build_corpus
from rctpl_utils.text.reports import Report

CONCEPTS = ("Edema", "Pneumothorax")
CPU = torch.device("cpu")
WIDTH = 64  # d, and W
ON_FILMS = (CoOp, CoCoOp, DualCoOp)
SETTINGS = PromptSettings(batch_size=64, learning_rate=3e-2)
LIMITS = PromptLearnerTraining(steps=40, every=40, patience=3)
TEXTS = {
    "Edema": ["Both lungs are wet.", "The lungs are congested and full of fluid on both sides."],
    "Pneumothorax": ["Air in the pleural space.", "The lung has come off the wall of the chest."],
}


class Tiny:
    """A text tower of two random layers: what the learners use of an encoder, and fast."""

    def __init__(self, tokenizer):
        torch.manual_seed(0)
        config = BertConfig(
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=2 * WIDTH,
            initializer_range=0.2,
        )
        bert = BertModel(config, add_pooling_layer=False)
        self.text = freeze(TextTower(bert, tokenizer, nn.Linear(WIDTH, WIDTH, bias=False)))
        self.dimension = self.context_width = WIDTH
        self.device, self.text_key = CPU, "tiny"
        self.logit_scale = torch.tensor(10.0).log()

    @torch.no_grad()
    def encode_text(self, texts):
        return self.text(texts)

    def encode_prompts(self, context, names):
        return self.text.prompt(context, names)


@pytest.fixture(scope="module")
def tiny(encoder):
    return Tiny(encoder.text.tokenizer)


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
    return LabeledFilms(features, labels, CONCEPTS, count // 2)


def right(model, films):
    """The share of films whose finding is the likelier of the two."""
    scores = model.classify(everything(films).features, films.concepts)
    scale = 1 if isinstance(model, DualCoOp) else logit_scale(model.encoder)
    likely = (scale * scores).softmax(dim=1).argmax(dim=1).numpy()
    return (likely == films.labels.argmax(axis=1)).mean()


def everything(films):
    return films.batch(np.arange(len(films)), CPU)


class Judge:
    """Tells the values that it was given, one a look; then ever better ones."""

    def __init__(self, *values):
        self.values, self.states = list(values), []

    def __call__(self, model):
        assert not model.training
        self.states.append({name: value.clone() for name, value in model.state().items()})
        looks = len(self.states)
        return self.values[looks - 1] if looks <= len(self.values) else float(looks)


def learn_on(encoder, kind, data, settings=SETTINGS, seed=0, limits=LIMITS):
    """A model that has taken all its steps, and its history."""
    shots = getattr(data, "shots", None)
    model = kind(encoder, seed, CONCEPTS, shots)
    return model, learn(model, data, settings, limits, seed, Judge())


@pytest.fixture(scope="module")
def learned(tiny):
    """Each learner on films: model, history."""
    films = toy_films(0)
    return {kind: learn_on(tiny, kind, films) for kind in ON_FILMS}


@pytest.fixture(scope="module")
def reports():
    made = [
        Report(f"s{number}", f"p{number}", text, "", "train")
        for number, text in enumerate(TEXTS["Edema"] + TEXTS["Pneumothorax"] + ["All is well."])
    ]
    return [*made, Report("s9", "p9", TEXTS["Edema"][0], "", "train")]  # a text that comes twice


@pytest.fixture(scope="module")
def triplets():
    said = {
        "s0": CONCEPTS[0],
        "s1": CONCEPTS[0],
        "s2": CONCEPTS[1],
        "s3": CONCEPTS[1],
        "s9": "Edema",
    }
    rows = [(key, said[key], None, "present") for key in said] + [
        ("s4", "Edema", None, "absent"),
        ("s3", "Edema", None, "uncertain"),
    ]
    return pd.DataFrame(rows, columns=["report_id", "concept", "location", "positive"])


@pytest.fixture(scope="module")
def corpus(tiny, reports, triplets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    (made,) = token_corpora((tiny,), reports, triplets, CONCEPTS, folder)
    return made


# losses against literal versions


def test_the_cross_entropy_over_names_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 5, generator=generator)
    labels = random_labels(12, 5, generator)
    labels[3] = 0  # no finding: no target
    labels[4] = math.nan
    terms = []
    for film in range(12):
        known = [i for i in range(5) if not math.isnan(labels[film, i])]
        present = [i for i in known if labels[film, i] == 1]
        if present:
            total = sum(math.exp(logits[film, i]) for i in known)
            terms.append(
                -sum(math.log(math.exp(logits[film, i]) / total) for i in present) / len(present)
            )
    assert len(terms) < 11
    assert names_cross_entropy(logits, labels).item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_with_one_present_class_it_is_coops_own():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    target = torch.tensor([0, 3, 1, 1, 2, 0])
    own = functional.cross_entropy(logits, target)
    assert torch.allclose(names_cross_entropy(logits, torch.eye(4)[target]), own)


def test_films_without_a_target_leave_a_loss_of_zero_with_a_gradient():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = names_cross_entropy(logits, torch.tensor([[0, 0, 0], [math.nan] * 3]))
    loss.backward()
    assert loss == 0 and torch.equal(logits.grad, torch.zeros(2, 3))


def test_the_asymmetric_loss_is_its_formula():
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
    assert asymmetric_loss(logits, labels).item() == pytest.approx(total / 10, rel=1e-4)


def test_the_asymmetric_losses_focus_has_no_gradient():
    """d/dz of -w log p with w = 1 - p held fixed is -(1 - p)^2."""
    logit = torch.tensor([[0.3]], requires_grad=True)
    asymmetric_loss(logit, torch.ones(1, 1)).backward()
    assert logit.grad.item() == pytest.approx(-((1 - torch.tensor(0.3).sigmoid().item()) ** 2))


def test_dualcoops_classes_weigh_regions_by_the_positive_context():
    generator = torch.Generator().manual_seed(3)
    dense, positive, negative = (
        functional.normalize(torch.randn(*shape, generator=generator), dim=-1)
        for shape in ((3, 2, 4, 16), (5, 16), (5, 16))
    )
    for film in range(3):
        cells = dense[film].reshape(-1, 16).numpy()
        for i in range(5):
            agreeing = [float(cell @ positive[i].numpy()) for cell in cells]
            weights = [math.exp(20 * value) for value in agreeing]
            margin = sum(
                weight / sum(weights) * (value - float(cell @ negative[i].numpy()))
                for weight, value, cell in zip(weights, agreeing, cells, strict=True)
            )
            found = region_margin(dense, positive, negative)[film, i].item()
            assert found == pytest.approx(margin, abs=1e-5)


def test_tai_dpts_loss_is_its_formula_over_tokens(tiny, reports, corpus):
    """Each caption alone, so without padding; loops over tokens and over pairs of classes."""
    model = TaIDPT(tiny, 0, CONCEPTS)
    whole, local = (each.detach() for each in model.encoded(CONCEPTS))
    labels = [[1, 0], [1, 0], [0, 1], [None, 1], [1, 0]]
    kept = [0, 1, 2, 3, 5]  # "All is well." has no present class
    losses = []
    for number, label in zip(kept, labels, strict=True):
        tokens = tiny.text.tokenize([reports[number].text])
        hidden = tiny.text.bert(**tokens).last_hidden_state[0]
        states = functional.normalize(tiny.text.projection(hidden), dim=-1)
        feature = tiny.encode_text([reports[number].text])[0]
        scores = {"global": [], "local": []}
        for i in range(2):
            scores["global"].append(4 * float(feature @ whole[i]))
            cosines = [float(state @ local[i]) for state in states]
            weights = np.exp(50 * np.array(cosines))
            scores["local"].append(4 * float(np.dot(weights / weights.sum(), cosines)))
        losses.append(
            sum(
                max(0.0, 1 - branch[i] + branch[j])
                for branch in scores.values()
                for i in range(2)
                for j in range(2)
                if label[i] == 1 and label[j] == 0
            )
        )
    loss = model.loss(corpus.batch(np.arange(5), CPU)).item()
    assert loss == pytest.approx(np.mean(losses), abs=2e-3)  # cached tokens are float16


# tokens of reports


def test_tokens_are_those_of_each_text_alone_and_padding_is_zero(tiny, tmp_path):
    texts = ["mass", *TEXTS["Edema"], "a " * 100]
    states, counts = token_features((tiny,), texts, tmp_path)[tiny]
    assert states.shape == (4, 77, WIDTH) and states.dtype == np.float16
    for text, found, count in zip(texts, states, counts, strict=True):
        tokens = tiny.text.tokenize([text])
        hidden = tiny.text.bert(**tokens).last_hidden_state[0]
        alone = functional.normalize(tiny.text.projection(hidden), dim=-1)
        assert count == len(alone)
        assert np.allclose(found[:count], alone.detach(), atol=2e-3)
        assert not found[count:].any()
    assert counts[-1] == 77


def test_tokens_are_made_once(tiny, tmp_path, monkeypatch):
    states, counts = token_features((tiny,), TEXTS["Edema"], tmp_path)[tiny]
    monkeypatch.setattr("rctpl_utils.baselines.tai_dpt.token_states", None)
    again = token_features((tiny,), TEXTS["Edema"], tmp_path)[tiny]
    assert np.array_equal(states, again[0]) and np.array_equal(counts, again[1])


def test_reports_and_labels_are_those_of_rc_tpl(tiny, reports, triplets, corpus, tmp_path):
    ours = build_corpus(tiny, reports, triplets, CONCEPTS, tmp_path)
    assert np.array_equal(corpus.labels, ours.labels, equal_nan=True)
    assert np.allclose(corpus.report_features, ours.report_features, atol=1e-6)


# what learns, and what does not


@pytest.mark.parametrize("kind", [TaIDPT, *ON_FILMS])
def test_gradient_reaches_the_learned_tensors_only(tiny, corpus, kind):
    model = kind(tiny, 0, CONCEPTS)
    batch = corpus.batch(np.arange(5), CPU) if kind is TaIDPT else everything(toy_films(0, 4))
    model.loss(batch).backward()
    learned = dict(model.named_parameters())
    assert learned and all(each.grad.abs().sum() > 0 for each in learned.values())
    assert all(each.grad is None for each in tiny.text.parameters())
    assert set(model.state()) - set(learned) <= {"middle", "reach"}, "the encoder is no part of it"


def test_two_contexts_or_one_of_the_published_lengths(tiny):
    sizes = {CoOp: {"context": 16}, CoCoOp: {"context": 4}, TaIDPT: {"whole": 16, "local": 16}}
    sizes[DualCoOp] = {"positive": 16, "negative": 16}
    for kind, contexts in sizes.items():
        state = kind(tiny, 0).state()
        assert all(state[name].shape == (count, WIDTH) for name, count in contexts.items())
        first, second = kind(tiny, 0).state(), kind(tiny, 1).state()
        assert all(torch.equal(state[name], first[name]) for name in state)
        assert not any(torch.equal(state[name], second[name]) for name in contexts)


@pytest.mark.parametrize("kind", ON_FILMS)
def test_it_learns_from_films(tiny, learned, kind):
    model, history = learned[kind]
    beginner = kind(tiny, 0, CONCEPTS)
    if kind is CoCoOp:
        beginner.settle(toy_films(0))
    unseen = toy_films(1)
    assert right(beginner.eval(), unseen) < 0.75
    assert right(model, unseen) > 0.85
    assert [row["step"] for row in history] == list(range(LIMITS.steps + 1))
    assert history[-1]["loss"] < 0.6 * history[1]["loss"]
    assert model.name.endswith("32 labels a class") and model.published == {"classify"}


def test_a_run_ends_on_its_plateau_and_keeps_the_best_state(tiny):
    limits = PromptLearnerTraining(steps=40, every=2, patience=3)
    model, judge = CoOp(tiny, 0, CONCEPTS), Judge(0.5, 0.6, 0.7, 0.7, 0.65, 0.6)
    history = learn(model, toy_films(0), SETTINGS, limits, 0, judge)
    assert [row["step"] for row in history if "validation_auc" in row] == [0, 2, 4, 6, 8, 10]
    ended = stop(history, limits)  # of equals the earlier one is the best
    assert ended == {"steps": 10, "best_step": 4, "validation_auc": 0.7, "plateau": True}
    assert torch.equal(model.context, judge.states[2]["context"]) and not model.training
    assert not torch.equal(model.context, judge.states[-1]["context"])


def test_a_run_that_meets_its_limit_has_no_plateau(tiny):
    limits = PromptLearnerTraining(steps=5, every=2, patience=3)
    model = CoOp(tiny, 0, CONCEPTS)
    history = learn(model, toy_films(0), SETTINGS, limits, 0, Judge())
    assert [row["step"] for row in history if "validation_auc" in row] == [0, 2, 4, 5]
    assert stop(history, limits) == {
        "steps": 5, "best_step": 5, "validation_auc": 4.0, "plateau": False
    }  # fmt: skip


def test_steps_that_only_harm_are_undone(tiny):
    limits = PromptLearnerTraining(steps=40, every=1, patience=2)
    model, judge = CoOp(tiny, 0, CONCEPTS), Judge(0.9, 0.8, 0.7)
    history = learn(model, toy_films(0), SETTINGS, limits, 0, judge)
    assert stop(history, limits)["best_step"] == 0 and len(history) == 3
    assert torch.equal(model.context, CoOp(tiny, 0, CONCEPTS).context)


def test_tai_dpt_learns_from_captions_and_sees_films(tiny, corpus):
    limits = PromptLearnerTraining(steps=30, every=30)
    model, history = learn_on(tiny, TaIDPT, corpus, PromptSettings(8, 1e-2), limits=limits)
    assert history[-1]["loss"] < 0.8 * history[1]["loss"] and model.name == "TaI-DPT"
    texts = ["The lungs are wet on both sides.", "There is air in the pleural space."]
    scores = model.score_texts(texts, CONCEPTS)
    assert (scores.argmax(dim=1) == torch.arange(2)).all(), "paraphrases of the two findings"


def test_names_say_how_many_labels_were_used(tiny):
    names = [CoOp(tiny, 0, CONCEPTS, shots).name for shots in (None, 1, 16)]
    assert names == ["CoOp", "CoOp, 1 label a class", "CoOp, 16 labels a class"]


def test_a_seed_repeats_itself(tiny, learned):
    again, history = learn_on(tiny, CoOp, toy_films(0))
    assert torch.equal(again.context, learned[CoOp][0].context)
    assert [r["loss"] for r in history[1:]] == [r["loss"] for r in learned[CoOp][1][1:]]
    other, _ = learn_on(tiny, CoOp, toy_films(0), seed=1)
    assert not torch.equal(other.context, again.context)


@pytest.mark.parametrize("kind", ON_FILMS)
def test_learned_tensors_survive_a_file(tiny, learned, kind, tmp_path):
    model, _ = learned[kind]
    save_file(model.state(), tmp_path / "learned.safetensors")
    copy = kind(tiny, 9, CONCEPTS, 32).load(load_file(tmp_path / "learned.safetensors"))
    films = everything(toy_films(1)).features
    assert torch.equal(copy.classify(films, CONCEPTS), model.classify(films, CONCEPTS))
    assert copy.name == model.name and not copy.training


def test_tensors_of_another_learner_are_refused(tiny, learned):
    with pytest.raises(InputError, match="another prompt learner"):
        CoOp(tiny, 0).load(learned[DualCoOp][0].state())


def test_what_was_encoded_is_forgotten_when_tensors_change(tiny, learned):
    model = CoOp(tiny, 0, CONCEPTS).eval()
    films = everything(toy_films(1)).features
    before = model.classify(films, CONCEPTS)
    assert model.encoded(CONCEPTS)[0] is model.encoded(CONCEPTS)[0], "encoded once"
    after = model.load(learned[CoOp][0].state()).classify(films, CONCEPTS)
    assert not torch.allclose(before, after)


# scores


def test_scores_of_one_film_do_not_depend_on_the_others(learned):
    films = everything(toy_films(1)).features
    for model, _ in learned.values():
        alone = model.classify(ImageFeatures(*(each[3:4] for each in films)), CONCEPTS)
        assert torch.allclose(alone[0], model.classify(films, CONCEPTS)[3], atol=1e-4)


def test_coops_scores_are_cosines_with_the_global_feature(tiny, learned):
    model, films = learned[CoOp][0], everything(toy_films(1)).features
    embedded = tiny.encode_prompts(model.context, ["edema", "pneumothorax"])
    assert torch.allclose(
        model.classify(films, CONCEPTS), films.global_features @ embedded.T, atol=1e-5
    )
    assert logit_scale(tiny) == pytest.approx(10)


def test_cocoop_shifts_every_context_vector_by_the_films_own_bias(tiny, learned):
    model, films = learned[CoCoOp][0], everything(toy_films(1)).features
    embedded = model.prompted(model.activations(films.global_features[:3]), ["edema", "mass"])
    for film in range(3):
        squeezed = torch.relu(model.squeeze(films.global_features[film]))
        context = model.context + model.expand(squeezed)
        own = tiny.encode_prompts(context, ["edema", "mass"])
        assert torch.allclose(embedded[film], own, atol=1e-5)


def test_cocoops_parabolas_go_through_their_points(learned):
    model, _ = learned[CoCoOp]
    middle, slope, curvature = model.encoded(CONCEPTS)
    for sign in (-1, 1):
        for unit in range(len(model.reach)):
            point = model.middle + sign * model.reach * torch.eye(len(model.reach))[unit]
            exact = model.prompted(point[None], ["edema", "pneumothorax"])[0]
            found = middle + sign * slope[unit] + curvature[unit]
            assert torch.allclose(found, exact, atol=1e-4)


def test_cocoops_parabolas_stand_for_the_text_encoder(encoder):
    """MiniLM, films that it did not learn from: errors are small beside what the shift does."""
    films = toy_films(0, width=encoder.dimension)
    limits = PromptLearnerTraining(steps=8, every=8)
    model, _ = learn_on(encoder, CoCoOp, films, PromptSettings(2, 3e-3), limits=limits)
    shown = everything(toy_films(1, 16, encoder.dimension)).features
    whole, names = shown.global_features, ["edema", "pneumothorax"]
    with torch.no_grad():
        own = model.prompted(model.activations(whole), names)
        fixed = model.prompted(model.middle[None], names).expand_as(own)
    exact, unshifted = (torch.einsum("nd,nld->nl", whole, each) for each in (own, fixed))
    found = model.classify(shown, CONCEPTS)
    assert (found - exact).abs().mean() < 0.1 * (unshifted - exact).abs().mean()
    assert np.corrcoef(found.flatten(), exact.flatten())[0, 1] > 0.9999
    assert (found - exact).abs().max() < 5e-3


def test_cocoop_that_has_not_learned_does_not_score(tiny):
    films = everything(toy_films(1)).features
    with pytest.raises(ValueError, match="after it has learned"):
        CoCoOp(tiny, 0).classify(films, CONCEPTS)


def test_dualcoops_scores_are_log_odds_and_rank_as_its_probability(tiny, learned):
    model, films = learned[DualCoOp][0], everything(toy_films(1)).features
    positive, negative = model.encoded(CONCEPTS)
    cells = films.dense_features.flatten(1, 2)
    weights = (20 * cells @ positive.T).softmax(dim=1)
    pair = torch.stack([(weights * (cells @ each.T)).sum(dim=1) for each in (positive, negative)])
    p = (logit_scale(tiny) * pair).softmax(dim=0)[0]
    assert torch.allclose(model.classify(films, CONCEPTS).sigmoid(), p, atol=1e-4)


def test_maps_find_the_cell_that_films_differ_in(learned):
    films = toy_films(1)
    for kind in (CoOp, DualCoOp):
        shown = everything(films).features
        maps = torch.stack([learned[kind][0].ground(shown, c) for c in CONCEPTS], dim=-1)
        assert maps.shape == (64, 2, 2, 2)
        own = maps[torch.arange(64), :, :, films.labels.argmax(axis=1)].flatten(1)
        other = maps[torch.arange(64), :, :, films.labels.argmin(axis=1)].flatten(1)
        assert ((own - other).argmax(dim=1) == 0).float().mean() > 0.6  # one cell of four


def test_cocoops_map_is_the_cosine_with_the_films_own_embedding(learned):
    model, films = learned[CoCoOp][0], everything(toy_films(1)).features
    own = model.conditioned(films.global_features, ["Edema"])[:, 0]
    found = model.ground(films, "Edema")
    assert found.shape == (64, 2, 2)
    assert found[5, 1, 0] == pytest.approx(float(films.dense_features[5, 1, 0] @ own[5]), abs=1e-5)


def test_retrieval_goes_by_class_scores(tiny, learned):
    model, films = learned[CoOp][0], everything(toy_films(1)).features
    names = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
    images, texts = model.embed_images(films), model.embed_texts(TEXTS["Edema"])
    assert images.shape == (64, 5) and texts.shape == (2, 5)
    assert torch.allclose(images, model.classify(films, names))
    scores = tiny.encode_text(TEXTS["Edema"]) @ model.encoded(names)[0].T
    assert torch.allclose(texts, scores, atol=1e-5)
