"""The frozen text tower's word states: each text goes through BERT once, whoever learns from it.

Pre-training and the baselines ask for the same texts (`pretraining_texts.training_texts`) and share
one file: its name holds what decides the states (`TextTower.bert_key`), and no projection does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rctpl_utils.encoders.features import TEXT_BATCH
from rctpl_utils.encoders.precision import autocast, fast_dtype
from rctpl_utils.encoders.shards import Plan, make_arrays
from rctpl_utils.encoders.text_tower import MAX_TOKENS, TextTower, masked_mean
from rctpl_utils.files import hash_of

_SHARD = 1  # batch, 256 texts, 15 MB: small, for it is written and read back as a whole
MASKED_SHARE = 0.15  # of the words, as BERT (Devlin et al. 2019, section 3.1)


class Words(NamedTuple):
    """A batch of B texts, padded to its longest."""

    states: Tensor  # (B, T, W), the last hidden states
    seen: Tensor  # (B, T), true for words and special tokens
    ids: Tensor  # (B, T), the tokens' numbers in the vocabulary

    def pooled(self) -> Tensor:
        """The mean over what is seen, (B, W): the frozen tower's own pooling."""
        return masked_mean(self.states, self.seen)


@dataclass(frozen=True)
class WordFile:
    """Word states of n texts, memory-mapped or on a device."""

    states: np.ndarray | Tensor  # (n, 77, W) float16, zero beyond a text's end
    ids: np.ndarray | Tensor  # (n, 77), token numbers
    lengths: np.ndarray  # (n,), tokens in each text

    def batch(self, rows: np.ndarray, device: torch.device) -> Words:
        """Some texts, by row."""
        longest = int(self.lengths[rows].max())
        states, ids = (gather(each, rows)[:, :longest] for each in (self.states, self.ids))
        seen = torch.from_numpy(np.arange(longest) < self.lengths[rows][:, None])
        return Words(states.to(device).float(), seen.to(device), ids.to(device).long())

    def on(self, device: torch.device) -> "WordFile":
        """The same, its arrays held by the device: for training on an accelerator."""
        states, ids = (torch.from_numpy(each).to(device) for each in (self.states, self.ids))
        return replace(self, states=states, ids=ids)

    def means(self, rows: np.ndarray) -> np.ndarray:
        """Each text's mean state over what is seen, by row, a batch at a time: (m, W) float32."""
        found = np.empty((len(rows), self.states.shape[-1]), np.float32)
        order = np.argsort(self.lengths[rows], kind="stable")  # texts of like length together
        for start in range(0, len(order), TEXT_BATCH):
            part = order[start : start + TEXT_BATCH]
            found[part] = self.batch(rows[part], torch.device("cpu")).pooled().numpy()
        return found


def gather(array: np.ndarray | Tensor, *rows: np.ndarray) -> Tensor:
    """Index an array in memory, on disk or on a device; the result stays where the array is."""
    if isinstance(array, Tensor):
        return array[tuple(torch.from_numpy(each).to(array.device) for each in rows)]
    return torch.from_numpy(array[rows])


@torch.no_grad()
def word_states(
    tower: TextTower, texts: Sequence[str], folder: Path, masked_by: int | None = None
) -> tuple[WordFile, np.ndarray]:
    """Word states of n texts, computed once, and which words were hidden, (n, 77) bool.

    With a seed, `masked_by`, 15 % of each text's words are hidden from the frozen BERT behind its
    mask token, and `ids` still tell what they were.
    """
    ids, lengths, special = _tokens(tower, texts)
    hidden = np.zeros(ids.shape, bool)
    if masked_by is not None:
        generator = np.random.default_rng(masked_by)
        hidden = (generator.random(ids.shape) < MASKED_SHARE) & ~special
    given = np.where(hidden, tower.tokenizer.mask_token_id, ids)
    order = np.argsort(lengths, kind="stable")
    dtype = str(fast_dtype(tower.device))
    key = hash_of(tower.bert_key, list(texts), masked_by, MASKED_SHARE, dtype)[:20]

    def encode(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        longest = int(lengths[rows].max())
        tokens = torch.from_numpy(given[rows, :longest]).to(tower.device)
        seen = torch.from_numpy((np.arange(longest) < lengths[rows][:, None]).astype(np.int64))
        with autocast(tower.device):
            states = tower.bert(input_ids=tokens, attention_mask=seen.to(tower.device))
        found = states.last_hidden_state.float().cpu().numpy()
        full = np.zeros((len(rows), MAX_TOKENS, found.shape[-1]), np.float16)
        full[:, :longest] = found * seen.unsqueeze(-1).numpy()
        return (full,)

    plan = Plan(order, TEXT_BATCH, _SHARD)
    paths = [folder / f"words-{key}.npy"]
    (states,) = make_arrays(paths, plan, encode, label="reading words", unit="text")
    return WordFile(states, ids, lengths), hidden


def _tokens(tower: TextTower, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token numbers (n, 77), lengths (n,), and which tokens are special or padding, (n, 77) bool.

    A batch at a time: the tokenizer's own records of a text take a hundred times its tokens.
    """
    ids = np.empty((len(texts), MAX_TOKENS), np.int64)
    lengths, special = np.empty(len(texts), np.int64), np.empty(ids.shape, bool)
    for start in range(0, len(texts), TEXT_BATCH):
        part = slice(start, start + TEXT_BATCH)
        encoded = tower.tokenizer(
            list(texts[part]), padding="max_length", truncation=True, max_length=MAX_TOKENS,
            return_tensors="np", return_special_tokens_mask=True,
        )  # fmt: skip
        ids[part] = encoded["input_ids"]
        lengths[part] = encoded["attention_mask"].sum(axis=1)
        special[part] = encoded["special_tokens_mask"]
    return ids, lengths, special
