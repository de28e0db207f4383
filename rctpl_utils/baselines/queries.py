"""What MedKLIP and MeDSLIP share: descriptions that ask a film, and the losses of the answers."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rctpl_utils.baselines.base import CLASSIFY, GROUND
from rctpl_utils.baselines.towers import HEADS, WIDTH, Baseline, Setup
from rctpl_utils.baselines.training_data import all_cells
from rctpl_utils.text.knowledge import describe

LAYERS = 2  # of the decoder; theirs has 4, with 4 heads each as here
QUERY = WIDTH // 3  # d, the width of queries and of the cells that they see: 64; theirs 256
NEGATIVES = 7  # against one positive (the public code of both)


class QueryLayer(nn.Module):
    """Queries look at each other, then at the cells, then at themselves (pre-norm, as DETR's)."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(QUERY) for _ in range(3))
        self.among = nn.MultiheadAttention(QUERY, HEADS, batch_first=True)
        self.across = nn.MultiheadAttention(QUERY, HEADS, batch_first=True)
        self.forth = nn.Sequential(
            nn.Linear(QUERY, 2 * QUERY), nn.ReLU(), nn.Linear(2 * QUERY, QUERY)
        )

    def forward(
        self, queries: Tensor, cells: Tensor, blocked: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Queries (B, Q, d), cells (B, T, d): queries, and the heads' mean attention."""
        normed = self.norms[0](queries)
        heard, _ = self.among(normed, normed, normed, attn_mask=blocked, need_weights=False)
        queries = queries + heard
        found, attention = self.across(self.norms[1](queries), cells, cells)
        queries = queries + found
        return queries + self.forth(self.norms[2](queries)), attention


class QueryDecoder(nn.Module):
    """A transformer decoder from Q queries and T cells to Q answers."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Linear(WIDTH, QUERY)
        self.layers = nn.ModuleList(QueryLayer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(QUERY)

    def forward(self, queries: Tensor, cells: Tensor, known: int) -> tuple[Tensor, Tensor]:
        """Answers (B, Q, d), and the attention to the cells, the mean over layers: (B, Q, T).

        Args:
            queries: (Q, d). The first `known` are always asked; a query beyond them is seen by
                itself alone, so that no answer depends on what else is asked.
            cells: (B, T, WIDTH).
            known: how many queries training has.
        """
        rows = torch.arange(len(queries), device=queries.device)
        added = (rows >= known) & (rows[:, None] != rows)
        blocked = added if len(queries) > known else None
        cells = self.narrow(cells)
        answers, maps = queries.expand(len(cells), -1, -1), []
        for layer in self.layers:
            answers, attention = layer(answers, cells, blocked)
            maps.append(attention)
        return self.norm(answers), torch.stack(maps).mean(dim=0)


class QueryBaseline(Baseline):
    """A method that asks a film about concepts by their descriptions.

    Subclasses define `loss` and `ask`. Retrieval is an extension of ours: neither method has a
    joint embedding. A film's vector is its exist logits over the L training concepts, standardized
    by running means of training; a sentence's holds the cosines of its frozen text state and each
    description's, less the mean of all descriptions. Such cosines do not know negation.
    """

    native = frozenset({CLASSIFY, GROUND})
    sharpness = 1.0  # scores are logits

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.register_buffer("mean", setup.mean)
        self.register_buffer("deviation", setup.deviation)
        self.register_buffer("book", self.states([describe(each) for each in setup.concepts]))
        spots = [f"It is located at {place}." for place in setup.places]  # as in the descriptions
        self.register_buffer("spots", self.states(spots))
        self.enter = nn.Linear(len(setup.mean), QUERY)
        self.exist = nn.Linear(QUERY, 1)
        self.standard = nn.BatchNorm1d(len(setup.concepts), affine=False)

    def states(self, texts: Sequence[str]) -> Tensor:
        """Frozen text states, standardized: (m, W)."""
        return (self.read(texts).pooled() - self.mean) / self.deviation

    def ask(self, cells: Tensor, places: Tensor, book: Tensor) -> tuple[Tensor, Tensor]:
        """Cells (B, T, c), descriptions' states (Q, W): exist logits (B, Q), maps (B, Q, T)."""
        raise NotImplementedError

    @torch.no_grad()
    def classify(self, films: Tensor, concepts: Sequence[str]) -> Tensor:
        """Exist logits of films, as trunk maps (n, h, w, c): (n, L)."""
        return self._asked(films, concepts)[0]

    @torch.no_grad()
    def ground(self, films: Tensor, concept: str) -> Tensor:
        """The attention of the concept's query, the mean over layers and heads: (n, h, w)."""
        return self._asked(films, [concept])[1][:, 0].reshape(films.shape[:3])

    @torch.no_grad()
    def embed_images(self, films: Tensor) -> Tensor:
        """See the class: (n, L)."""
        scores = self.classify(films, self.setup.concepts)
        spread = (self.standard.running_var + self.standard.eps).sqrt()
        return functional.normalize((scores - self.standard.running_mean) / spread, dim=1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """See the class: (m, L)."""
        own = functional.normalize(self.book - self.book.mean(dim=0), dim=1)
        return functional.normalize(self.states(texts) @ own.T, dim=1)

    def _asked(self, films: Tensor, concepts: Sequence[str]) -> tuple[Tensor, Tensor]:
        known = self.setup.concepts
        unseen = [each for each in dict.fromkeys(concepts) if each not in known]
        added = [self.states([describe(each) for each in unseen])] if unseen else []
        logits, maps = self.ask(*all_cells(films), torch.cat([self.book, *added]))
        columns = [(*known, *unseen).index(each) for each in concepts]
        return logits[:, columns], maps[:, columns]


def inner(answers: Tensor, states: Tensor) -> Tensor:
    """Inner products of answers (..., d) and states (..., d, K), over the root of d.

    The root is ours: it starts the softmax as flat as their initial weights, N(0, 0.02), do.
    """
    return answers @ states / QUERY**0.5


def exist_loss(logits: Tensor, stated: Tensor) -> Tensor:
    """Binary cross-entropy where a label (1 or 0) is stated; NaN is masked. Any shape."""
    known = ~stated.isnan()
    if not known.any():
        return logits.sum() * 0
    return functional.binary_cross_entropy_with_logits(logits[known], stated[known])


def contrast_loss(logits: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """-log softmax of a positive logit, the mean over `positives`, against the `negatives`.

    Args:
        logits: (M, K).
        positives, negatives: (M, K) bool; at least one positive in each row.
    """
    if not len(logits):
        return logits.sum()
    positive = (logits * positives).sum(dim=1) / positives.sum(dim=1)
    against = logits.masked_fill(~negatives, -torch.inf)
    return (torch.cat([positive[:, None], against], dim=1).logsumexp(dim=1) - positive).mean()


def draw_negatives(named: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Seven of the columns that a row does not name, all where there are fewer: (M, K) bool."""
    keys = np.where(named, np.inf, generator.random(named.shape))
    return (keys.argsort(axis=1).argsort(axis=1) < NEGATIVES) & ~named


def draw_positive(named: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One of the columns that a row names, as a mask: (M, K) bool."""
    keys = np.where(named, generator.random(named.shape), -1)
    return keys == keys.max(axis=1, keepdims=True)
