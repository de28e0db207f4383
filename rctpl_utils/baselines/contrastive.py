"""ConVIRT, MedCLIP-ViT, BioViL and CheXzero: contrast of whole films and whole texts.

Films, reports, frozen lower layers and text model, views and learning rates are the same for all;
left out for all is training of the lower layers and of the text model.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional

from rctpl_utils.baselines.base import CLASSIFY, GROUND, RETRIEVE
from rctpl_utils.baselines.model import (
    DIMENSION,
    WIDTH,
    Baseline,
    ConvTop,
    Setup,
    TextTop,
    TransformerBaseline,
    symmetric_loss,
)
from rctpl_utils.baselines.training_data import Batch
from rctpl_utils.encoders.features import Words
from rctpl_utils.encoders.pretraining import semantic_matching

TEMPERATURE = 0.1  # tau of ConVIRT
IMAGE_WEIGHT = 0.75  # lambda of ConVIRT
MASKED_WEIGHT = 0.1  # lambda of BioViL
GUESSED = 8  # texts with hidden words a step
NARROW = 64  # dimensions through which hidden words are guessed
SMOOTHING = 1.5 / 15  # the Gaussian's deviation in film widths


class ConVIRT(Baseline):
    """Contrastive learning from paired images and text (Zhang et al., MLHC 2022).

    With v_i and u_i the unit vectors of film i and of a random sentence of its report, tau = 0.1
    and lambda = 0.75 (their sections 2.2 and 4.1),

        L = mean_i [lambda l_i(v -> u) + (1 - lambda) l_i(u -> v)],
        l_i(v -> u) = -log exp(<v_i, u_i> / tau) / sum_k exp(<v_i, u_k> / tau).

    Kept: loss and weights, the random sentence, mean pooling, a two-layer head on each side.
    Left out: augmentation (the view's random cells take its place). Grounding by cosines of cells
    is our extension.
    """

    name = "ConVIRT"
    published = frozenset({CLASSIFY, RETRIEVE})

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
    return symmetric_loss(image @ text.T / TEMPERATURE, IMAGE_WEIGHT)


class MedCLIPViT(TransformerBaseline):
    """Semantic matching of unpaired images and texts (Wang et al., EMNLP 2022).

    With unit vectors v_i of a film and t_j of a text that need not belong together, and label
    vectors l_i and l_j of what the film's report and the text say,

        y_ij = exp <l_i, l_j> / sum_k exp <l_i, l_k>              soft targets
        p_ij = exp(<v_i, t_j> / tau) / sum_k exp(<v_i, t_k> / tau)
        L = -(1/2) mean_i sum_j y_ij log p_ij - (1/2) the same from texts to films

    (medclip/losses.py; their paper writes cosines of labels, whose softmax would be nearly even).

    Kept: tau learned from 0.07 on, texts drawn apart from films, a small vision transformer whose
    mean token is projected without a bias, mean-pooled text. Changed: label vectors say presence
    and place of each concept (`pretraining`); Swin's windows are plain attention. Left out:
    films without reports, the augmented second text. Grounding by cosines is our extension.
    """

    name = "MedCLIP-ViT"
    published = frozenset({CLASSIFY, RETRIEVE})

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
        return semantic_matching(self.scale * image @ text.T, seen @ said.T)

    def image_vectors(self, cells: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The projected mean of the patches (B, d), and each of them (B, T, d)."""
        patches = self.projection(self.image(cells, places)[:, 1:])  # without the class token
        return tuple(functional.normalize(each, dim=-1) for each in (patches.mean(1), patches))


def unpaired_rows(batch: Batch) -> np.ndarray:
    """As many random sentences as films, of reports drawn as films are, but apart from them."""
    material, generator = batch.material, batch.generator
    films = generator.choice(len(material.maps), len(batch.reports), p=material.chances)
    return batch._replace(reports=material.reports[films]).sentence_rows()


class BioViL(Baseline):
    """Contrast with a text model that keeps reading words (Boecking et al., ECCV 2022).

    With the projected patches v_1 ... v_M of a film, their mean v, and t a projection of a text's
    [CLS] state, all of unit length, and r the words that are hidden from the text model,

        L = L_GA + lambda L_MLM,    L_MLM = -mean_r log p(r | the words that are left)

    with L_GA the symmetric InfoNCE of <v_i, t_k> / tau.

    Kept: contrast of global vectors only, the [CLS] state, a two-layer head on every patch to
    d = 128, masked words through shared text layers, averaged prompts, grounding by each patch's
    cosine, smoothed by a Gaussian of 1.5 of their 15 cells
    (health_multimodal/vlp/inference_engine.py). Ours, as their training code is not public: tau is
    learned as in CLIP, lambda = 0.1, texts are whole reports. Changed: words are hidden from the
    frozen text model once (`Material.masked`) and guessed over the whole vocabulary through
    `NARROW` dimensions (Lan et al. 2020, section 3.1), for `GUESSED` texts a step. Left out:
    CXR-BERT's pre-training and vocabulary, section matching, SimCLR's start of the image model.
    """

    name = "BioViL"
    published = frozenset({CLASSIFY, GROUND, RETRIEVE})
    training_only = ("guess.",)

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.image = ConvTop(setup)
        self.image_head = nn.Sequential(
            nn.Linear(WIDTH, DIMENSION), nn.LayerNorm(DIMENSION), nn.ReLU(),
            nn.Linear(DIMENSION, DIMENSION),
        )  # fmt: skip
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
        rows = batch.generator.choice(len(material.masked_words), GUESSED)
        words = material.masked.batch(rows, batch.device)
        hidden = torch.from_numpy(material.masked_words[rows, : words.ids.shape[1]])
        hidden = hidden.to(batch.device)
        logits = self.guess(self.text.adapt(words.states[hidden]))
        return aligned + MASKED_WEIGHT * masked_words_loss(logits, words.ids[hidden])

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


def smoothed(maps: Tensor) -> Tensor:
    """Maps (n, h, w) under a Gaussian of `SMOOTHING` of their height and width."""
    deviations = (0, SMOOTHING * maps.shape[1], SMOOTHING * maps.shape[2])
    return torch.from_numpy(gaussian_filter(maps.cpu().numpy(), deviations)).to(maps.device)


def masked_words_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross-entropy of m hidden words, (m, vocabulary) and (m,); zero if none is hidden."""
    total = functional.cross_entropy(logits, ids, reduction="sum")
    return total / max(len(ids), 1)


class CheXzero(TransformerBaseline):
    """CLIP on chest radiographs and impressions (Tiu et al., Nature BME 2022).

    CLIP's loss (Radford et al. 2021, figure 3), the symmetric InfoNCE of <v_i, t_k> / tau for unit
    vectors v_i of a film and t_i of its report's impression; and, with t+ of "{name}" and t- of
    "no {name}", the zero-shot score of a class without tau (zero_shot.py of their code)

        p = exp <v, t+> / (exp <v, t+> + exp <v, t->).

    Kept: the impression as text (the whole report where it has none), a vision transformer's class
    token, the learned temperature, the pair of prompts. Changed: text is the frozen model's mean
    word rather than the last token's state. Left out: CLIP's weights as a start, SGD, averaging of
    checkpoints. Grounding by cosines of patches is our extension.
    """

    name = "CheXzero"
    published = frozenset({CLASSIFY, RETRIEVE})

    def loss(self, batch: Batch) -> Tensor:
        """CLIP's symmetric cross-entropy."""
        material = batch.material
        words = material.words.batch(material.impressions[batch.reports], batch.device)
        image, _ = self.image_vectors(batch.cells, batch.places)
        return symmetric_loss(self.scale * image @ self.text_vectors(words).T)

    @torch.no_grad()
    def classify(self, films: Tensor, concepts: Sequence[str]) -> Tensor:
        """The probability of each class against its absence: (n, L)."""
        image = self.film_vectors(films)[0]
        positive, negative = (
            image @ self.text_vectors(self.read_names(concepts, phrase)).T
            for phrase in ("{}", "no {}")
        )
        return pair_probability(positive, negative)


def pair_probability(positive: Tensor, negative: Tensor) -> Tensor:
    """The softmax over a pair of cosines, its first part; any shape."""
    return torch.stack([positive, negative]).softmax(dim=0)[0]
