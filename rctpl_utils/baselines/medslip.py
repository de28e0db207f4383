"""MeDSLIP: medical dual-stream language-image pre-training (Fan et al., 2024, arXiv:2403.10635).

A mask m, linear in a cell's features x, splits them into a pathology stream m * x and an anatomy
stream (1 - m) * x. Each has a tower and MedKLIP's query decoder: descriptions of concepts ask the
first, names of places the second; their answers are q_i (concept i) and a_j (place j). With y_ij
in {0, 1} whether the report finds concept i at place j,

    L = CE(q) + CE(a)                                       existence, as MedKLIP (unknown: masked)
      + ProtoCL(q) + ProtoCL(a)                                        prototypical contrast
      + mean_ij BCE(sigma<q_i, a_j>, y_ij)                  intra-image contrast (unknown: masked),
    ProtoCL(q) = mean_i -log exp<q_i, W p_i> / (exp<q_i, W p_i> + sum_m exp<q_i, W e_m>),

where the prototype p_i is the mean text state of the places that the report names for a present
concept i and e_m are the states of seven others; ProtoCL(a) contrasts places with concepts.

Kept: all five terms with equal weights, the mask without a squashing function, one query layer for
both books: so their public code (Shef-AIRE/MeDSLIP). Departures as in `medklip`; inner products are
over the root of d (`queries.inner`); and y: the triplets here deny a concept, not a concept at a
place, so that a denied one is 0 at every place, a present one with a place is 0 at the others, the
rest is unknown. A place exists where some y is 1, does not where some is 0 and none 1 (their rule).
Classification and grounding use the pathology stream alone, as their test scripts do by default.
It trains on the views of all others; its second stream costs time, not films.
"""

import numpy as np
import torch
from torch import Tensor, nn

from rctpl_utils.baselines.queries import (
    QUERY,
    QueryBaseline,
    QueryDecoder,
    contrast_loss,
    draw_negatives,
    exist_loss,
    inner,
)
from rctpl_utils.baselines.towers import ConvTop, Setup
from rctpl_utils.baselines.training_data import Batch


class MeDSLIP(QueryBaseline):
    """See the module."""

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
        concepts, _ = self._stream(mask * x, batch.places, self.book)
        there = self.anatomy((1 - mask) * x, batch.places)
        places, _ = self.anatomy_decoder(self.enter(self.spots), there, len(self.spots))
        logits = self.exist(concepts).squeeze(-1)
        self.standard(logits.detach())  # its running means
        positions = batch.material.positions[batch.reports]
        stated = torch.from_numpy(batch.material.stated[batch.reports]).to(batch.device)
        pairs = pair_labels(stated, torch.from_numpy(positions).to(batch.device))
        generator = batch.generator
        return (
            exist_loss(logits, stated)
            + exist_loss(self.exist_there(places).squeeze(-1), place_labels(pairs))
            + prototype_loss(concepts, self.where(self.spots), positions, generator)
            + prototype_loss(places, self.what(self.book), positions.swapaxes(1, 2), generator)
            + exist_loss(inner(concepts, places.transpose(1, 2)), pairs)
        )

    def ask(self, cells: Tensor, places: Tensor, book: Tensor) -> tuple[Tensor, Tensor]:
        """See `QueryBaseline.ask`."""
        x = self.enter_mask(cells)
        answers, attention = self._stream(self.mask(x) * x, places, book)
        return self.exist(answers).squeeze(-1), attention

    def _stream(self, cells: Tensor, places: Tensor, book: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.pathology(cells, places)
        return self.pathology_decoder(self.enter(book), seen, len(self.book))


def pair_labels(stated: Tensor, positions: Tensor) -> Tensor:
    """Whether concepts are at places, as far as reports tell, see the module: (B, L, P).

    Args:
        stated: (B, L): 1 present, 0 absent, NaN unknown.
        positions: (B, L, P) bool, the named places of present concepts.
    """
    told = (stated == 0) | positions.any(dim=2)
    return positions.float().masked_fill(~told.unsqueeze(2), torch.nan)


def place_labels(pairs: Tensor) -> Tensor:
    """Whether anything is at each place: (B, L, P) to (B, P), NaN where nothing is told."""
    told = ~pairs.isnan().all(dim=1)
    return (pairs == 1).any(dim=1).float().masked_fill(~told, torch.nan)


def prototype_loss(
    answers: Tensor, others: Tensor, named: np.ndarray, generator: np.random.Generator
) -> Tensor:
    """ProtoCL of one stream; an inner product with a mean is the mean of inner products.

    Args:
        answers: (B, Q, d).
        others: W times the text states of the other stream's K names, (K, d).
        named: (B, Q, K) bool, what the report names together.
        generator: draws the negatives.
    """
    rows = named.any(axis=2)
    negatives = draw_negatives(named[rows], generator)
    positives, negatives = (
        torch.from_numpy(each).to(answers.device) for each in (named[rows], negatives)
    )
    chosen = answers[torch.from_numpy(rows).to(answers.device)]
    return contrast_loss(inner(chosen, others.T), positives, negatives)
