"""MedKLIP, MeDSLIP, MedPrompt-ViT: losses against literal versions, open sets."""

import math

import numpy as np
import pytest
import torch
from toy_baselines import CONCEPTS, ToyReader, toy_material

from rctpl_utils.baselines.medprompt import MedPromptViT, pseudo_label_loss
from rctpl_utils.baselines.model import WIDTH, Setup
from rctpl_utils.baselines.queries import (
    NEGATIVES,
    QUERY,
    MedKLIP,
    MeDSLIP,
    QueryDecoder,
    contrast_loss,
    draw_negatives,
    draw_positive,
    exist_loss,
    inner,
    pair_labels,
    place_labels,
    prototype_loss,
)
from rctpl_utils.baselines.training_data import draw_batch
from rctpl_utils.errors import InputError

CPU = torch.device("cpu")
NAN = float("nan")


@pytest.fixture(scope="module")
def material():
    return toy_material()


@pytest.fixture(scope="module")
def setup(material):
    return Setup.of(material, ToyReader())


@pytest.mark.parametrize("make", [MedKLIP, MeDSLIP])
def test_an_answer_depends_on_nothing_else_that_is_asked(make, setup, material):
    torch.manual_seed(0)
    model = make(setup).eval()
    films = torch.from_numpy(material.maps[:3])
    together = model.classify(films, ["COVID-19", "Edema", "No Finding", "Pneumothorax"])
    for column, name in enumerate(["COVID-19", "Edema", "No Finding", "Pneumothorax"]):
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
    decoder, cells = QueryDecoder().eval(), torch.randn(2, 5, WIDTH)
    queries = torch.randn(3, QUERY)
    _, maps = decoder(queries, cells, 3)
    answers, seen = queries.expand(2, -1, -1), decoder.narrow(cells)
    total = torch.zeros(2, 3, 5)
    for layer in decoder.layers:
        normed = layer.norms[0](answers)
        answers = answers + layer.among(normed, normed, normed)[0]
        asked = layer.norms[1](answers)
        weights, biases = layer.across.in_proj_weight, layer.across.in_proj_bias
        found = torch.zeros(2, 3, QUERY)
        size = QUERY // 4
        for head in range(4):
            q, k, v = (
                each @ weights[rows].T + biases[rows]
                for each, first in ((asked, 0), (seen, QUERY), (seen, 2 * QUERY))
                for rows in [slice(first + head * size, first + (head + 1) * size)]
            )
            attention = (q @ k.transpose(1, 2) / math.sqrt(size)).softmax(dim=2)
            total += attention / (4 * len(decoder.layers))
            found[..., head * size : (head + 1) * size] = attention @ v
        answers = answers + layer.across.out_proj(found)
        answers = answers + layer.forth(layer.norms[2](answers))
    torch.testing.assert_close(maps, total, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(decoder(queries, cells, 3)[0], decoder.norm(answers))


def test_exist_loss_masks_what_is_not_stated():
    logits = torch.tensor([[0.3, -1.2, 2.0], [0.0, 4.0, -0.5]])
    stated = torch.tensor([[1.0, NAN, 0.0], [NAN, 1.0, NAN]])
    total, count = 0.0, 0
    for logit, label in zip(logits.flatten().tolist(), stated.flatten().tolist(), strict=True):
        if not math.isnan(label):
            chance = 1 / (1 + math.exp(-logit))
            total -= math.log(chance if label else 1 - chance)
            count += 1
    assert exist_loss(logits, stated).item() == pytest.approx(total / count, rel=1e-5)
    assert exist_loss(logits, torch.full((2, 3), NAN)).item() == 0


def test_exist_loss_is_their_cross_entropy_of_two_outputs():
    pairs = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    theirs = torch.nn.functional.cross_entropy(pairs, labels)
    torch.testing.assert_close(exist_loss(pairs[:, 1] - pairs[:, 0], labels.float()), theirs)


def test_contrast_loss_is_one_positive_against_the_drawn_negatives():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4, 12))
    named = generator.random((4, 12)) < 0.3
    named[:, 0] = True
    for positives in (draw_positive(named, generator), named):  # MedKLIP's, MeDSLIP's
        negatives = draw_negatives(named, generator)
        total = 0.0
        for row in range(4):
            positive = np.mean([logits[row, k] for k in range(12) if positives[row, k]])
            against = sum(math.exp(logits[row, k]) for k in range(12) if negatives[row, k])
            total -= math.log(math.exp(positive) / (math.exp(positive) + against))
        value = contrast_loss(*map(torch.from_numpy, (logits, positives, negatives)))
        assert value.item() == pytest.approx(total / 4, rel=1e-6)
    nothing = torch.zeros(0, 12)
    assert contrast_loss(nothing, nothing.bool(), nothing.bool()).item() == 0


def test_contrast_loss_has_finite_gradients_where_logits_are_left_out():
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    positives = torch.eye(5, dtype=torch.bool)[:3]
    contrast_loss(logits, positives, torch.eye(5, dtype=torch.bool)[2:]).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0].nonzero().flatten().tolist() == [0, 2]


