"""The stand-in's objective against literal loops, and that it learns a toy problem."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from rctpl_utils.encoders import pretraining
from rctpl_utils.encoders.pretraining import (
    ATTRIBUTE_ENTRIES,
    ATTRIBUTES,
    ENTRIES,
    WIDTH,
    Pairs,
    TextLists,
    augment,
    balanced_chances,
    build_text_bank,
    label_vector,
    pretrain,
    rate_at,
    semantic_matching,
    spread_texts,
    store,
    training_texts,
)
from rctpl_utils.profiles import Pretraining
from rctpl_utils.simulation.stand_ins import LOOKS, film_texts
from rctpl_utils.vocabulary import TRAINING_CONCEPTS

CPU = torch.device("cpu")


def entry(concept: str, place: int = 0) -> int:
    return TRAINING_CONCEPTS.index(concept) * ENTRIES + place


def test_a_label_vector_tells_concept_parents_and_place():
    vector = label_vector([("Mass", "left upper lobe", "present"), ("Edema", None, "absent")])
    for concept in ("Mass", "Lung Lesion", "Lung Opacity"):
        assert vector[entry(concept)] == 1
        assert vector[entry(concept, 1) : entry(concept, 6)].tolist() == [0.5, 0, 0.5, 0, 0]
    assert vector[entry("Edema")] == -1 and vector[-1] == 0
    nothing = label_vector([("Mass", None, "uncertain")])  # which counts for nothing
    assert nothing[-1] == 1 and np.count_nonzero(nothing) == 1


def test_the_text_bank_holds_reports_sentences_and_phrases_then_come_impressions():
    said = [
        ("a", "Left mass.", "Mass", "left", "present"), ("a", "No edema.", "Edema", None, "absent"),
        ("a", "A nodule.", "Nodule", None, "present"),
        ("b", "No edema.", "Edema", "left", "absent"),
    ]  # fmt: skip
    columns = ["report_id", "sentence", "concept", "location", "positive"]
    reports = ["Left mass. No edema. A nodule.", "No edema.", "Three."]
    bank = build_text_bank(["a", "b", "c"], reports, pd.DataFrame(said, columns=columns))
    # no knowledge description is among them
    whole = [reports[0], "Left mass.", "No edema.", "A nodule.", "mass, left", "no edema", "nodule"]
    assert [bank.texts[row] for row in bank.rows[0]] == whole
    assert [bank.texts[row] for row in bank.rows[1]] == ["No edema.", "no edema"]
    found = [[bank.texts[row] for row in rows] for rows in bank.finding_rows]
    assert found == [[text for text in whole if not text.lower().startswith("no ")], [], []]
    assert bank.report_vectors.shape == (3, WIDTH)
    texts, rows = training_texts(bank, ["First.", "", "Third."])
    assert texts == [*bank.texts, "First.", "Third."]  # the bank stays as it is
    count = len(bank.texts)  # a report without an impression stands for itself
    assert rows.tolist() == [count, bank.rows[1][0], count + 1]


def test_semantic_matching_matches_a_loop():
    logits, targets = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for rows, wanted in ((logits, targets), (logits.T, targets.T)):
        for row, want in zip(rows.tolist(), wanted.tolist(), strict=True):
            z, y = (sum(map(math.exp, values)) for values in (row, want))
            for v, w in zip(row, want, strict=True):
                total -= math.exp(w) / y * math.log(math.exp(v) / z) / len(rows) / 2
    assert semantic_matching(logits, targets).item() == pytest.approx(total, rel=1e-5)


def test_rare_entries_are_drawn_more_often_and_texts_from_each_ones_own_list():
    chances = balanced_chances(np.array([[1.0, 0], [1, 0], [1, 0], [1, 0], [0, 1]]))
    assert chances.sum() == pytest.approx(1)
    assert chances[4] == pytest.approx(2 * chances[0])
    lists = TextLists.of([np.array([3, 4]), np.array([], int), np.array([7])])
    drawn = lists.draw(np.array([0, 1, 2, 2]), 50, np.random.default_rng(0))
    assert set(drawn[:50]) == {3, 4} and set(drawn[50:]) == {7} and len(drawn) == 150


def test_whitened_texts_are_uncorrelated():
    pooled = np.random.default_rng(0).normal(1, 1, (500, 8)).astype(np.float32)
    projection = torch.nn.Linear(8, 3, bias=False)
    spread_texts(projection, pooled)
    projected = pooled @ projection.weight.detach().numpy().T
    assert projected.T @ projected / 500 == pytest.approx(np.eye(3), abs=1e-3)


def test_augmented_images_are_standardized_differ_and_repeat():
    images = torch.randint(0, 255, (2, 32, 32), dtype=torch.uint8)
    one, other, again = (augment(images, np.random.default_rng(k)) for k in (0, 1, 0))
    assert one.shape == (2, 1, 32, 32)
    assert torch.allclose(one.mean((1, 2, 3)), torch.zeros(2), atol=1e-4)
    assert not torch.allclose(one, other) and torch.equal(one, again)


def test_the_rate_warms_up_and_falls_to_zero():
    rates = [rate_at(step, 100) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert max(rates) == 1 and rates[-1] < 1e-3
    assert rates[5:] == sorted(rates[5:], reverse=True)


def toy_pairs(count: int = 64) -> Pairs:
    """Two kinds of films, each with a text of its own; random vectors for MiniLM's."""
    kinds, vectors = np.arange(count) % 2, np.eye(2, WIDTH, dtype=np.float32)
    images = np.zeros((count, 32, 32), np.uint8)
    images[kinds == 0, :16] = images[kinds == 1, 16:] = 200
    pooled = np.random.default_rng(0).normal(size=(200, 140)).astype(np.float16)
    said = np.tile(vectors, (100, 1))
    own = TextLists.of([np.arange(k, 200, 2) for k in kinds])
    none = TextLists.of([np.array([], int)] * count)
    return Pairs(images, np.arange(count), vectors[kinds], pooled, said, own, own, none)


