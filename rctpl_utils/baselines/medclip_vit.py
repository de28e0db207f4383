"""MedCLIP-ViT: semantic matching of unpaired images and texts (Wang et al., EMNLP 2022).

With unit vectors v_i of a film and t_j of a text that need not belong together, and label vectors
l_i and l_j of what the film's report and the text say,

    y_ij = exp <l_i, l_j> / sum_k exp <l_i, l_k>              soft targets
    p_ij = exp(<v_i, t_j> / tau) / sum_k exp(<v_i, t_k> / tau)
    L = -(1/2) mean_i sum_j y_ij log p_ij - (1/2) the same from texts to films

(medclip/losses.py of their code; their paper writes cosines of labels, whose softmax without a
temperature would be nearly even).

Kept: soft targets without a temperature, tau learned from 0.07 on, texts drawn apart from films, a
small vision transformer whose mean token is projected without a bias, mean-pooled text.
Changed: label vectors say more than 14 labels: presence and place of each concept, as what the
stand-in learned from (`pretraining_texts`). Swin's windows are plain attention over the map.
Left out: further data sets of labeled images without reports (the baselines share one set of
films), the augmented second text, training of the lower layers and of BERT.
Fair: films, texts, views and rates are those of every baseline; label vectors come from the same
triplets as all other supervision. Grounding by cosines of cells is our extension.
"""

import numpy as np
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
)
from rctpl_utils.baselines.training_data import Batch
from rctpl_utils.encoders.pretraining import semantic_matching
from rctpl_utils.encoders.word_states import Words


class MedCLIPViT(TransformerBaseline):
    """See the module."""

    name = "MedCLIP-ViT"
    native = frozenset({CLASSIFY, RETRIEVE})

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.image = PatchTransformer(setup)
        self.projection = nn.Linear(WIDTH, DIMENSION, bias=False)
        self.text = TextTop(setup)

    def loss(self, batch: Batch) -> Tensor:
        """Soft cross-entropies, both ways, with as many texts as films."""
        material = batch.material
        rows = unpaired_rows(batch)
        seen, said = (
            torch.from_numpy(each).to(batch.device)
            for each in (material.report_vectors[batch.reports], material.text_vectors[rows])
        )
        image, _ = self.image_vectors(batch.cells, batch.places)
        text = self.text_vectors(material.words.batch(rows, batch.device))
        return medclip_loss(self.scale * image @ text.T, seen, said)

    def image_vectors(self, cells: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The projected mean of the patches (B, d), and each of them (B, T, d)."""
        patches = self.projection(self.image(cells, places)[:, 1:])  # without the class token
        return tuple(functional.normalize(each, dim=-1) for each in (patches.mean(1), patches))

    def text_vectors(self, words: Words) -> Tensor:
        """The projected mean word (B, d)."""
        return functional.normalize(self.text(words.pooled()), dim=-1)


def unpaired_rows(batch: Batch) -> np.ndarray:
    """As many random sentences as films, of reports drawn as films are, but apart from them."""
    material, generator = batch.material, batch.generator
    films = generator.choice(len(material.maps), len(batch.reports), p=material.chances)
    return batch._replace(reports=material.reports[films]).sentence_rows()


def medclip_loss(logits: Tensor, seen: Tensor, said: Tensor) -> Tensor:
    """The loss of scaled cosines (B, M) given label vectors (B, V) and (M, V)."""
    return semantic_matching(logits, seen @ said.T)
