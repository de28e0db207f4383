"""The frozen text tower for texts that come up at test time."""

from collections.abc import Sequence

import torch

from rctpl_utils.encoders.text_tower import TextTower
from rctpl_utils.encoders.word_states import Words

KEPT = 256  # batches of texts that are remembered

_kept: dict[tuple[str, tuple[str, ...]], Words] = {}


class Reader:
    """Reads class prompts and sentences.

    All models and seeds ask for the same ones and share their BERT, so the last batches are kept.
    """

    def __init__(self, tower: TextTower) -> None:
        self.tower = tower

    @property
    def vocabulary(self) -> int:
        """How many tokens the tower knows."""
        return self.tower.bert.config.vocab_size

    @torch.no_grad()
    def words(self, texts: Sequence[str]) -> Words:
        """Word states of some texts, in one batch."""
        key = self.tower.bert_key, tuple(texts)
        if key not in _kept:
            if len(_kept) == KEPT:
                _kept.pop(next(iter(_kept)))  # the oldest
            tokens = self.tower.tokenize(texts)
            states = self.tower.bert(**tokens).last_hidden_state
            _kept[key] = Words(states, tokens["attention_mask"].bool(), tokens["input_ids"])
        return _kept[key]
