"""The benchmark compares like with like: both loops take the same steps over the same batches."""

import numpy as np
import torch

from rctpl_utils import benchmark
from rctpl_utils.corpus import TextCorpus
from rctpl_utils.profiles import PromptLearning


def test_both_loops_score_the_same_batches(encoder, monkeypatch):
    reports, sentences = ["edema and mass", "no edema"], ["edema.", "mass."]
    corpus = TextCorpus(
        encoder.encode_text(reports).numpy(),
        encoder.encode_text(sentences).numpy(),
        [np.array([0, 1]), np.array([0])],
        np.eye(2, 20, dtype=np.float32),
    )
    seen, encoded = [], []
    losses, encode = benchmark.batch_losses, type(encoder).encode_text

    def recorded(batch, embeddings, temperature, margin):
        found = losses(batch, embeddings, temperature, margin)
        seen.append([value.item() for value in found.values()])
        return found

    monkeypatch.setattr(benchmark, "batch_losses", recorded)
    monkeypatch.setattr(
        type(encoder),
        "encode_text",
        lambda self, texts: (encoded.extend(texts), encode(self, texts))[1],
    )
    settings = PromptLearning(context_length=2, batch_size=1)
    for texts in (None, (reports, sentences)):
        benchmark._epoch(encoder, corpus, texts, settings, 2)
    assert seen[:2] == seen[2:] and seen[0] != seen[1]
    assert encoded == ["edema and mass", "edema.", "mass.", "no edema", "edema."]


def test_clock_is_the_median_of_calls_after_a_warm_up():
    calls = []
    assert benchmark.clock(lambda: calls.append(torch.ones(1)), 3) >= 0
    assert len(calls) == 4
