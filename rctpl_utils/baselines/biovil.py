"""BioViL: contrast with a text model that keeps reading words (Boecking et al., ECCV 2022).

With the projected patches v_1 ... v_M of a film, their mean v, and t a projection of a text's [CLS]
state, all of unit length, N pairs in a batch and r the words that are hidden from the text model,

    L = L_GA + lambda L_MLM
    L_GA = -(1 / 2N) sum_i [log exp(<v_i, t_i> / tau) / sum_k exp(<v_i, t_k> / tau)
                            + log exp(<v_i, t_i> / tau) / sum_k exp(<v_k, t_i> / tau)]
    L_MLM = -mean_r log p(r | the words that are left)

Kept: contrast of global vectors only, the [CLS] state, a 1 x 1 two-layer head on every patch to
d = 128, masked words beside the contrast through shared text layers, averaged prompts, native
grounding by each patch's cosine, smoothed by a Gaussian of 1.5 of their 15 cells
(health_multimodal/vlp/inference_engine.py).
Ours: tau is learned as in CLIP and lambda = 0.1, since the paper's training code is not public;
texts are whole reports (findings and impression).
Changed: words are hidden from the frozen tower once (`material.masked`), and the trainable text
layer guesses them from the states that it gives. Words are guessed over the whole vocabulary
through `NARROW` dimensions (a factorized softmax; Lan et al. 2020, section 3.1), for `GUESSED`
texts a step.
Left out: CXR-BERT's own pre-training and vocabulary, section matching, shuffled sentences, SimCLR's
start of the image model, training of the lower layers.
Fair: films, reports, frozen towers, views and rates are those of every baseline; the frozen tower's
[CLS] was not trained as a summary, which the shared text layer has to mend.
"""

from collections.abc import Sequence

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional

from rctpl_utils.baselines.base import CLASSIFY, GROUND, RETRIEVE
from rctpl_utils.baselines.towers import (
    DIMENSION,
    WIDTH,
    Baseline,
    ConvTop,
    Setup,
    TextTop,
    symmetric_loss,
)
from rctpl_utils.baselines.training_data import Batch
from rctpl_utils.encoders.word_states import Words

MASKED_WEIGHT = 0.1  # lambda
GUESSED = 8  # texts with hidden words a step
NARROW = 64
SMOOTHING = 1.5 / 15  # the Gaussian's deviation in film widths


class BioViL(Baseline):
    """See the module."""

    name = "BioViL"
    native = frozenset({CLASSIFY, GROUND, RETRIEVE})
    training_only = ("guess.",)

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.image = ConvTop(setup)
        self.image_head = _head(WIDTH)
        self.text = TextTop(setup, DIMENSION)
        self.text_head = nn.Sequential(
            nn.GELU(), nn.LayerNorm(DIMENSION), nn.Linear(DIMENSION, DIMENSION)
        )
        self.guess = nn.Sequential(
            nn.Linear(len(setup.mean), NARROW), nn.Linear(NARROW, setup.reader.vocabulary)
        )

    def loss(self, batch: Batch) -> Tensor:
        """Global alignment and masked words."""
        material = batch.material
        words = material.words.batch(material.whole[batch.reports], batch.device)
        image, _ = self.image_vectors(batch.cells, batch.places)
        aligned = symmetric_loss(self.scale * image @ self.text_vectors(words).T)
        return aligned + MASKED_WEIGHT * self.masked_loss(batch)

    def masked_loss(self, batch: Batch) -> Tensor:
        """How badly the hidden words of some random texts are guessed."""
        material = batch.material
        rows = batch.generator.choice(len(material.masked_words), GUESSED)
        words = material.masked.batch(rows, batch.device)
        hidden = torch.from_numpy(material.masked_words[rows, : words.ids.shape[1]])
        hidden = hidden.to(batch.device)
        logits = self.guess(self.text.adapt(words.states[hidden]))
        return masked_words_loss(logits, words.ids[hidden])

    def image_vectors(self, cells: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of the projected patches (B, d), and each of them (B, T, d)."""
        patches = self.image_head(self.image(cells, places))
        return tuple(functional.normalize(each, dim=-1) for each in (patches.mean(1), patches))

    def text_vectors(self, words: Words) -> Tensor:
        """The head on the text's [CLS] state (B, d)."""
        return functional.normalize(self.text_head(self.text(words.states[:, 0])), dim=-1)

    @torch.no_grad()
    def ground(self, films: Tensor, concept: str) -> Tensor:
        """The smoothed cosine of each patch and the class: (n, h, w)."""
        return smoothed(super().ground(films, concept))


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, DIMENSION), nn.LayerNorm(DIMENSION), nn.ReLU(),
        nn.Linear(DIMENSION, DIMENSION),
    )  # fmt: skip


def smoothed(maps: Tensor) -> Tensor:
    """Maps (n, h, w) under a Gaussian of `SMOOTHING` of their height and width."""
    deviations: Sequence[float] = (0, SMOOTHING * maps.shape[1], SMOOTHING * maps.shape[2])
    return torch.from_numpy(gaussian_filter(maps.cpu().numpy(), deviations)).to(maps.device)


def masked_words_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross-entropy of m hidden words, (m, vocabulary) and (m,); zero if none is hidden."""
    total = functional.cross_entropy(logits, ids, reduction="sum")
    return total / max(len(ids), 1)
