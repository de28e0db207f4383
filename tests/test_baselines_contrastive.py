"""All eight baselines in a toy world; losses of the contrastive ones against literal versions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import toy_baselines as toy
from torch.nn.functional import normalize
from toy_baselines import CONCEPTS, CPU, batch_of, toy_validation, untrained

from rctpl_utils.baselines import contrastive
from rctpl_utils.baselines import model as base_model
from rctpl_utils.baselines.base import GROUND
from rctpl_utils.baselines.contrastive import BioViL, CheXzero, ConVIRT, MedCLIPViT, MedPromptViT
from rctpl_utils.baselines.gloria import GLoRIA
from rctpl_utils.baselines.miniatures import MINIATURES
from rctpl_utils.baselines.model import Setup
from rctpl_utils.baselines.queries import MedKLIP, MeDSLIP
from rctpl_utils.baselines.training import train, validation_auc
from rctpl_utils.profiles import BaselineTraining

SETTINGS = BaselineTraining(views=3200, look_every=800, cool_down=1600, batch_size=32)
CONTRASTIVE = (ConVIRT, GLoRIA, MedCLIPViT, BioViL, CheXzero)
NEVER_LOCAL = (MedCLIPViT, CheXzero, MedPromptViT)  # nothing trains a patch to speak for its place
TAU = 0.07  # where learned temperatures start


def let_cls_read(states, lengths):
    """The mean of the words between in place of [CLS], as if it had read its text."""
    for row, end in zip(states, lengths, strict=True):
        row[0] = row[1 : end - 1].astype(np.float64).mean(axis=0)


class SummingReader(toy.ToyReader):
    def words(self, texts):
        words = super().words(texts)
        let_cls_read(words.states.numpy(), words.seen.sum(dim=1))
        return words


@pytest.fixture(scope="module")
def material():
    made = toy.toy_material()
    let_cls_read(made.words.states, made.words.lengths)
    return made


@pytest.fixture(scope="module")
def setup(material):
    return Setup.of(material, SummingReader())


@pytest.fixture
def bare_names(monkeypatch):
    monkeypatch.setattr(base_model, "PHRASES", ("{}",))  # the toy has words for names only


@pytest.mark.parametrize("make", MINIATURES)
def test_it_learns_two_concepts_and_where_they_are(make, material, setup, bare_names):
    validation, blocks = toy_validation()
    rate = 1e-3 if make in CONTRASTIVE else 3e-3
    model, history, *_ = train(make, material, setup, validation, SETTINGS, rate, 0, CPU)
    assert validation_auc(model, validation, CPU) > 0.8
    assert history[-1]["loss"] < history[0]["loss"]
    if make not in NEVER_LOCAL:
        share = np.mean([toy.grounding_share(model, validation, blocks, k) for k in (0, 1)])
        assert share > (0.6 if GROUND in model.published else 0.35)  # a quarter by chance
    if make in (MedKLIP, MeDSLIP):  # retrieval by class logits
        images = model.embed_images(torch.from_numpy(validation.maps))
        cosines = images @ model.embed_texts(["edema"]).T
        edema = validation.labels[:, 0] == 1
        assert cosines[edema].mean() > cosines[~edema].mean()


@pytest.mark.parametrize("make", MINIATURES)
def test_inference_ignores_the_rest_of_a_batch_and_every_weight_learns(make, material, setup):
    model = untrained(make, setup)
    films = torch.from_numpy(toy_validation(6)[0].maps)
    texts = ["edema", "no sign of pneumothorax"]
    scores, maps = model.classify(films, CONCEPTS), model.ground(films, "Edema")
    images, sentences = model.embed_images(films), model.embed_texts(texts)
    assert scores.shape == (6, 2) and maps.shape == (6, 4, 4)
    assert images.shape[1:] == sentences.shape[1:]
    for vectors in (images, sentences):
        assert vectors.norm(dim=1).numpy() == pytest.approx(np.ones(len(vectors)), rel=1e-5)
    assert torch.allclose(model.classify(films[2:3], CONCEPTS)[0], scores[2], atol=1e-6)
    assert torch.allclose(model.classify(films, CONCEPTS[1:])[:, 0], scores[:, 1], atol=1e-6)
    assert torch.allclose(model.ground(films[2:3], "Edema")[0], maps[2], atol=1e-6)
    assert torch.allclose(model.embed_texts(texts[:1])[0], sentences[0], atol=1e-5)  # no padding
    # every weight learns
    model.train().loss(batch_of(material)).backward()
    unused = {name for name, each in model.named_parameters() if each.grad is None}
    assert unused <= {"logit_scale"}  # some methods fix their temperatures


def cross_entropy(logits, right) -> float:
    """-log softmax at `right`, of a list of floats."""
    return -math.log(math.exp(logits[right]) / sum(math.exp(each) for each in logits))


def info_nce(logits, by_image=0.5) -> float:
    """Of B matching pairs, in both directions."""
    forth = sum(cross_entropy(row, i) for i, row in enumerate(logits.tolist()))
    back = sum(cross_entropy(row, i) for i, row in enumerate(logits.T.tolist()))
    return (by_image * forth + (1 - by_image) * back) / len(logits)


def cosine(a, b) -> float:
    return float(a @ b) / float(a.norm() * b.norm())


def attended(cells, word):
    """GLoRIA's attention (C,) and context (d,) of one film's cells (C, d) and one word (d,)."""
    similar = [cosine(word, cell) for cell in cells]
    weights = [math.exp(4 * s) / sum(math.exp(4 * k) for k in similar) for s in similar]
    return weights, sum(a * cell for a, cell in zip(weights, cells, strict=True))


def convirt(image, text, **_):
    return info_nce(image @ text["sentence"].T / 0.1, by_image=0.75)


def chexzero(image, text, **_):
    return info_nce(image @ text["impression"].T / TAU)


def biovil(model, material, image, text, **_):
    """A tenth is the hidden words' cross-entropy; the toy hides the first word of each text."""
    rows = batch_of(material).generator.choice(len(material.maps), 8)
    states = torch.from_numpy(material.masked.states[rows, 1].astype(np.float32))
    guesses = model.guess(model.text.adapt(states)).tolist()
    hidden = zip(guesses, material.masked.ids[rows, 1], strict=True)
    missed = sum(cross_entropy(guess, word) for guess, word in hidden) / 8
    return info_nce(image @ text["whole"].T / TAU) + 0.1 * missed