def test_draws_respect_what_is_named():
    generator = np.random.default_rng(0)
    named = generator.random((200, 12)) < 0.3
    named[:, 0] = True
    positive, negative = draw_positive(named, generator), draw_negatives(named, generator)
    assert (positive.sum(axis=1) == 1).all()
    assert not (positive & ~named).any()
    assert not (negative & named).any()
    assert (negative.sum(axis=1) == np.minimum(NEGATIVES, (~named).sum(axis=1))).all()
    many = np.repeat(named[:1], 400, axis=0)
    for draw, open_to in ((draw_positive, many[0]), (draw_negatives, ~many[0])):
        assert (draw(many, generator).any(axis=0) == open_to).all()  # each gets its turn


def test_pairs_and_places_are_labeled_as_far_as_reports_tell():
    stated = torch.tensor([[1.0, 0.0, NAN, 1.0], [NAN, NAN, 1.0, NAN]])
    positions = torch.zeros(2, 4, 3, dtype=torch.bool)
    positions[0, 0, 1] = True  # concept 0 lies at place 1; concept 3 is present, nobody says where
    pairs = pair_labels(stated, positions)
    unknown = [NAN] * 3
    expected = torch.tensor([[[0.0, 1, 0], [0.0, 0, 0], unknown, unknown], [unknown] * 4])
    torch.testing.assert_close(pairs, expected, equal_nan=True)
    places = torch.tensor([[0.0, 1, 0], unknown])
    torch.testing.assert_close(place_labels(pairs), places, equal_nan=True)


def test_the_prototype_is_a_mean_of_text_states():
    """Against the formula with p_i built first, with all other names as negatives (K < 8)."""
    rng = np.random.default_rng(0)
    answers, states, linear = rng.normal(size=(2, 3, QUERY)), rng.normal(size=(5, 9)), rng.normal(
        size=(9, QUERY)
    )  # fmt: skip
    named = rng.random((2, 3, 5)) < 0.4
    named[0, 0] = False
    losses = []
    for film in range(2):
        for query in range(3):
            if not named[film, query].any():
                continue
            prototype = states[named[film, query]].mean(axis=0)
            candidates = [prototype, *states[~named[film, query]]]
            logits = [
                answers[film, query] @ (each @ linear) / math.sqrt(QUERY) for each in candidates
            ]
            losses.append(np.log(np.exp(logits).sum()) - logits[0])
    value = prototype_loss(torch.from_numpy(answers), torch.from_numpy(states @ linear), named, rng)
    assert value.item() == pytest.approx(np.mean(losses), rel=1e-6)


def test_interaction_is_bce_of_inner_products_where_known():
    rng = np.random.default_rng(1)
    q, a = rng.normal(size=(2, 3, QUERY)), rng.normal(size=(2, 4, QUERY))
    labels = rng.choice([0.0, 1.0, NAN], (2, 3, 4))
    losses = []
    for film, i, j in np.ndindex(2, 3, 4):
        if not np.isnan(labels[film, i, j]):
            chance = 1 / (1 + math.exp(-q[film, i] @ a[film, j] / math.sqrt(QUERY)))
            losses.append(-math.log(chance if labels[film, i, j] else 1 - chance))
    products = inner(torch.from_numpy(q), torch.from_numpy(a).transpose(1, 2))
    value = exist_loss(products, torch.from_numpy(labels))
    assert value.item() == pytest.approx(np.mean(losses), rel=1e-6)


def test_medslip_streams_are_a_mask_and_its_complement(setup, material):
    """With a mask of one everywhere the anatomy stream sees nothing of the film."""
    torch.manual_seed(0)
    model = MeDSLIP(setup)
    torch.nn.init.zeros_(model.mask.weight)
    torch.nn.init.ones_(model.mask.bias)
    seen = []
    model.anatomy.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.pathology.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    batch = draw_batch(material, np.arange(4), np.random.default_rng(0), CPU)
    model.loss(batch)
    torch.testing.assert_close(seen[0], model.enter_mask(batch.cells))
    assert seen[1].abs().max() == 0


def test_prompt_loss_is_cross_entropy_with_the_towers_guess():
    rng = np.random.default_rng(0)
    logits, guess = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    total = 0.0
    for row in range(5):
        label = max(range(4), key=lambda k: guess[row, k])
        total -= math.log(math.exp(logits[row, label]) / np.exp(logits[row]).sum())
    value = pseudo_label_loss(torch.from_numpy(logits), torch.from_numpy(guess))
    assert value.item() == pytest.approx(total / 5, rel=1e-6)


def test_the_prompt_starts_as_the_name_and_its_loss_moves_the_generator_alone(setup, material):
    torch.manual_seed(0)
    model = MedPromptViT(setup)
    image = torch.nn.functional.normalize(torch.randn(3, 128), dim=1)
    named = model.embed_texts([name.lower() for name in CONCEPTS])
    torch.testing.assert_close(model.prompts(image, model.names)[1], named)
    scores = (model.prompts(image, model.names) @ image.unsqueeze(2)).squeeze(2)
    pseudo_label_loss(scores, torch.randn(3, 2)).backward()
    moved = {name for name, each in model.named_parameters() if each.grad is not None}
    assert moved == {"context", *(f"net.{name}" for name, _ in model.net.named_parameters())}
