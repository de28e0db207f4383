"""The decoder of MedKLIP and MeDSLIP: queries look at each other, then at a film's cells.

A transformer decoder (Vaswani et al. 2017) with a normalization before each part, as DETR's, from
which the authors took it (Carion et al. 2020); `models/transformer.py` of MediaBrain-SJTU/MedKLIP.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 256
HEADS = 4
LAYERS = 4
HIDDEN = 1024


class DecoderLayer(nn.Module):
    """One layer, named as in the released files."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.linear1 = nn.Linear(WIDTH, HIDDEN)
        self.linear2 = nn.Linear(HIDDEN, WIDTH)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.norm3 = nn.LayerNorm(WIDTH)

    def forward(
        self, queries: Tensor, cells: Tensor, blocked: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Queries (n, Q, 256) and cells (n, T, 256) to queries and attention (n, Q, T).

        `blocked` (Q, Q): which query does not see which. The attention is the mean over the heads;
        over the cells it sums to one.
        """
        x = self.norm1(queries)
        queries = queries + self.self_attn(x, x, x, attn_mask=blocked, need_weights=False)[0]
        found, attention = self.multihead_attn(self.norm2(queries), cells, cells)
        queries = queries + found
        x = functional.relu(self.linear1(self.norm3(queries)))
        return queries + self.linear2(x), attention


class QueryDecoder(nn.Module):
    """Four layers and a last normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, queries: Tensor, cells: Tensor, known: int) -> tuple[Tensor, Tensor]:
        """Queries (n, Q, 256) and cells (n, T, 256) to answers and the layers' mean attention.

        The first `known` queries are those of training. One beyond them sees these and itself, and
        is seen by itself alone, so that no answer depends on what else is asked.

        Returns:
            (n, Q, 256) and (n, Q, T).
        """
        rows = torch.arange(queries.shape[1], device=queries.device)
        blocked = (rows >= known) & (rows[:, None] != rows) if len(rows) > known else None
        attentions = []
        for layer in self.layers:
            queries, attention = layer(queries, cells, blocked)
            attentions.append(attention)
        return self.norm(queries), torch.stack(attentions).mean(dim=0)