def medclip(model, material, image, **_):
    """Soft targets are softmaxes of inner products of what films' reports and texts say."""
    rows = contrastive.unpaired_rows(batch_of(material))
    logits = image @ model.text_vectors(material.words.batch(rows, CPU)).T / TAU
    similar = torch.from_numpy(material.report_vectors[:8] @ material.text_vectors[rows].T)
    total = 0.0
    for ours, theirs in ((logits, similar), (logits.T, similar.T)):
        for row, like in zip(ours.tolist(), theirs.softmax(dim=1).tolist(), strict=True):
            total += sum(t * cross_entropy(row, j) for j, t in enumerate(like)) / 16
    return total


def gloria(model, material, image, local, text, sentences, **_):
    """Words are all tokens but padding, [CLS] and [SEP]."""
    found = torch.zeros(8, 8)
    for k, row in enumerate(sentences):
        words = model.text(material.words.batch(np.array([row]), CPU).states[0, 1:-1])
        for i, cells in enumerate(local):
            fits = [math.exp(5 * cosine(attended(cells, word)[1], word)) for word in words]
            found[i, k] = math.log(sum(fits))
    return 2 * info_nce(10 * image @ text["sentence"].T) + 2 * info_nce(10 * found)


def medprompt(model, image, text, **_):
    """The prompt starts as the class's name; y(x) is the class that the phrases choose."""
    phrases = normalize(model.text(model.phrases), dim=-1).mean(dim=0)
    guess = (image @ normalize(phrases, dim=-1).T).argmax(dim=1)
    prompted = image @ normalize(model.text(model.names), dim=-1).T / TAU
    pseudo = sum(cross_entropy(row, y) for row, y in zip(prompted.tolist(), guess, strict=True))
    return info_nce(image @ text["sentence"].T / TAU) + pseudo / 8


FORMULAS = {ConVIRT: convirt, GLoRIA: gloria, MedCLIPViT: medclip, BioViL: biovil}
FORMULAS |= {CheXzero: chexzero, MedPromptViT: medprompt}


