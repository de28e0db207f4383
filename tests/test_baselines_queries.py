"""MedKLIP and MeDSLIP: losses against literal versions, open sets."""

import math

import numpy as np
import pytest
import torch
from toy_baselines import ToyReader, batch_of, toy_material, untrained

from rctpl_utils.baselines import queries
from rctpl_utils.baselines.model import WIDTH, Setup
from rctpl_utils.baselines.queries import QUERY, MedKLIP, MeDSLIP
from rctpl_utils.errors import InputError

NAN = float("nan")


@pytest.fixture(scope="module")
def material():
    return toy_material()


@pytest.fixture(scope="module")
def setup(material):
    return Setup.of(material, ToyReader())


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("make", [MedKLIP, MeDSLIP])
def test_an_answer_depends_on_nothing_else_that_is_asked(make, setup, material):
    model = untrained(make, setup)
    films = torch.from_numpy(material.maps[:3])
    asked = ["COVID-19", "Edema", "No Finding", "Pneumothorax"]
    together = model.classify(films, asked)
    for column, name in enumerate(asked):
        torch.testing.assert_close(model.classify(films, [name])[:, 0], together[:, column])
    assert together.std(dim=1).min() > 1e-4
    maps = model.ground(films, "COVID-19")
    assert maps.shape == films.shape[:3]
    torch.testing.assert_close(maps.sum(dim=(1, 2)), torch.ones(3))  # attention
    with pytest.raises(InputError):
        model.classify(films, ["Gout"])


def test_the_decoder_is_attention_written_out():
    """One layer of one query by hand: softmax of scaled products a head, means over heads."""
    torch.manual_seed(0)
    decoder, cells = queries.QueryDecoder().eval(), torch.randn(2, 5, WIDTH)
    asks = torch.randn(3, QUERY)
    found_answers, maps = decoder(asks, cells, 3)
    answers, seen = asks.expand(2, -1, -1), decoder.narrow(cells)
    total, size = torch.zeros(2, 3, 5), QUERY // 4
    for layer in decoder.layers:
        normed = layer.norms[0](answers)
        answers = answers + layer.among(normed, normed, normed)[0]
        asked = layer.norms[1](answers)
        weights, biases = layer.across.in_proj_weight, layer.across.in_proj_bias
        found = torch.zeros(2, 3, QUERY)
        for head in range(0, QUERY, size):
            q, k, v = (
                each @ weights[first + head :][:size].T + biases[first + head :][:size]
                for each, first in ((asked, 0), (seen, QUERY), (seen, 2 * QUERY))
            )
            attention = (q @ k.transpose(1, 2) / math.sqrt(size)).softmax(dim=2)
            total += attention / (4 * len(decoder.layers))
            found[..., head : head + size] = attention @ v
        answers = answers + layer.across.out_proj(found)
        answers = answers + layer.forth(layer.norms[2](answers))
    torch.testing.assert_close(maps, total, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found_answers, decoder.norm(answers))


def literal_bce(logits, labels) -> float:
    """The mean over what is known."""
    losses = []
    for logit, label in zip(np.ravel(logits), np.ravel(labels), strict=True):
        if not math.isnan(label):
            chance = 1 / (1 + math.exp(-logit))
            losses.append(-math.log(chance if label else 1 - chance))
    return np.mean(losses)


def test_exist_loss_masks_what_is_not_stated(rng):
    q, a = rng.normal(size=(2, 3, QUERY)), rng.normal(size=(2, 4, QUERY))
    labels = rng.choice([0.0, 1.0, NAN], (2, 3, 4))
    products = np.einsum("bqd,bkd->bqk", q, a) / math.sqrt(QUERY)
    found = queries.inner(torch.from_numpy(q), torch.from_numpy(a).transpose(1, 2))
    value = queries.exist_loss(found, torch.from_numpy(labels))
    assert value.item() == pytest.approx(literal_bce(products, labels), rel=1e-6)
    assert queries.exist_loss(found, torch.full_like(found, NAN)).item() == 0


def test_contrast_loss_is_one_positive_against_the_drawn_negatives(rng):
    logits = rng.normal(size=(4, 12))
    named = rng.random((4, 12)) < 0.3
    named[:, 0] = True
    for positives in (queries.draw_positive(named, rng), named):  # MedKLIP's, MeDSLIP's
        negatives = queries.draw_negatives(named, rng)
        total = 0.0
        for row, own, others in zip(logits, positives, negatives, strict=True):
            positive = math.exp(row[own].mean())
            total -= math.log(positive / (positive + np.exp(row[others]).sum()))
        value = queries.contrast_loss(*map(torch.from_numpy, (logits, positives, negatives)))
        assert value.item() == pytest.approx(total / 4, rel=1e-6)
    nothing = torch.zeros(0, 12)
    assert queries.contrast_loss(nothing, nothing.bool(), nothing.bool()).item() == 0
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    positives = torch.eye(5, dtype=torch.bool)[:3]
    queries.contrast_loss(logits, positives, torch.eye(5, dtype=torch.bool)[2:]).backward()
    assert torch.isfinite(logits.grad).all()  # where logits are left out too
    assert logits.grad[0].nonzero().flatten().tolist() == [0, 2]


