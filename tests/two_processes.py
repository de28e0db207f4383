"""An epoch of prompt learning for one process or for several, which `test_scale` compares.

A module of its own, with few imports: every process that is spawned repeats them.
"""

import os
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from rctpl_utils.encoders import features
from rctpl_utils.encoders.parallel_training import processes
from rctpl_utils.profiles import PromptLearning
from rctpl_utils.prompts.training import Learned, TextCorpus, learn_prompts

CONCEPTS = ("Edema", "Pneumothorax", "Fracture")
SETTINGS = PromptLearning(context_length=4, epochs=1, batch_size=7, learning_rate=3e-3)
TEXTS = [f"The {'very ' * (k % 5)}small finding number {k} is new." for k in range(22)]


class ToyEncoder:
    """A text is the mean of its letters' vectors, a prompt that of its name beside the context."""

    text_key, dimension, context_width = "toy", 32, 64
    device = torch.device("cpu")

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.letters = torch.randn(128, self.context_width, generator=generator)
        self.projection = torch.randn(self.context_width, self.dimension, generator=generator)
        self.asked: list[str] = []

    def embed(self, texts, context=0) -> torch.Tensor:
        words = torch.stack([self.letters[list(text.encode())].mean(dim=0) for text in texts])
        return functional.normalize(torch.tanh(words + context) @ self.projection, dim=-1)

    def encode_text(self, texts) -> torch.Tensor:
        self.asked += texts
        return self.embed(texts)

    def encode_prompts(self, context, names) -> torch.Tensor:
        weights = torch.arange(1.0, 1 + context.shape[-2])[:, None]
        return self.embed(names, (weights * context).sum(dim=-2))


def one_epoch(folder: Path) -> tuple[np.ndarray, Learned, list[str]]:
    """Features in many small shards, then an epoch of 22 reports in batches of 7, 7, 7 and 1."""
    features.TEXT_BATCH, features.TEXT_SHARD = 3, 2
    encoder = ToyEncoder()
    found = features.text_features(encoder, TEXTS, folder)
    asked, kinds = list(encoder.asked), np.arange(22) % 3
    rows = [np.arange(1 + kind) + kind for kind in kinds]
    labels = np.eye(3, dtype=np.float32)[kinds]
    corpus = TextCorpus(np.array(found), np.array(found[:6]), rows, labels)
    target = encoder.encode_text(list(CONCEPTS))

    def drift(embedded):
        return sum((1 - (each * target).sum(-1)).mean() for each in embedded.values())

    options = {"validation": corpus, "regularizer": drift, "progress": False}
    return found, learn_prompts(encoder, corpus, CONCEPTS, SETTINGS, 0, **options), asked


def worker(index: int, port: int, folder: Path) -> None:
    """What a launcher's process does: its variables set, the program run."""
    os.environ |= {
        "RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "1",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    torch.set_num_threads(1)
    found, learned, asked = one_epoch(folder)
    group = processes()
    said = {
        "group": (group.index, group.count),
        "features": torch.from_numpy(np.array(found)),
        "contexts": (learned.report, learned.concept),
        "losses": [row["report_loss"] for row in learned.history],
        "asked": asked,
    }
    torch.save(said, folder / f"{index}.pt")
    group.leave()