@torch.no_grad()
@pytest.mark.parametrize("make", FORMULAS)
def test_the_loss_is_the_papers_formula(make, material, setup):
    given = replace(material, impressions=np.roll(material.impressions, 1))
    model, batch = untrained(make, setup), batch_of(given)
    image, local = model.image_vectors(batch.cells, batch.places)
    sentences = batch.sentence_rows()
    kinds = {"whole": given.whole[:8], "impression": given.impressions[:8], "sentence": sentences}
    text = {kind: model.text_vectors(given.words.batch(rows, CPU)) for kind, rows in kinds.items()}
    known = {"image": image, "local": local, "text": text, "sentences": sentences}
    expected = FORMULAS[make](model=model, material=given, **known)
    assert model.loss(batch_of(given)).item() == pytest.approx(expected, rel=1e-4)
    if make is BioViL:  # without hidden words it only contrasts
        given = replace(given, masked_words=np.zeros_like(given.masked_words))
        contrast = info_nce(image @ text["whole"].T / TAU)
        assert model.loss(batch_of(given)).item() == pytest.approx(contrast, rel=1e-5)


def test_medclips_texts_are_drawn_apart_from_its_films(material):
    first, second = (contrastive.unpaired_rows(batch_of(material, seed=seed)) for seed in (0, 1))
    assert first.shape == (8,) and (first != second).any()
    own = [set(material.sentences[report]) for report in range(8)]
    assert sum(row in mine for row, mine in zip(first, own, strict=True)) < 4
    assert set(first) <= set(np.concatenate(material.sentences))


def test_medprompts_prompt_loss_moves_the_generator_alone(setup):
    model = untrained(MedPromptViT, setup)
    image = normalize(torch.randn(3, 128), dim=1)
    scores = (model.prompts(image, model.names) @ image.unsqueeze(2)).squeeze(2)
    scores.logsumexp(dim=1).sum().backward()
    moved = {name for name, each in model.named_parameters() if each.grad is not None}
    assert moved == {"context", *(f"net.{name}" for name, _ in model.net.named_parameters())}


@torch.no_grad()
def test_glorias_scores_are_the_mean_of_global_and_best_word_cosines(setup, bare_names):
    model = untrained(GLoRIA, setup)
    films = torch.from_numpy(toy_validation(2)[0].maps)
    image, cells = model.film_vectors(films)
    word = model.text(model.read(["edema"]).states[0, 1])  # one word between [CLS] and [SEP]
    score, maps = model.classify(films, ["Edema"])[:, 0], model.ground(films, "Edema").flatten(1)
    for film in range(2):
        weights, context = attended(cells[film], word)
        expected = (cosine(image[film], word) + cosine(context, word)) / 2
        assert score[film].item() == pytest.approx(expected, rel=1e-4)
        assert maps[film].tolist() == pytest.approx(weights, rel=1e-4)
    two = model.classify(films, CONCEPTS)  # a name's best word is its own
    assert torch.allclose(two[:, 0], score, atol=1e-6)


def test_biovil_smooths_by_a_tenth_of_the_film(setup, monkeypatch):
    maps = torch.zeros(2, 20, 10)
    maps[0, 9, 4] = 1
    monkeypatch.setattr(base_model.Baseline, "ground", lambda *_: maps)
    spread = untrained(BioViL, setup).ground(None, "Edema")
    assert spread[0].sum().item() == pytest.approx(1, rel=1e-4) and spread[1].sum() == 0
    down, across = spread[0, 11, 4], spread[0, 9, 5]  # by one deviation each
    share = torch.stack([down, across]).numpy() / spread[0, 9, 4].item()
    assert share == pytest.approx(math.exp(-0.5), rel=1e-3)


@torch.no_grad()
def test_chexzeros_score_is_the_softmax_over_the_pair(setup):
    model = untrained(CheXzero, setup)
    films = torch.from_numpy(toy_validation(3)[0].maps)
    image, _ = model.film_vectors(films)
    for concept in CONCEPTS:
        found, name = model.classify(films, [concept])[:, 0], concept.lower()
        positive, negative = model.text_vectors(model.read([name, f"no {name}"]))
        for vector, p in zip(image, found, strict=True):
            pair = [math.exp(float(vector @ each)) for each in (positive, negative)]
            assert p.item() == pytest.approx(pair[0] / sum(pair), rel=1e-5)
