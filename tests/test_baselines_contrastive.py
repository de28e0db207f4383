"""All eight baselines in a toy world; losses of the contrastive ones against literal versions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from toy_baselines import CONCEPTS, GRID, ToyReader, grounding_share, toy_material, toy_validation

from rctpl_utils.baselines import model as base_model
from rctpl_utils.baselines.base import GROUND
from rctpl_utils.baselines.contrastive import (
    GUESSED,
    MASKED_WEIGHT,
    BioViL,
    CheXzero,
    ConVIRT,
    MedCLIPViT,
    MedPromptViT,
    convirt_loss,
    masked_words_loss,
    pair_probability,
    smoothed,
    unpaired_rows,
)
from rctpl_utils.baselines.gloria import (
    GLoRIA,
    attended_cosines,
    attention,
    by_text,
    gloria_loss,
    pooled_words,
    text_scores,
    without_special_tokens,
)
from rctpl_utils.baselines.miniatures import MINIATURES
from rctpl_utils.baselines.model import Setup
from rctpl_utils.baselines.queries import MedKLIP, MeDSLIP
from rctpl_utils.baselines.training import train, validation_auc
from rctpl_utils.baselines.training_data import draw_batch
from rctpl_utils.encoders.features import Words
from rctpl_utils.encoders.pretraining import semantic_matching
from rctpl_utils.profiles import BaselineTraining

CPU = torch.device("cpu")
SETTINGS = BaselineTraining(views=3200, look_every=800, cool_down=1600, batch_size=32)
CONTRASTIVE = (ConVIRT, GLoRIA, MedCLIPViT, BioViL, CheXzero)
NEVER_LOCAL = (MedCLIPViT, CheXzero, MedPromptViT)  # nothing trains a patch to speak for its place


class SummingReader(ToyReader):
    """A toy tower whose [CLS] has read its text, as a transformer's has."""

    def words(self, texts) -> Words:
        words = super().words(texts)
        words.states[:, 0] = _mean_word(words.states.numpy(), words.seen.sum(dim=1).numpy())
        return words


