"""MedKLIP: medical knowledge enhanced language-image pre-training (Wu et al., ICCV 2023).

Reports become triplets {entity, position, exist}. The descriptions of the Q entities, through the
frozen text tower, are the queries of a decoder over the film's cells; s_i is the exist logit of
answer i, l_i in {0, 1} what the report says of entity i, and p_i+ the text state of a position that
it names for a present entity, p_m those of seven others:

    L = mean_i -[l_i log sigma(s_i) + (1 - l_i) log(1 - sigma(s_i))]         (unmentioned: masked)
      + mean_i -log exp<q_i, W p_i+> / (exp<q_i, W p_i+> + sum_m exp<q_i, W p_m>).

Kept: the unweighted sum, the masks, the 1 : 7 draw, descriptions of any concept at test time (an
unseen one joins the book of queries), the mean attention as heat map. Their exist head has two
outputs and a softmax, which is sigma of the difference. Ours: concepts and places of this package
for their 75 and 51, our descriptions, the mean word state for [CLS], 2 decoder layers of width 64
(inner layer 128) for 4 of width 256 (1024), inner products over the root of d (`queries.inner`), no
dropout, W on the positions' side (theirs is on the answers': the same bilinear form); negatives are
never a place that the report names, while in their code they may be. Left out: training of the
lower layers and augmentation; both hold for every baseline here. A concept that reports never deny
has no negative label, here as there. Retrieval is our extension (`queries`).
"""

import torch
from torch import Tensor, nn

from rctpl_utils.baselines.queries import (
    QUERY,
    QueryBaseline,
    QueryDecoder,
    contrast_loss,
    draw_negatives,
    draw_positive,
    exist_loss,
    inner,
)
from rctpl_utils.baselines.towers import ConvTop, Setup
from rctpl_utils.baselines.training_data import Batch


class MedKLIP(QueryBaseline):
    """See the module."""

    name = "MedKLIP"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.image = ConvTop(setup)
        self.decoder = QueryDecoder()
        self.where = nn.Linear(len(setup.mean), QUERY, bias=False)  # W

    def loss(self, batch: Batch) -> Tensor:
        """Existence and position."""
        answers, _ = self.answers(batch.cells, batch.places, self.book)
        logits = self.exist(answers).squeeze(-1)
        self.standard(logits.detach())  # its running means
        stated = torch.from_numpy(batch.material.stated[batch.reports]).to(batch.device)
        positions = batch.material.positions[batch.reports]
        located = positions.any(axis=2)
        named = positions[located]
        positives = draw_positive(named, batch.generator)
        negatives = draw_negatives(named, batch.generator)
        return exist_loss(logits, stated) + contrast_loss(
            inner(answers[torch.from_numpy(located).to(batch.device)], self.where(self.spots).T),
            torch.from_numpy(positives).to(batch.device),
            torch.from_numpy(negatives).to(batch.device),
        )

    def answers(self, cells: Tensor, places: Tensor, book: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's answers (B, Q, d) and attention (B, Q, T)."""
        return self.decoder(self.enter(book), self.image(cells, places), len(self.book))

    def ask(self, cells: Tensor, places: Tensor, book: Tensor) -> tuple[Tensor, Tensor]:
        """See `QueryBaseline.ask`."""
        answers, attention = self.answers(cells, places, book)
        return self.exist(answers).squeeze(-1), attention
