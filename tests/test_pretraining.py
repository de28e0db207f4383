"""The stand-in's objective against literal loops, and that it learns a toy problem."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_world import write_mimic

from rctpl_utils.baselines.material import build_material
from rctpl_utils.encoders.base import state_hash
from rctpl_utils.frozen import pretrained_standin
from rctpl_utils.pretraining import (
    TARGET_TEMPERATURE,
    Pairs,
    augment,
    balanced_chances,
    pretrain,
    semantic_matching,
    soft_targets,
    spread_texts,
)
from rctpl_utils.pretraining_texts import (
    ENTRIES,
    WIDTH,
    build_text_bank,
    finding_phrase,
    label_vector,
    training_texts,
)
from rctpl_utils.profiles import Pretraining, get_profile
from rctpl_utils.reports import Report
from rctpl_utils.vocabulary import TRAINING_CONCEPTS
from rctpl_utils.workspace import Workspace

CPU = torch.device("cpu")


def entry(concept: str, place: int = 0) -> int:
    return TRAINING_CONCEPTS.index(concept) * ENTRIES + place


def test_a_label_vector_tells_concept_parents_and_place():
    vector = label_vector([("Mass", "left upper lobe", "present"), ("Edema", None, "absent")])
    for concept in ("Mass", "Lung Lesion", "Lung Opacity"):
        assert vector[entry(concept)] == 1
        assert vector[entry(concept, 1) : entry(concept, 6)].tolist() == [0.5, 0, 0.5, 0, 0]
    assert vector[entry("Edema")] == -1
    assert vector[-1] == 0


def test_nothing_found_has_an_entry_of_its_own_and_uncertain_counts_for_nothing():
    vector = label_vector([("Mass", None, "uncertain")])
    assert vector[-1] == 1 and np.count_nonzero(vector) == 1


def test_the_text_bank_holds_reports_sentences_and_phrases():
    triplets = pd.DataFrame(
        {
            "report_id": ["a", "a", "b"],
            "sentence": ["Left mass.", "No edema.", "No edema."],
            "concept": ["Mass", "Edema", "Edema"],
            "location": ["left", None, None],
            "positive": ["present", "absent", "absent"],
        }
    )
    bank = build_text_bank(["a", "b"], ["Left mass. No edema.", "No edema."], triplets)
    assert [bank.texts[row] for row in bank.rows[0]] == [
        "Left mass. No edema.", "Left mass.", "No edema.", "mass, left", "no edema",
    ]  # fmt: skip
    assert [bank.texts[row] for row in bank.finding_rows[0]] == [
        "Left mass. No edema.", "Left mass.", "mass, left",
    ]  # fmt: skip
    assert len(bank.finding_rows[1]) == 0
    assert bank.report_vectors.shape == (2, WIDTH)


def test_impressions_follow_the_banks_texts_and_a_report_without_one_stands_for_itself():
    triplets = pd.DataFrame(columns=["report_id", "sentence", "concept", "location", "positive"])
    bank = build_text_bank(["a", "b", "c"], ["One.", "Two.", "Three."], triplets)
    texts, rows = training_texts(bank, ["First.", "", "Third."])
    assert texts == ["One.", "Two.", "Three.", "First.", "Third."]
    assert rows.tolist() == [3, 1, 4]
    assert bank.texts == ["One.", "Two.", "Three."], "the bank stays as it is"


def test_no_knowledge_description_is_among_the_texts():
    assert finding_phrase("Mass", None, "present") == "mass"
    assert finding_phrase("Mass", "left", "absent") == "no mass"


def test_soft_targets_are_cosines_over_a_temperature():
    images, texts = np.array([[3.0, 4.0]]), np.array([[1.0, 0.0], [0.0, 0.0]])
    expected = [[0.6 / TARGET_TEMPERATURE, 0]]
    assert soft_targets(images, texts, CPU).numpy() == pytest.approx(np.array(expected))


def test_semantic_matching_matches_a_loop():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(2, 3, 4, generator=generator)
    total = 0.0
    for rows, wanted in ((logits, targets), (logits.T, targets.T)):
        for row, want in zip(rows.tolist(), wanted.tolist(), strict=True):
            z = sum(math.exp(v) for v in row)
            y = sum(math.exp(v) for v in want)
            terms = (
                math.exp(w) / y * math.log(math.exp(v) / z) for v, w in zip(row, want, strict=True)
            )
            total -= sum(terms) / len(rows) / 2
    assert semantic_matching(logits, targets).item() == pytest.approx(total, rel=1e-5)


def test_rare_entries_are_drawn_more_often():
    vectors = np.array([[1.0, 0], [1, 0], [1, 0], [1, 0], [0, 1]])
    chances = balanced_chances(vectors)
    assert chances.sum() == pytest.approx(1)
    assert chances[4] == pytest.approx(2 * chances[0])


def test_whitened_texts_are_uncorrelated():
    pooled = np.random.default_rng(0).normal(1, 1, (500, 8)).astype(np.float32)
    projection = torch.nn.Linear(8, 3, bias=False)
    spread_texts(projection, pooled)
    projected = pooled @ projection.weight.detach().numpy().T
    assert projected.T @ projected / 500 == pytest.approx(np.eye(3), abs=1e-3)


def test_augmented_images_are_standardized_and_differ():
    torch.manual_seed(0)
    images = torch.randint(0, 255, (2, 32, 32), dtype=torch.uint8)
    one, other = augment(images), augment(images)
    assert one.shape == (2, 1, 32, 32)
    assert torch.allclose(one.mean((1, 2, 3)), torch.zeros(2), atol=1e-4)
    assert not torch.allclose(one, other)


def test_it_learns_a_toy_problem_repeats_itself_and_ends_frozen(tmp_path):
    concepts, count = ("Edema", "Fracture"), 64
    reports = [f"r{k}" for k in range(count)]
    kinds = np.arange(count) % 2
    triplets = pd.DataFrame(
        {
            "report_id": reports,
            "sentence": [f"There is {concepts[k].lower()}." for k in kinds],
            "concept": [concepts[k] for k in kinds],
            "location": None,
            "positive": "present",
        }
    )
    images = np.zeros((count, 32, 32), np.uint8)
    images[kinds == 0, :16] = 200
    images[kinds == 1, 16:] = 200
    bank = build_text_bank(reports, list(triplets["sentence"]), triplets)
    pairs = Pairs(images, np.arange(count), bank, bank.texts)
    settings = Pretraining(epochs=8, batch_size=16, learning_rate=2e-3)
    encoder, history = pretrain(pairs, 32, settings, tmp_path, CPU)
    assert history[-1]["global_loss"] < history[0]["global_loss"]
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    tops = torch.stack([encoder.preprocess(images[k] / 255) for k in (0, 1)])
    scores = (
        encoder.encode_image(tops).global_features @ encoder.encode_text(["edema", "fracture"]).T
    )
    assert scores[0, 0] > scores[1, 0] and scores[1, 1] > scores[0, 1]
    again, _ = pretrain(pairs, 32, settings, tmp_path, CPU)
    assert state_hash(again) == state_hash(encoder)


def test_pretraining_and_the_baselines_read_the_texts_from_one_file(tmp_path):
    write_mimic(tmp_path / "data")
    profile = replace(
        get_profile("smoke"), pretraining=Pretraining(epochs=1, batch_size=2, learning_rate=1e-3)
    )
    workspace = Workspace(profile, tmp_path, tmp_path / "data", None, CPU)
    reports = [
        Report("s50000001", "p10000001", "Edema is seen. No mass.", "Edema.", "train"),
        Report("s50000009", "p10000009", "No mass.", "", "train"),  # without a film
        Report("s50000002", "p10000002", "A text of the validation split.", "No.", "validation"),
    ]
    triplets = pd.DataFrame(
        [
            ("s50000001", "Edema is seen.", "Edema", None, "present"),
            ("s50000001", "No mass.", "Mass", None, "absent"),
            ("s50000009", "No mass.", "Mass", None, "absent"),
        ],
        columns=["report_id", "sentence", "concept", "location", "positive"],
    )
    encoder, _ = pretrained_standin(workspace, reports, triplets)
    (path,) = workspace.features.glob("words-*.npy")
    written = path.stat().st_mtime_ns
    material = build_material(workspace, encoder, reports, triplets)
    assert path.stat().st_mtime_ns == written
    assert Path(material.words.states.filename) == path.resolve()
    assert material.impressions.tolist() == [len(material.words.lengths) - 1, material.whole[1]]
    assert material.text_vectors[-1].tolist() == material.report_vectors[0].tolist()
    others = set(workspace.features.glob("words-*.npy")) - {path}
    assert [Path(material.masked.states.filename)] == [each.resolve() for each in others]
    assert len(material.text_vectors) == len(material.words.lengths) == len(np.load(path))