def _mean_word(states: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
    means = [rows[1 : end - 1].mean(axis=0) for rows, end in zip(states, lengths, strict=True)]
    return torch.from_numpy(np.stack(means).astype(np.float32))


@pytest.fixture(scope="module")
def material():
    plain = toy_material()
    states = plain.words.states.copy()
    states[:, 0] = _mean_word(states, plain.words.lengths).numpy()
    return replace(plain, words=replace(plain.words, states=states))


@pytest.fixture(scope="module")
def setup(material):
    return Setup.of(material, SummingReader())


def batch_of(material, count=8, seed=0):
    return draw_batch(material, np.arange(count), np.random.default_rng(seed), CPU)


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def cross_entropy(logits, right) -> float:
    """-log softmax at `right`, of a list of floats."""
    return -math.log(math.exp(logits[right]) / sum(math.exp(each) for each in logits))


@pytest.mark.parametrize("make", MINIATURES)
def test_it_learns_two_concepts_and_where_they_are(make, material, setup, monkeypatch):
    monkeypatch.setattr(base_model, "PHRASES", ("{}",))  # the toy has words for names only
    validation, blocks = toy_validation()
    rate = 1e-3 if make in CONTRASTIVE else 3e-3
    trained = train(make, material, setup, validation, SETTINGS, rate, 0, CPU)
    model, history = trained.model, trained.history
    assert validation_auc(model, validation, CPU) > 0.8
    assert history[-1]["loss"] < history[0]["loss"]
    if make not in NEVER_LOCAL:
        share = np.mean([grounding_share(model, validation, blocks, k) for k in (0, 1)])
        assert share > (0.6 if GROUND in model.published else 0.35)  # a quarter by chance
    if make in (MedKLIP, MeDSLIP):  # retrieval by class logits
        images = model.embed_images(torch.from_numpy(validation.maps))
        cosines = images @ model.embed_texts(["edema"]).T
        edema = validation.labels[:, 0] == 1
        assert cosines[edema].mean() > cosines[~edema].mean()


@pytest.mark.parametrize("make", MINIATURES)
def test_inference_has_the_protocols_shapes_and_ignores_the_rest_of_a_batch(make, setup):
    torch.manual_seed(0)
    model = make(setup).eval()
    validation, _ = toy_validation(6)
    films = torch.from_numpy(validation.maps)
    texts = ["edema", "no sign of pneumothorax"]
    scores, maps = model.classify(films, CONCEPTS), model.ground(films, "Edema")
    images, sentences = model.embed_images(films), model.embed_texts(texts)
    assert scores.shape == (6, 2) and maps.shape == (6, GRID, GRID)
    assert images.shape[1:] == sentences.shape[1:]
    for vectors in (images, sentences):
        assert vectors.norm(dim=1).numpy() == pytest.approx(np.ones(len(vectors)), rel=1e-5)
    assert torch.allclose(model.classify(films[2:3], CONCEPTS)[0], scores[2], atol=1e-6)
    assert torch.allclose(model.classify(films, CONCEPTS[1:])[:, 0], scores[:, 1], atol=1e-6)
    assert torch.allclose(model.ground(films[2:3], "Edema")[0], maps[2], atol=1e-6)
    assert torch.allclose(model.embed_texts(texts[:1])[0], sentences[0], atol=1e-5)  # no padding


@pytest.mark.parametrize("make", MINIATURES)
def test_every_weight_learns(make, material, setup):
    torch.manual_seed(0)
    model = make(setup)
    model.loss(batch_of(material)).backward()
    unused = {name for name, each in model.named_parameters() if each.grad is None}
    assert unused <= {"logit_scale"}  # some methods fix their temperatures


def test_convirt_loss_is_the_papers_formula():
    image, text = unit(5, 7), unit(5, 7, seed=1)
    total = 0.0
    for i in range(5):
        forth = np.exp((image[i] @ text.T).numpy() / 0.1)
        back = np.exp((text[i] @ image.T).numpy() / 0.1)
        total -= 0.75 * np.log(forth[i] / forth.sum()) + 0.25 * np.log(back[i] / back.sum())
    assert convirt_loss(image, text).item() == pytest.approx(total / 5, rel=1e-5)


@torch.no_grad()
def literal_context(cells, word):
    """GLoRIA's attention (C,) and context (d,) of one film's cells (C, d) and one word (d,)."""
    similar = [float(word @ cell) / float(word.norm()) for cell in cells]
    weights = [math.exp(4 * s) / sum(math.exp(4 * k) for k in similar) for s in similar]
    return weights, sum(a * cell for a, cell in zip(weights, cells, strict=True))


def cosine(a, b) -> float:
    return float(a @ b) / float(a.norm() * b.norm())


def test_glorias_attended_cosines_are_those_of_the_context():
    cells, words = unit(3, 6, 4), 2 * unit(5, 4, seed=1)
    weights = attention(cells, words)
    found = attended_cosines(cells, words)
    for film in range(3):
        for i in range(5):
            expected, context = literal_context(cells[film], words[i])
            assert weights[film, i].tolist() == pytest.approx(expected, rel=1e-5)
            assert found[film, i].item() == pytest.approx(cosine(context, words[i]), rel=1e-4)


def test_glorias_text_scores_are_the_literal_log_sum_exp():
    cells = unit(2, 6, 4)
    spoken = torch.tensor([[True, True, False], [False, True, False], [True, True, True]])
    words = unit(6, 4, seed=1)
    found = text_scores(cells, words, spoken)
    for i, film in enumerate(cells):
        for k, text in enumerate((words[:2], words[2:3], words[3:])):
            fits = [math.exp(5 * cosine(literal_context(film, word)[1], word)) for word in text]
            assert found[i, k].item() == pytest.approx(math.log(sum(fits)), rel=1e-4)


def test_gloria_loss_is_the_sum_of_four_cross_entropies():
    both = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for scores in (10 * both).tolist():
        for i in range(4):
            total += cross_entropy(scores[i], i) / 4
            total += cross_entropy([row[i] for row in scores], i) / 4
    assert gloria_loss(*both).item() == pytest.approx(total, rel=1e-5)


def test_words_exclude_padding_and_special_tokens():
    seen = torch.tensor([[True, True, True, True], [True, True, True, False]])
    spoken = without_special_tokens(seen)
    assert spoken.tolist() == [[False, True, True, False], [False, True, False, False]]
    words = torch.tensor([[3.0, 0], [0, 4], [0, -2]])
    assert pooled_words(words, spoken).numpy() == pytest.approx(np.array([[0.6, 0.8], [0, -1]]))
    assert by_text(torch.tensor([[1.0, 2, 3]]), spoken).amax(dim=-1).tolist() == [[2, 3]]


@torch.no_grad()
def test_glorias_scores_are_the_mean_of_global_and_best_word_cosines(setup, monkeypatch):
    monkeypatch.setattr(base_model, "PHRASES", ("{}",))
    torch.manual_seed(0)
    model = GLoRIA(setup).eval()
    films = torch.from_numpy(toy_validation(2)[0].maps)
    image, cells = model.image_vectors(
        films.flatten(1, 2).float(), torch.arange(GRID * GRID).expand(2, -1)
    )
    word = model.text(model.read(["edema"]).states[0, 1])  # one word between [CLS] and [SEP]
    for film in range(2):
        context = literal_context(cells[film], word)[1]
        expected = (cosine(image[film], word) + cosine(context, word)) / 2
        score = model.classify(films, ["Edema"])[film, 0]
        assert score.item() == pytest.approx(expected, rel=1e-4)
    assert model.ground(films, "Edema").sum(dim=(1, 2)).tolist() == pytest.approx([1, 1])


def test_medclip_loss_is_the_literal_one():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, generator=generator)
    seen = torch.randint(-1, 2, (3, 6), generator=generator).float()
    said = torch.randint(-1, 2, (4, 6), generator=generator).float()
    similar = torch.tensor([[float(a @ b) for b in said] for a in seen])
    total = 0.0
    for ours, theirs in ((logits, similar), (logits.T, similar.T)):
        for row, like in zip(ours.tolist(), theirs.tolist(), strict=True):
            for j in range(len(row)):
                target = math.exp(like[j]) / sum(math.exp(each) for each in like)
                total += target * cross_entropy(row, j) / len(ours) / 2
    assert semantic_matching(logits, seen @ said.T).item() == pytest.approx(total, rel=1e-5)