def test_draws_respect_what_is_named(rng):
    named = rng.random((200, 12)) < 0.3
    named[:, 0] = True
    positive, negative = queries.draw_positive(named, rng), queries.draw_negatives(named, rng)
    assert (positive.sum(axis=1) == 1).all() and not (positive & ~named).any()
    assert not (negative & named).any()
    assert (negative.sum(axis=1) == np.minimum(7, (~named).sum(axis=1))).all()
    many = np.repeat(named[:1], 400, axis=0)
    for draw, open_to in ((queries.draw_positive, many[0]), (queries.draw_negatives, ~many[0])):
        assert (draw(many, rng).any(axis=0) == open_to).all()  # each gets its turn


def test_pairs_and_places_are_labeled_as_far_as_reports_tell():
    stated = torch.tensor([[1.0, 0.0, NAN, 1.0], [NAN, NAN, 1.0, NAN]])
    positions = torch.zeros(2, 4, 3, dtype=torch.bool)
    positions[0, 0, 1] = True  # concept 0 lies at place 1; concept 3 is present, nobody says where
    pairs = queries.pair_labels(stated, positions)
    unknown = [NAN] * 3
    expected = torch.tensor([[[0.0, 1, 0], [0.0, 0, 0], unknown, unknown], [unknown] * 4])
    places = torch.tensor([[0.0, 1, 0], unknown])
    for found, labels in ((pairs, expected), (queries.place_labels(pairs), places)):
        torch.testing.assert_close(found, labels, equal_nan=True)


def test_the_prototype_is_a_mean_of_text_states(rng):
    """Against the formula with p_i built first, with all other names as negatives (K < 8)."""
    answers, states = rng.normal(size=(2, 3, QUERY)), rng.normal(size=(5, 9))
    linear, named = rng.normal(size=(9, QUERY)), rng.random((2, 3, 5)) < 0.4
    named[0, 0] = False

    def literal(choose) -> float:
        losses = []
        for film, query in np.argwhere(named.any(axis=2)):
            of, answer = named[film, query], answers[film, query]
            candidates = [choose(states[of]), *states[~of]]
            logits = [answer @ (each @ linear) / math.sqrt(QUERY) for each in candidates]
            losses.append(np.log(np.exp(logits).sum()) - logits[0])
        return np.mean(losses)

    given = torch.from_numpy(answers), torch.from_numpy(states @ linear)
    value = queries.prototype_loss(*given, named, rng)
    assert value.item() == pytest.approx(literal(lambda each: each.mean(axis=0)), rel=1e-6)
    named = np.eye(5, dtype=bool)[:3][None].repeat(2, axis=0)  # one name each: nothing to choose
    value = queries.prototype_loss(*given, named, rng, single=True)
    assert value.item() == pytest.approx(literal(lambda each: each[0]), rel=1e-6)


def test_medklips_loss_is_existence_and_one_of_the_named_places(setup, material):
    """The toy names one place a present concept, and there are two: no chance is involved."""
    model, batch = untrained(MedKLIP, setup), batch_of(material)
    answers, _ = model.answers(batch.cells, batch.places, model.book)
    stated, named = material.stated[:8], material.positions[:8]
    products = (answers @ model.where(model.spots).T / math.sqrt(QUERY)).detach().numpy()
    located = named.any(axis=2)
    margins = (products[~named & located[..., None]] - products[named]).tolist()
    contrast = np.mean([math.log(1 + math.exp(each)) for each in margins])
    expected = literal_bce(model.exist(answers).detach().numpy(), stated) + contrast
    assert model.loss(batch).item() == pytest.approx(expected, rel=1e-5)


def test_medslip_streams_are_a_mask_and_its_complement(setup, material):
    """With a mask of one everywhere the anatomy stream sees nothing of the film."""
    model = untrained(MeDSLIP, setup).train()
    torch.nn.init.zeros_(model.mask.weight)
    torch.nn.init.ones_(model.mask.bias)
    seen = []
    for stream in (model.anatomy, model.pathology):
        stream.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    batch = batch_of(material, 4)
    model.loss(batch)
    torch.testing.assert_close(seen[0], model.enter_mask(batch.cells))
    assert seen[1].abs().max() == 0
