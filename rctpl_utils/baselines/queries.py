"""MedKLIP and MeDSLIP: descriptions that ask a film, and the losses of the answers."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rctpl_utils.baselines.base import CLASSIFY, GROUND
from rctpl_utils.baselines.model import HEADS, WIDTH, Baseline, ConvTop, Setup, unit
from rctpl_utils.baselines.training_data import Batch, all_cells
from rctpl_utils.text.knowledge import describe

LAYERS = 2  # of the decoder; theirs has 4, with 4 heads each as here
QUERY = WIDTH // 3  # d, the width of queries and of the cells that they see: 64; theirs 256
NEGATIVES = 7  # against one positive (the public code of both)


class QueryLayer(nn.Module):
    """Queries look at each other, then at the cells, then at themselves (pre-norm, as DETR's)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.among = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.across = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.forth = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(
        self, queries: Tensor, cells: Tensor, blocked: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Queries (B, Q, d), cells (B, T, d): queries, and the heads' mean attention (B, Q, T).

        `blocked` (Q, Q): which query does not see which.
        """
        normed = self.norms[0](queries)
        heard, _ = self.among(normed, normed, normed, attn_mask=blocked, need_weights=False)
        queries = queries + heard
        found, attention = self.across(self.norms[1](queries), cells, cells)
        queries = queries + found
        return queries + self.forth(self.norms[2](queries)), attention


class QueryDecoder(nn.Module):
    """A transformer decoder (Vaswani et al. 2017) from Q queries and T cells to Q answers.

    It normalizes before each part, as DETR's (Carion et al. 2020), from which MedKLIP's authors
    took theirs (`models/transformer.py` of MediaBrain-SJTU/MedKLIP).
    """

    def __init__(
        self, cells: int = WIDTH, width: int = QUERY, layers: int = LAYERS, hidden: int = 2 * QUERY
    ) -> None:
        """`cells`: the cells' channels; `width`: d, of queries and answers."""
        super().__init__()
        self.narrow = nn.Linear(cells, width)
        self.layers = nn.ModuleList(QueryLayer(width, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, cells: Tensor, known: int) -> tuple[Tensor, Tensor]:
        """Answers (B, Q, d) to queries (Q, d), attention to cells, the mean over layers: (B, Q, T).

        The first `known`, those of training, are always asked; a query beyond them is seen by
        itself alone, so that no answer depends on what else is asked.
        """
        rows = torch.arange(len(queries), device=queries.device)
        blocked = (rows >= known) & (rows[:, None] != rows) if len(queries) > known else None
        cells = self.narrow(cells)
        answers, maps = queries.expand(len(cells), -1, -1), []
        for layer in self.layers:
            answers, attention = layer(answers, cells, blocked)
            maps.append(attention)
        return self.norm(answers), torch.stack(maps).mean(dim=0)


class QueryBaseline(Baseline):
    """A method that asks a film about concepts by their descriptions.

    Retrieval is an extension of ours: neither method has a joint embedding. A film's vector is its
    exist logits over the L training concepts, standardized by running means of training; a
    sentence's holds the cosines of its frozen text state and each description's, less the mean of
    all descriptions. Such cosines do not know negation.
    """

    published = frozenset({CLASSIFY, GROUND})

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

    def answers(self, cells: Tensor, places: Tensor, book: Tensor) -> tuple[Tensor, Tensor]:
        """Cells (B, T, c), descriptions' states (Q, W): answers (B, Q, d), attention (B, Q, T)."""
        raise NotImplementedError

    def exist_logits(self, answers: Tensor) -> Tensor:
        """Whether concepts exist, by the answers of those of training; their means run along."""
        logits = self.exist(answers).squeeze(-1)
        self.standard(logits.detach())
        return logits

    @torch.no_grad()
    def classify(self, films: Tensor, concepts: Sequence[str]) -> Tensor:
        """Exist logits of films, as maps (n, h, w, c): (n, L)."""
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
        return unit((scores - self.standard.running_mean) / spread)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """See the class: (m, L)."""
        return unit(self.states(texts) @ unit(self.book - self.book.mean(dim=0)).T)

    def _asked(self, films: Tensor, concepts: Sequence[str]) -> tuple[Tensor, Tensor]:
        known = self.setup.concepts
        unseen = [each for each in dict.fromkeys(concepts) if each not in known]
        added = [self.states([describe(each) for each in unseen])] if unseen else []
        answers, maps = self.answers(*all_cells(films), torch.cat([self.book, *added]))
        columns = [(*known, *unseen).index(each) for each in concepts]
        return self.exist(answers).squeeze(-1)[:, columns], maps[:, columns]


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

    All are (M, K), the latter two bool, with at least one positive in each row.
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


def prototype_loss(
    answers: Tensor,
    others: Tensor,
    named: np.ndarray,
    generator: np.random.Generator,
    single: bool = False,
) -> Tensor:
    """ProtoCL of one stream; an inner product with a mean is the mean of inner products.

    Answers (B, Q, d); `others`, W times the text states of the other stream's K names, (K, d);
    `named` (B, Q, K) bool, what the report names together. `single`: a random one of what is named
    in place of the prototype, as MedKLIP has it.
    """
    rows = named.any(axis=2)
    positives = draw_positive(named[rows], generator) if single else named[rows]
    negatives = draw_negatives(named[rows], generator)
    rows, positives, negatives = (
        torch.from_numpy(each).to(answers.device) for each in (rows, positives, negatives)
    )
    return contrast_loss(inner(answers[rows], others.T), positives, negatives)


class MedKLIP(QueryBaseline):
    """Medical knowledge enhanced language-image pre-training (Wu et al., ICCV 2023).

    The descriptions of the Q entities, through the frozen text model, are the queries of a decoder
    over the film's cells; s_i is the exist logit of answer i, l_i in {0, 1} what the report says of
    entity i, and p_i+ the text state of a position that it names for a present entity, p_m those of
    seven others:

        L = mean_i -[l_i log sigma(s_i) + (1 - l_i) log(1 - sigma(s_i))]     (unmentioned: masked)
          + mean_i -log exp<q_i, W p_i+> / (exp<q_i, W p_i+> + sum_m exp<q_i, W p_m>).

    Kept: the unweighted sum, the masks, the 1 : 7 draw, descriptions of any concept at test time,
    the mean attention as map. Their exist head's two outputs and softmax are sigma of the
    difference. Ours: this package's concepts, places and descriptions for their 75 and 51, the mean
    word state for [CLS], a smaller decoder, inner products over the root of d (`inner`), no
    dropout, W on the positions' side (the same bilinear form); negatives are never a place that the
    report names, while in their code they may be. A concept that reports never deny has no negative
    label, here as there.
    """

    name = "MedKLIP"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.image = ConvTop(setup)
        self.decoder = QueryDecoder()
        self.where = nn.Linear(len(setup.mean), QUERY, bias=False)  # W

    def loss(self, batch: Batch) -> Tensor:
        """Existence and position."""
        answers, _ = self.answers(batch.cells, batch.places, self.book)
        stated = batch.tensor(batch.material.stated[batch.reports])
        named = batch.material.positions[batch.reports]
        return exist_loss(self.exist_logits(answers), stated) + prototype_loss(
            answers, self.where(self.spots), named, batch.generator, single=True
        )

    def answers(self, cells: Tensor, places: Tensor, book: Tensor) -> tuple[Tensor, Tensor]:
        """See `QueryBaseline.answers`."""
        return self.decoder(self.enter(book), self.image(cells, places), len(self.book))


class MeDSLIP(QueryBaseline):
    """Medical dual-stream language-image pre-training (Fan et al., 2024, arXiv:2403.10635).

    A mask m, linear in a cell's features x, splits them into a pathology stream m * x and an
    anatomy stream (1 - m) * x, each with an image model and MedKLIP's decoder: descriptions of
    concepts ask the first, names of places the second; their answers are q_i (concept i) and a_j
    (place j). With y_ij in {0, 1} whether the report finds concept i at place j,

        L = CE(q) + CE(a)                                   existence, as MedKLIP (unknown: masked)
          + ProtoCL(q) + ProtoCL(a)                                    prototypical contrast
          + mean_ij BCE(sigma<q_i, a_j>, y_ij)              intra-image contrast (unknown: masked),
        ProtoCL(q) = mean_i -log exp<q_i, W p_i> / (exp<q_i, W p_i> + sum_m exp<q_i, W e_m>),

    where the prototype p_i is the mean text state of the places that the report names for a present
    concept i and e_m are the states of seven others; ProtoCL(a) contrasts places with concepts.

    Kept: all five terms with equal weights, the mask without a squashing function, one query layer
    for both books (their code, Shef-AIRE/MeDSLIP), the pathology stream alone at test time.
    Departures as in `MedKLIP`, and y: the triplets here deny a concept, not a concept at a place,
    so that a denied one is 0 at every place, a present one with a place is 0 at the others, the
    rest is unknown. A place exists where some y is 1, does not where some is 0 and none 1.
    """

    name = "MeDSLIP"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.enter_mask = nn.LayerNorm(setup.channels)
        self.mask = nn.Linear(setup.channels, setup.channels)
        self.pathology, self.anatomy = ConvTop(setup), ConvTop(setup)
        self.pathology_decoder, self.anatomy_decoder = QueryDecoder(), QueryDecoder()
        self.exist_there = nn.Linear(QUERY, 1)  # whether anything is at a place
        width = len(setup.mean)
        self.where = nn.Linear(width, QUERY, bias=False)  # W for concepts' answers
        self.what = nn.Linear(width, QUERY, bias=False)  # and for places' answers

    def loss(self, batch: Batch) -> Tensor:
        """The five terms."""
        x = self.enter_mask(batch.cells)
        mask = self.mask(x)
        concepts, _ = self._pathology(mask * x, batch.places, self.book)
        there = self.anatomy((1 - mask) * x, batch.places)
        places, _ = self.anatomy_decoder(self.enter(self.spots), there, len(self.spots))
        stated = batch.tensor(batch.material.stated[batch.reports])
        named = batch.material.positions[batch.reports]
        pairs = pair_labels(stated, batch.tensor(named))
        draws = batch.generator
        return (
            exist_loss(self.exist_logits(concepts), stated)
            + exist_loss(self.exist_there(places).squeeze(-1), place_labels(pairs))
            + prototype_loss(concepts, self.where(self.spots), named, draws)
            + prototype_loss(places, self.what(self.book), named.swapaxes(1, 2), draws)
            + exist_loss(inner(concepts, places.transpose(1, 2)), pairs)
        )

    def answers(self, cells: Tensor, places: Tensor, book: Tensor) -> tuple[Tensor, Tensor]:
        """See `QueryBaseline.answers`: those of the pathology stream."""
        x = self.enter_mask(cells)
        return self._pathology(self.mask(x) * x, places, book)

    def _pathology(self, x: Tensor, places: Tensor, book: Tensor) -> tuple[Tensor, Tensor]:
        return self.pathology_decoder(self.enter(book), self.pathology(x, places), len(self.book))


def pair_labels(stated: Tensor, positions: Tensor) -> Tensor:
    """Whether concepts are at places, as far as reports tell, see `MeDSLIP`: (B, L, P).

    `stated` (B, L) is 1 present, 0 absent, NaN unknown; `positions` (B, L, P) bool are the named
    places of present concepts.
    """
    told = (stated == 0) | positions.any(dim=2)
    return positions.float().masked_fill(~told.unsqueeze(2), torch.nan)


def place_labels(pairs: Tensor) -> Tensor:
    """Whether anything is at each place: (B, L, P) to (B, P), NaN where nothing is told."""
    told = ~pairs.isnan().all(dim=1)
    return (pairs == 1).any(dim=1).float().masked_fill(~told, torch.nan)