def test_medclips_texts_are_drawn_apart_from_its_films(material):
    first, second = unpaired_rows(batch_of(material)), unpaired_rows(batch_of(material, seed=1))
    assert first.shape == (8,) and (first != second).any()
    own = [set(material.sentences[report]) for report in range(8)]
    assert sum(row in mine for row, mine in zip(first, own, strict=True)) < 4
    assert set(first) <= set(np.concatenate(material.sentences))


def test_masked_words_loss_is_the_mean_over_hidden_words():
    logits = torch.tensor([[1.0, 2, 0.5], [0, -1, 3]])
    expected = (cross_entropy([1, 2, 0.5], 1) + cross_entropy([0, -1, 3], 0)) / 2
    assert masked_words_loss(logits, torch.tensor([1, 0])).item() == pytest.approx(expected)
    assert masked_words_loss(logits[:0], torch.tensor([], dtype=torch.long)).item() == 0


def test_biovils_loss_is_the_contrast_of_whole_reports_and_a_tenth_of_the_hidden_words(
    material, setup
):
    torch.manual_seed(0)
    model = BioViL(setup).eval()
    image = model.image_vectors(*batch_of(material)[:2])[0]
    text = model.text_vectors(material.words.batch(material.whole[:8], CPU))
    logits = (image @ text.T / 0.07).tolist()
    aligned = sum(
        (cross_entropy(logits[i], i) + cross_entropy([row[i] for row in logits], i)) / 16
        for i in range(8)
    )
    rows = batch_of(material).generator.choice(len(material.maps), GUESSED)
    states = torch.from_numpy(material.masked.states[rows, 1].astype(np.float32))
    guesses = model.guess(model.text.adapt(states)).tolist()  # the toy hides the first word
    hidden = zip(guesses, material.masked.ids[rows, 1], strict=True)
    missed = sum(cross_entropy(guess, word) for guess, word in hidden) / GUESSED
    expected = aligned + MASKED_WEIGHT * missed
    assert model.loss(batch_of(material)).item() == pytest.approx(expected, rel=1e-4)


def test_biovil_smooths_by_a_tenth_of_the_film():
    maps = torch.zeros(2, 20, 10)
    maps[0, 9, 4] = 1
    spread = smoothed(maps)
    assert spread[0].sum().item() == pytest.approx(1, rel=1e-4) and spread[1].sum() == 0
    down = spread[0, :, 4] / spread[0, 9, 4]
    across = spread[0, 9, :] / spread[0, 9, 4]
    assert down[11].item() == pytest.approx(math.exp(-(2**2) / (2 * 2**2)), rel=1e-3)
    assert across[5].item() == pytest.approx(math.exp(-(1**2) / (2 * 1**2)), rel=1e-3)


def test_chexzeros_score_is_the_softmax_over_the_pair():
    positive, negative = torch.tensor([0.3, -0.2]), torch.tensor([0.1, 0.4])
    expected = [math.exp(a) / (math.exp(a) + math.exp(b)) for a, b in ((0.3, 0.1), (-0.2, 0.4))]
    assert pair_probability(positive, negative).tolist() == pytest.approx(expected)


def test_chexzero_reads_impressions(material, setup):
    torch.manual_seed(0)
    model = CheXzero(setup).eval()
    other = replace(material, impressions=np.roll(material.impressions, 1))
    same = replace(material, whole=np.roll(material.whole, 1), sentences=material.sentences[::-1])
    loss = model.loss(batch_of(material)).item()
    assert model.loss(batch_of(same)).item() == pytest.approx(loss)
    assert model.loss(batch_of(other)).item() != pytest.approx(loss)
