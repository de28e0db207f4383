"""Prompt training: it learns, repeats itself, leaves the encoder alone, and never sees an image."""

import ast
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from weights import save_stand_in

import rctpl_utils.prompts.training as training
from rctpl_utils.encoders.base import state_hash
from rctpl_utils.errors import InputError
from rctpl_utils.profiles import PromptLearning
from rctpl_utils.prompts.model import RCTPL
from rctpl_utils.prompts.prompts import Prompts, classes_of, nearest_words
from rctpl_utils.prompts.training import TextCorpus

CONCEPTS = ("Edema", "Pneumothorax", "Fracture")
SETTINGS = PromptLearning(context_length=4, epochs=4, batch_size=8, learning_rate=5e-3, margin=1.0)


@pytest.fixture(scope="module")
def corpus(encoder):
    texts = ["Both lungs are wet.", "Air in the pleural space.", "A rib is broken."]
    features = encoder.encode_text(texts).numpy()
    kinds = np.arange(24) % 3
    labels = np.eye(3, dtype=np.float32)[kinds]
    return TextCorpus(features[kinds], features, [np.array([k]) for k in kinds], labels)


def learn(encoder, corpus, seed=0, **options):
    return training.learn_prompts(
        encoder, corpus, CONCEPTS, SETTINGS, seed, progress=False, **options
    )


@pytest.fixture(scope="module")
def learned(encoder, corpus):
    return learn(encoder, corpus, validation=corpus)


def test_the_loss_falls_a_seed_repeats_itself_another_differs_and_the_encoder_stays(
    encoder, corpus, learned
):
    before = state_hash(encoder)
    again, other = (learn(encoder, corpus, seed) for seed in (0, 1))
    assert state_hash(encoder) == before
    assert torch.equal(learned.report, again.report) and torch.equal(learned.concept, again.concept)
    assert not torch.equal(learned.report, other.report)
    losses = [row["report_loss"] + row["concept_loss"] for row in learned.history]
    assert losses[-1] < 0.8 * losses[0]
    assert learned.history[-1]["validation_report_loss"] < learned.history[0]["report_loss"]


def test_a_branch_alone_learns_what_it_learns_beside_the_other(encoder, corpus, learned):
    alone = learn(encoder, corpus, branches=("concept",))
    assert torch.allclose(alone.concept, learned.concept, atol=1e-5)
    assert "report_loss" not in alone.history[0]
    moved = (learned.report - alone.report).abs().mean()
    assert moved > 1e-3, "the report context of the lone branch is the initial one"


def test_training_cannot_reach_images():
    """Follow the package's own imports from `training`: none may lead to image data."""
    package = Path(training.__file__).parents[1]
    reached, queue = set(), ["prompts.training"]
    while queue:
        name = queue.pop()
        file = package / (name.replace(".", "/") + ".py")
        file = file if file.exists() else package / name.replace(".", "/") / "__init__.py"
        if name in reached or not file.exists():
            continue
        reached.add(name)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rctpl_utils."):
                queue.append(node.module.removeprefix("rctpl_utils."))
    assert "scoring" in reached and "profiles" in reached
    forbidden = ("datasets", "simulation")
    forbidden += tuple(f"encoders.{name}" for name in ("features", "standin", "image_tower"))
    assert not [name for name in reached if name.startswith(forbidden)]
    fields = {field.name for field in dataclasses.fields(TextCorpus)}
    assert fields == {"report_features", "description_features", "description_rows", "labels"}


def test_a_batch_pads_and_masks(encoder):
    corpus = TextCorpus(
        np.zeros((2, 4), np.float32),
        np.arange(12, dtype=np.float32).reshape(3, 4),
        [np.array([2]), np.array([0, 1])],
        np.array([[1, 0, np.nan], [0, 0, 1]], np.float32),
    )
    batch = corpus.batch(np.array([0, 1]), torch.device("cpu"))
    assert batch.described.tolist() == [[True, False], [True, True]]
    assert batch.descriptions[0, 0].tolist() == [8, 9, 10, 11]
    assert batch.present.tolist() == [[True, False, False], [False, False, True]]
    assert batch.absent.tolist() == [[False, True, False], [True, True, False]]


def test_prompts_round_trip_and_classify(encoder, learned, tmp_path):
    save_stand_in(encoder, tmp_path / "encoder.safetensors")
    metadata = {"text_key": encoder.text_key, "encoder_file": "../encoder.safetensors"}
    metadata["classes"] = json.dumps(CONCEPTS)
    prompts = Prompts(learned.report, learned.concept, metadata)
    path = prompts.save(tmp_path / "prompts" / "rc-tpl.safetensors")
    model = RCTPL.load(path)
    assert prompts.parameters == 2 * 4 * 384
    assert classes_of(model.prompts) == CONCEPTS
    images = list(np.random.default_rng(0).random((2, 64, 64)))
    scores = model.classify(images, ["Edema", "COVID-19"])
    assert scores.shape == (2, 2) and (np.abs(scores) <= 1).all()
    assert model.ground(images, "Edema").shape == (2, 8, 8)
    assert model.embed_images(images).shape == (2, encoder.dimension)
    assert len(nearest_words(model.prompts.report, encoder, 2)) == 4
    foreign = Prompts(learned.report, learned.concept, {"text_key": "other"})
    path = foreign.save(tmp_path / "p.safetensors")
    with pytest.raises(InputError, match="another text encoder"):
        RCTPL.load(path, encoder)


@pytest.mark.parametrize("content", [None, b"damaged"])
def test_bad_prompt_files_are_named(content, tmp_path):
    path = tmp_path / "p.safetensors"
    if content:
        path.write_bytes(content)
    with pytest.raises(InputError, match="notebook 04"):
        Prompts.load(path)
    path = Prompts(torch.zeros(3, 4), torch.zeros(2, 4), {}).save(tmp_path / "p.safetensors")
    with pytest.raises(InputError, match="M x W"):
        Prompts.load(path)
