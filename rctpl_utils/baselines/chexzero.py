"""CheXzero: CLIP on chest radiographs and impressions (Tiu et al., Nature BME 2022).

With unit vectors v_i of a film and t_i of its report's impression and a learned tau, CLIP's loss
(Radford et al. 2021, figure 3)

    L = -(1 / 2N) sum_i [log exp(<v_i, t_i> / tau) / sum_k exp(<v_i, t_k> / tau)
                         + log exp(<v_i, t_i> / tau) / sum_k exp(<v_k, t_i> / tau)]

and, with t+ of "{name}" and t- of "no {name}", the zero-shot score of a class

    p = exp <v, t+> / (exp <v, t+> + exp <v, t->)

without tau (zero_shot.py of their code).

Kept: the loss, the impression as text (the whole report where it has none, since all baselines see
the same films), a vision transformer's class token, the learned temperature, the pair of prompts.
Changed: text is the frozen tower's mean word rather than the last token's state, which its
pre-training never used. In a softmax over kinds of film p is multiplied with 4 / tau: as
p = 1/2 + (<v, t+> - <v, t->) / 4 up to a term of third order, this compares the kinds by how much
their positive prompts beat their negative ones, at the temperature of training.
Left out: CLIP's weights as a start, training of the lower layers and of the text model, SGD (the
shared loop's AdamW), averaging of several checkpoints.
Fair: films, frozen towers, views and rates are those of every baseline. Grounding by cosines of
patches is our extension.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from rctpl_utils.baselines.base import CLASSIFY, RETRIEVE
from rctpl_utils.baselines.towers import (
    DIMENSION,
    WIDTH,
    PatchTransformer,
    Setup,
    TextTop,
    TransformerBaseline,
    symmetric_loss,
)
from rctpl_utils.baselines.training_data import Batch
from rctpl_utils.encoders.word_states import Words
from rctpl_utils.vocabulary import prompt_name

POSITIVE, NEGATIVE = "{}", "no {}"


class CheXzero(TransformerBaseline):
    """See the module."""

    name = "CheXzero"
    native = frozenset({CLASSIFY, RETRIEVE})

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.image = PatchTransformer(setup)
        self.projection = nn.Linear(WIDTH, DIMENSION, bias=False)
        self.text = TextTop(setup)

    @property
    def sharpness(self) -> float:
        """Four times the learned scale, since scores are probabilities near 1/2."""
        return 4 * super().sharpness

    def loss(self, batch: Batch) -> Tensor:
        """CLIP's symmetric cross-entropy."""
        material = batch.material
        words = material.words.batch(material.impressions[batch.reports], batch.device)
        image, _ = self.image_vectors(batch.cells, batch.places)
        return symmetric_loss(self.scale * image @ self.text_vectors(words).T)

    def image_vectors(self, cells: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The projected class token (B, d) and patches (B, T, d)."""
        tokens = functional.normalize(self.projection(self.image(cells, places)), dim=-1)
        return tokens[:, 0], tokens[:, 1:]

    def text_vectors(self, words: Words) -> Tensor:
        """The projected mean word (B, d)."""
        return functional.normalize(self.text(words.pooled()), dim=-1)

    @torch.no_grad()
    def classify(self, films: Tensor, concepts: Sequence[str]) -> Tensor:
        """The probability of each class against its absence: (n, L)."""
        image = self.film_vectors(films)[0]
        positive, negative = (
            self.text_vectors(self.read([prompt.format(prompt_name(c)) for c in concepts]))
            for prompt in (POSITIVE, NEGATIVE)
        )
        return pair_probability(image @ positive.T, image @ negative.T)


def pair_probability(positive: Tensor, negative: Tensor) -> Tensor:
    """The softmax over a pair of cosines, its first part; any shape."""
    return torch.stack([positive, negative]).softmax(dim=0)[0]
