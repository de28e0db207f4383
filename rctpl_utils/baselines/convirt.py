"""ConVIRT: contrastive learning from paired images and text (Zhang et al., MLHC 2022).

With v_i and u_i the unit vectors of film i and of a random sentence of its report, tau = 0.1 and
lambda = 0.75 (their section 2.2 and 4.1),

    L = mean_i [lambda l_i(v -> u) + (1 - lambda) l_i(u -> v)],
    l_i(v -> u) = -log exp(<v_i, u_i> / tau) / sum_k exp(<v_i, u_k> / tau).

Kept: the loss and its weights, the random sentence, mean pooling, a two-layer head on each side.
Left out: training of the lower layers and of BERT, image augmentation (the view's random cells take
its place); both hold for every baseline here. Grounding by cosines of cells is our extension.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from rctpl_utils.baselines.base import CLASSIFY, RETRIEVE
from rctpl_utils.baselines.towers import DIMENSION, WIDTH, Baseline, ConvTop, Setup, TextTop
from rctpl_utils.baselines.training_data import Batch
from rctpl_utils.encoders.word_states import Words

TEMPERATURE = 0.1  # tau
IMAGE_WEIGHT = 0.75  # lambda


class ConVIRT(Baseline):
    """See the module."""

    name = "ConVIRT"
    native = frozenset({CLASSIFY, RETRIEVE})
    sharpness = 1 / TEMPERATURE

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.image = ConvTop(setup)
        self.image_head = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, DIMENSION)
        )
        self.text = TextTop(setup, WIDTH)
        self.text_head = nn.Sequential(nn.ReLU(), nn.Linear(WIDTH, DIMENSION))

    def loss(self, batch: Batch) -> Tensor:
        """The weighted bidirectional InfoNCE."""
        words = batch.material.words.batch(batch.sentence_rows(), batch.device)
        image, _ = self.image_vectors(batch.cells, batch.places)
        return convirt_loss(image, self.text_vectors(words))

    def image_vectors(self, cells: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The head on the cells' mean (B, d) and on each cell (B, T, d)."""
        features = self.image(cells, places)
        both = (self.image_head(features.mean(dim=1)), self.image_head(features))
        return tuple(functional.normalize(each, dim=-1) for each in both)

    def text_vectors(self, words: Words) -> Tensor:
        """The head on the text's mean word (B, d)."""
        return functional.normalize(self.text_head(self.text(words.pooled())), dim=-1)


def convirt_loss(image: Tensor, text: Tensor) -> Tensor:
    """The loss of B matching unit vectors (B, d) each (Zhang et al., Eq. 2 to 4)."""
    logits = image @ text.T / TEMPERATURE
    target = torch.arange(len(logits), device=logits.device)
    forth = functional.cross_entropy(logits, target)
    back = functional.cross_entropy(logits.T, target)
    return IMAGE_WEIGHT * forth + (1 - IMAGE_WEIGHT) * back
