"""The frozen text tower for texts that come up at test time."""

from collections.abc import Sequence

import torch

from rctpl_utils.encoders.text_tower import TextTower
from rctpl_utils.word_states import Words

KEPT = 64  # batches of texts that a reader remembers


class Reader:
    """Reads class prompts and sentences.

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
