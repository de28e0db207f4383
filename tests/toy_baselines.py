"""A world of two concepts in which a baseline must learn within seconds, without any encoder."""

import hashlib

import numpy as np
import torch

from rctpl_utils.baselines.training import Validation
from rctpl_utils.baselines.training_data import Material
from rctpl_utils.encoders.features import WordFile, Words

CONCEPTS = ("Edema", "Pneumothorax")
PLACES = ("left apex", "right base")
GRID, CHANNELS, WIDTH = 4, 8, 32
TOKENS = 77


class ToyReader:
    """A text tower without training: a word's state is decided by its letters alone."""

    vocabulary = 512

    def words(self, texts) -> Words:
        split = [["[CLS]", *text.lower().replace(".", " ").split(), "[SEP]"] for text in texts]
        longest = max(map(len, split))
        states = torch.zeros(len(texts), longest, WIDTH)
        ids = torch.zeros(len(texts), longest, dtype=torch.long)
        seen = torch.zeros(len(texts), longest, dtype=torch.bool)
        for row, words in enumerate(split):
            for column, word in enumerate(words):
                digest = hashlib.sha256(word.encode()).digest()
                states[row, column] = torch.from_numpy(
                    np.random.default_rng(list(digest)).normal(size=WIDTH).astype(np.float32)
                )
                ids[row, column] = int.from_bytes(digest[:2], "big") % self.vocabulary
                seen[row, column] = True
        return Words(states, seen, ids)


def word_file(texts) -> WordFile:
    words = ToyReader().words(texts)
    lengths = words.seen.sum(dim=1).numpy()
    states = np.zeros((len(texts), TOKENS, WIDTH), np.float16)
    ids = np.zeros((len(texts), TOKENS), np.int64)
    states[:, : words.states.shape[1]] = words.states.numpy()
    ids[:, : words.ids.shape[1]] = words.ids.numpy()
    return WordFile(states, ids, lengths)


def toy_films(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps (n, 4, 4, 8), labels (n, 2), and the 2 x 2 block in which each concept lies, (n, 2).

    A present concept adds its own direction to one block: concept 0 in the block of the left apex
    (top right on a film), concept 1 in that of the right base (bottom left), or the other way.
    """
    rng = np.random.default_rng(seed)
    maps = rng.normal(0, 0.3, (count, GRID, GRID, CHANNELS)).astype(np.float32)
    labels = rng.integers(0, 2, (count, 2)).astype(np.float32)
    blocks = rng.integers(0, 2, (count, 2))  # 0: left apex, 1: right base
    for film in range(count):
        for k in range(2):
            if labels[film, k]:
                rows, columns = (slice(0, 2), slice(2, 4)) if blocks[film, k] == 0 else (
                    slice(2, 4), slice(0, 2),
                )  # fmt: skip
                maps[film, rows, columns, k] += 3
    return maps, labels, blocks


def toy_material(count: int = 256, seed: int = 0) -> Material:
    maps, labels, blocks = toy_films(count, seed)
    texts: list[str] = []
    whole, sentences, vectors, report_vectors = [], [], [], []
    for film in range(count):
        vector = np.where(labels[film] == 1, 1.0, -1.0).astype(np.float32)
        own, says = [], []
        for k, name in enumerate(map(str.lower, CONCEPTS)):
            mine = (
                [name, f"{name} {PLACES[blocks[film, k]]}"]  # the bare name as prompts have it
                if labels[film, k]
                else [f"no sign of {name}"]
            )
            own += mine
            says += [np.eye(2, dtype=np.float32)[k] * vector[k]] * len(mine)
        whole.append(len(texts))
        texts.append(". ".join(own))
        sentences.append(np.arange(len(texts), len(texts) + len(own)))
        texts += own
        vectors += [vector, *says]
        report_vectors.append(vector)
    positions = np.zeros((count, 2, 2), bool)
    for film in range(count):
        for k in range(2):
            positions[film, k, blocks[film, k]] = labels[film, k] == 1
    words = word_file(texts)
    masked_words = np.zeros((count, TOKENS), bool)
    masked_words[:, 1] = True  # the first word after [CLS]
    masked = word_file([texts[row] for row in whole])
    masked.states[:, 1] = 0
    return Material(
        maps=maps.astype(np.float16),
        reports=np.arange(count),
        words=words,
        whole=np.array(whole),
        impressions=np.array(whole),
        sentences=sentences,
        text_vectors=np.stack(vectors),
        report_vectors=np.stack(report_vectors),
        stated=labels,
        positions=positions,
        concepts=CONCEPTS,
        places=PLACES,
        masked=masked,
        masked_words=masked_words,
    )


def toy_validation(count: int = 200, seed: int = 1) -> tuple[Validation, np.ndarray]:
    """Films of another seed, and the blocks in which their concepts lie."""
    maps, labels, blocks = toy_films(count, seed)
    return Validation(maps.astype(np.float16), labels, CONCEPTS), blocks


def grounding_share(model, validation: Validation, blocks: np.ndarray, concept: int) -> float:
    """The share of positive films whose map is highest inside the concept's block."""
    rows = np.flatnonzero(validation.labels[:, concept] == 1)
    maps = model.ground(torch.from_numpy(validation.maps[rows]), CONCEPTS[concept]).numpy()
    best = maps.reshape(len(rows), -1).argmax(axis=1)
    down, across = np.divmod(best, GRID)
    inside = np.where(
        blocks[rows, concept] == 0, (down < 2) & (across >= 2), (down >= 2) & (across < 2)
    )
    return float(inside.mean())
