"""A world of two concepts in which a baseline must learn within seconds, without any encoder."""

import hashlib

import numpy as np
import torch

from rctpl_utils.baselines.training import Validation
from rctpl_utils.baselines.training_data import Batch, Material, draw_batch
from rctpl_utils.encoders.features import WordFile, Words

CONCEPTS = ("Edema", "Pneumothorax")
PLACES = ("left apex", "right base")
GRID, CHANNELS, WIDTH = 4, 8, 32
TOKENS = 77
CPU = torch.device("cpu")


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
                drawn = np.random.default_rng(list(digest)).normal(size=WIDTH)
                states[row, column] = torch.from_numpy(drawn.astype(np.float32))
                ids[row, column] = int.from_bytes(digest[:2], "big") % self.vocabulary
                seen[row, column] = True
        return Words(states, seen, ids)


def word_file(texts) -> WordFile:
    states, seen, ids = ToyReader().words(texts)
    padding = [(0, 0), (0, TOKENS - ids.shape[1])]
    whole = np.pad(states.numpy().astype(np.float16), [*padding, (0, 0)])
    return WordFile(whole, np.pad(ids.numpy(), padding), seen.sum(dim=1).numpy())


def toy_films(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps (n, 4, 4, 8), labels (n, 2), and the 2 x 2 block in which each concept lies, (n, 2).

    A present concept adds its own direction to one block: 0 of the left apex (top right on a film),
    or 1 of the right base (bottom left).
    """
    rng = np.random.default_rng(seed)
    maps = rng.normal(0, 0.3, (count, GRID, GRID, CHANNELS)).astype(np.float32)
    labels = rng.integers(0, 2, (count, 2)).astype(np.float32)
    blocks = rng.integers(0, 2, (count, 2))
    for film, k in np.argwhere(labels):
        down = 2 * blocks[film, k]
        maps[film, down : down + 2, 2 - down : 4 - down, k] += 3
    return maps, labels, blocks


def toy_material(count: int = 256, seed: int = 0) -> Material:
    maps, labels, blocks = toy_films(count, seed)
    signs = np.where(labels == 1, 1, -1).astype(np.float32)
    texts, vectors, whole, sentences = [], [], [], []
    for film in range(count):
        own, says = [], []
        for k, name in enumerate(map(str.lower, CONCEPTS)):
            placed = [name, f"{name} {PLACES[blocks[film, k]]}"]  # the bare name as prompts have it
            mine = placed if labels[film, k] else [f"no sign of {name}"]
            own += mine
            says += [np.eye(2, dtype=np.float32)[k] * signs[film, k]] * len(mine)
        whole.append(len(texts))
        sentences.append(len(texts) + 1 + np.arange(len(own)))
        texts += [". ".join(own), *own]
        vectors += [signs[film], *says]
    masked_words = np.zeros((count, TOKENS), bool)
    masked_words[:, 1] = True  # the first word after [CLS]
    masked = word_file([texts[row] for row in whole])
    masked.states[:, 1] = 0
    return Material(
        maps=maps.astype(np.float16),
        reports=np.arange(count),
        words=word_file(texts),
        whole=np.array(whole),
        impressions=np.array(whole),
        sentences=sentences,
        text_vectors=np.stack(vectors),
        report_vectors=signs,
        stated=labels,
        positions=(np.arange(2) == blocks[..., None]) & (labels == 1)[..., None],
        concepts=CONCEPTS,
        places=PLACES,
        masked=masked,
        masked_words=masked_words,
    )


def untrained(make, setup):
    torch.manual_seed(0)
    return make(setup).eval()


def batch_of(material: Material, count: int = 8, seed: int = 0) -> Batch:
    """A view of each of the first films."""
    return draw_batch(material, np.arange(count), np.random.default_rng(seed), CPU)


def toy_validation(count: int = 200, seed: int = 1) -> tuple[Validation, np.ndarray]:
    """Films of another seed, and the blocks in which their concepts lie."""
    maps, labels, blocks = toy_films(count, seed)
    return Validation(maps.astype(np.float16), labels, CONCEPTS), blocks


def grounding_share(model, validation: Validation, blocks: np.ndarray, concept: int) -> float:
    """The share of positive films whose map is highest inside the concept's block."""
    rows = np.flatnonzero(validation.labels[:, concept] == 1)
    maps = model.ground(torch.from_numpy(validation.maps[rows]), CONCEPTS[concept]).numpy()
    down, across = np.divmod(maps.reshape(len(rows), -1).argmax(axis=1), GRID)
    low = blocks[rows, concept] == 1
    return float((((down >= 2) == low) & ((across < 2) == low)).mean())