TOY = Pretraining(views=640, batch_size=16, learning_rate=2e-3)


@pytest.fixture(scope="module")
def trained():
    return pretrain(toy_pairs(), TOY, 0, CPU)


def test_it_learns_a_toy_problem_and_repeats_itself(trained):
    weights, history = trained
    assert history[-1]["views"] == 640
    assert history[-1]["global_loss"] < history[0]["global_loss"]
    again, _ = pretrain(toy_pairs(), TOY, 0, CPU)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    other, _ = pretrain(toy_pairs(), TOY, 1, CPU)
    assert not torch.equal(other["logit_scale"], weights["logit_scale"])


def test_a_killed_training_goes_on_and_ends_as_an_undisturbed_one(trained, tmp_path, monkeypatch):
    (undisturbed, curve), part = trained, tmp_path / "part"
    monkeypatch.setattr(pretraining, "CHECKPOINT_SECONDS", -1.0)

    def killed(checkpoint, state):
        store(checkpoint, state)
        if state["step"] >= 17:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pretraining, "store", killed)
        with pytest.raises(KeyboardInterrupt):
            pretrain(toy_pairs(), TOY, 0, CPU, part)
    assert part.exists()
    resumed, again = pretrain(toy_pairs(), TOY, 0, CPU, part)
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)
    timeless, other = ([{**row, "seconds": 0} for row in rows] for rows in (curve, again))
    assert timeless == other and not part.exists()


def test_attribute_sentences_say_what_is_drawn_and_where():
    words = " ".join(phrase for look in LOOKS.values() for phrase in look.phrases).lower()
    assert set(TRAINING_CONCEPTS) <= set(LOOKS)
    assert not any(word in words for word in ("covid", "corona", "sars"))
    columns = ["image", "split", "concept", "side", "zone", "severity", "x", "y"]
    opacity = ("a", "train", "Lung Opacity", "left", "lower", 0.9, np.nan, np.nan)
    pneumonia = ("b", "train", "Pneumonia", np.nan, np.nan, 0.5, 0.1, 0.8)
    drawn = pd.DataFrame([opacity, pneumonia], columns=columns)
    found = film_texts(drawn, ["b", "clear", "a"])
    texts = [[found.texts[row] for row in rows] for rows in found.rows]
    assert "extensive hazy ground-glass opacity in the left lower zone" in texts[2]
    assert "patchy opacification in the right lower zone near the chest wall" in texts[0]
    assert texts[1] == [] and not found.film_vectors[1].any()
    said = found.vectors[found.rows[0][0]]
    assert said[entry("Lung Opacity")] == 1 and said[entry("Pneumonia")] == 0
    assert said[entry("Lung Opacity", 1) : entry("Lung Opacity", 6)].tolist() == [0, 0.5, 0, 0, 0.5]
    names = {ATTRIBUTES[k] for k in np.flatnonzero(said[ATTRIBUTE_ENTRIES])}
    assert names == {"patchy", "hazy", "peripheral"}
    assert found.film_vectors[0][ATTRIBUTE_ENTRIES].tolist() == said[ATTRIBUTE_ENTRIES].tolist()
