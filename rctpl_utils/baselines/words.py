"""The frozen text tower's word states: each text goes through BERT once, whoever learns from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rctpl_utils.encoders.text_tower import MAX_TOKENS, TextTower
from rctpl_utils.features import TEXT_BATCH, make_arrays
from rctpl_utils.files import hash_of
from rctpl_utils.shards import Plan

_SHARD = 4  # batches, 1,024 texts: 61 MB
KEPT = 64  # batches of texts that a reader remembers
MASKED_SHARE = 0.15  # of the words, as BERT (Devlin et al. 2019, section 3.1)


class Words(NamedTuple):
    """A batch of B texts, padded to its longest.

    `states` (B, T, W) are the last hidden states, `seen` (B, T) is true for words and special
    tokens, `ids` (B, T) are the tokens' numbers in the vocabulary.
    """

    states: Tensor
    seen: Tensor
    ids: Tensor

    def pooled(self) -> Tensor:
        """The mean over what is seen, (B, W): the frozen tower's own pooling."""
        weights = self.seen.unsqueeze(-1).to(self.states.dtype)
        return (self.states * weights).sum(dim=1) / weights.sum(dim=1)


class Reader:
    """The frozen text tower, for texts that come up at test time: class prompts, sentences.

    All models and seeds ask for the same ones, so the last batches are kept.
    """

    def __init__(self, tower: TextTower) -> None:
        self.tower = tower
        self._kept: dict[tuple[str, ...], Words] = {}

    @property
    def vocabulary(self) -> int:
        """How many tokens the tower knows."""
        return self.tower.bert.config.vocab_size

    @torch.no_grad()
    def words(self, texts: Sequence[str]) -> Words:
        """Word states of some texts, in one batch."""
        key = tuple(texts)
        if key not in self._kept:
            if len(self._kept) == KEPT:
                self._kept.pop(next(iter(self._kept)))  # the oldest
            tokens = self.tower.tokenize(texts)
            states = self.tower.bert(**tokens).last_hidden_state
            self._kept[key] = Words(states, tokens["attention_mask"].bool(), tokens["input_ids"])
        return self._kept[key]


@dataclass(frozen=True)
class WordFile:
    """Word states of n texts.

    Attributes:
        states: (n, 77, W) float16, memory-mapped, zero beyond a text's end.
        ids: (n, 77) token numbers.
        lengths: (n,) tokens in each text.
    """

    states: np.ndarray
    ids: np.ndarray
    lengths: np.ndarray

    def batch(self, rows: np.ndarray, device: torch.device) -> Words:
        """Some texts, by row."""
        longest = int(self.lengths[rows].max())
        states = torch.from_numpy(self.states[rows, :longest].astype(np.float32))
        seen = np.arange(longest) < self.lengths[rows][:, None]
        ids = torch.from_numpy(self.ids[rows, :longest].astype(np.int64))
        return Words(states.to(device), torch.from_numpy(seen).to(device), ids.to(device))


@torch.no_grad()
def word_states(
    tower: TextTower, texts: Sequence[str], folder: Path, masked_by: int | None = None
) -> tuple[WordFile, np.ndarray]:
    """Word states of texts, computed once.

    Args:
        tower: frozen.
        texts: n texts.
        folder: the feature cache.
        masked_by: a seed; with it 15 % of each text's words are hidden from the tower behind its
            mask token, and `ids` still tell what they were.

    Returns:
        the states, and which words were hidden, (n, 77) bool.
    """
    encoded = tower.tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=MAX_TOKENS,
        return_tensors="np", return_special_tokens_mask=True,
    )  # fmt: skip
    ids, lengths = encoded["input_ids"], encoded["attention_mask"].sum(axis=1)
    hidden = np.zeros(ids.shape, bool)
    if masked_by is not None:
        generator = np.random.default_rng(masked_by)
        hidden = (generator.random(ids.shape) < MASKED_SHARE) & ~(
            encoded["special_tokens_mask"].astype(bool)
        )
    given = np.where(hidden, tower.tokenizer.mask_token_id, ids)
    order = np.argsort(lengths, kind="stable")
    path = folder / f"words-{hash_of(tower.key, list(texts), masked_by)[:20]}.npy"

    def encode(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        longest = int(lengths[rows].max())
        tokens = torch.from_numpy(given[rows, :longest]).to(tower.device)
        seen = torch.from_numpy((np.arange(longest) < lengths[rows][:, None]).astype(np.int64))
        states = tower.bert(input_ids=tokens, attention_mask=seen.to(tower.device))
        found = (states.last_hidden_state * seen.to(tower.device).unsqueeze(-1)).cpu().numpy()
        full = np.zeros((len(rows), MAX_TOKENS, found.shape[-1]), np.float16)
        full[:, :longest] = found
        return (full,)

    plan = Plan(order, TEXT_BATCH, _SHARD)
    (states,) = make_arrays([path], plan, encode, label="reading words", unit="text")
    return WordFile(states, ids, lengths), hidden
